"""OpenAI chat completions: what is written is read back the same, and what is malformed names its field."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from msgspec.structs import replace
from wire_cases import SHELF, answers, requests, same

from phronesis.chat.wire import openai_chat as wire
from phronesis.chat.wire.exchange import ChatRequest
from phronesis.chat.wire.openai_stream import DONE, ChunkReader, stream_answer, stream_error
from phronesis.chat.wire.sse import ServerEvent
from phronesis.errors import WireError
from phronesis.policy import Answer
from phronesis.records import Finish, Message, TextPart, ToolCall, ToolSpec, Usage, say

ADD = ToolSpec(name="add", description="Adds.", parameters={"type": "object", "properties": {}})


def over_the_wire(value: object) -> Any:
    return json.loads(msgspec.json.encode(value))


@given(requests())
def test_a_request_is_read_back_as_it_was_written(request: ChatRequest):
    back = wire.read_request(over_the_wire(wire.write_request(request, images=SHELF)), images=SHELF)
    assert [same(m) for m in back.messages] == [same(m) for m in request.messages]
    assert replace(back, messages=()) == replace(request, messages=())


@given(answers())
def test_an_answer_is_read_back_as_it_was_written(answer: Answer):
    answer = replace(answer, usage=replace(answer.usage, written_tokens=0))
    assert wire.read_answer(over_the_wire(wire.write_answer(answer, created=1))) == answer


@given(answers())
def test_a_streamed_answer_is_the_whole_answer(answer: Answer):
    answer = replace(answer, usage=replace(answer.usage, written_tokens=0))
    reader = ChunkReader()
    for event in stream_answer(answer, created=1, usage=True, size=3):
        reader.read(event)
    assert reader.done and reader.answer() == answer


def test_the_request_of_a_tool_loop_in_full():
    messages = (
        say("system", "Be brief."),
        say("user", "2+3?"),
        Message(role="assistant", thought="easy", tool_calls=(ToolCall(id="c1", name="add", arguments={"a": 2}),)),
        Message(role="tool", content=(TextPart(text="5"),), tool_call_id="c1", name="add"),
    )
    request = ChatRequest(
        model="m", messages=messages, tools=(ADD,), tool_name="add", tool_mode="required", max_tokens=9, temperature=0.0,
        stream=True, stream_usage=True,
    )  # fmt: skip
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":2}'}}
    assert wire.write_request(request, limit_field="max_completion_tokens") == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "2+3?"},
            {"role": "assistant", "content": None, "reasoning_content": "easy", "tool_calls": [call]},
            {"role": "tool", "content": "5", "tool_call_id": "c1"},
        ],
        "tools": [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": ADD.parameters}}],
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "max_completion_tokens": 9,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert "reasoning_content" not in wire.write_message(messages[2], thoughts=False)


def test_an_answer_as_servers_send_it():
    body = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m-2024",
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
            "role": "assistant", "content": None, "reasoning": "look it up",
            "tool_calls": [
                {"id": "", "type": "function", "function": {"name": "find", "arguments": '{"q": "x"}'}},
                {"id": "c9", "type": "function", "function": {"name": "find", "arguments": '{"q": '}},
            ]}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
                  "prompt_tokens_details": {"cached_tokens": 64}, "completion_tokens_details": {"reasoning_tokens": 12}},
    }  # fmt: skip
    answer = wire.read_answer(body, turn=3)
    first, second = answer.message.tool_calls
    assert (answer.message.thought, answer.finish, answer.model) == ("look it up", Finish.stop, "m-2024")
    assert (first.id, first.arguments) == ("call_3_0", {"q": "x"})
    assert (second.id, second.raw, second.arguments) == ("c9", '{"q": ', {}) and "not valid JSON" in (second.error or "")
    assert answer.usage == Usage(input_tokens=100, output_tokens=20, cached_tokens=64, thought_tokens=12)


def test_a_refusal_is_said_and_counts_as_refused():
    body = {"choices": [{"finish_reason": "stop", "message": {"content": None, "refusal": "I will not."}}]}
    answer = wire.read_answer(body)
    assert (answer.message.text, answer.finish) == ("I will not.", Finish.refused)


def test_a_malformed_call_is_text_in_an_answer_and_an_object_in_a_request():
    broken = ToolCall(id="c", name="add", arguments={}, error="no JSON", raw='<tool_call>{"na</tool_call>')
    message = Message(role="assistant", content=(TextPart(text="So: "),), tool_calls=(broken,))
    said = wire.write_answer(Answer(message=message, finish=Finish.stop), created=0)["choices"][0]
    assert said["message"] == {"role": "assistant", "content": 'So: <tool_call>{"na</tool_call>'}
    assert said["finish_reason"] == "stop"
    sent = wire.write_message(message)["tool_calls"][0]["function"]
    assert json.loads(sent["arguments"]) == {"malformed": broken.raw}


def test_call_fragments_without_index_are_told_apart_by_id():
    def chunk(*calls: dict[str, Any]) -> ServerEvent:
        return ServerEvent(json.dumps({"choices": [{"delta": {"tool_calls": list(calls)}}]}))

    reader = ChunkReader()
    reader.read(chunk({"id": "a", "function": {"name": "f", "arguments": ""}}))
    reader.read(chunk({"function": {"arguments": '{"x"'}}))
    reader.read(chunk({"function": {"arguments": ": 1}"}}))
    reader.read(chunk({"id": "b", "function": {"name": "g", "arguments": "{}"}}))
    assert not reader.complete
    reader.read(ServerEvent('{"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}'))
    assert [(c.id, c.name, c.arguments) for c in reader.answer().message.tool_calls] == [("a", "f", {"x": 1}), ("b", "g", {})]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": ["hello"]}, "messages[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"description": "x"}}]}, "tools[0].function.name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "sub"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"stop": ["a", 1]}, "stop[1]"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_a_malformed_request_names_its_field(change: dict[str, Any], field: str):
    with pytest.raises(WireError) as caught:
        wire.read_request({"model": "m", "messages": [{"role": "user", "content": "x"}]} | change)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], ""),
        ({}, "choices"),
        ({"choices": [{}]}, "choices[0].message"),
        ({"choices": [{"message": {"content": "x"}}]}, "choices[0].finish_reason"),
        ({"choices": [{"message": {"content": "x"}, "finish_reason": "bored"}]}, "choices[0].finish_reason"),
        ({"error": {"message": "no such model"}}, "error"),
        (
            {"choices": [{"message": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": -1}},
            "usage.prompt_tokens",
        ),
    ],
)
def test_a_malformed_answer_names_its_field(body: object, field: str):
    with pytest.raises(WireError) as caught:
        wire.read_answer(body)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ([ServerEvent("{not json")], "not JSON"),
        ([stream_error("overloaded")], "the server broke off: overloaded"),
        ([ServerEvent('{"choices": [{"delta": {"content": "hal"}}]}'), DONE], "the stream ended without one"),
        (
            [ServerEvent('{"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}}]}')],
            "expected a text in the call's first piece",
        ),
    ],
)
def test_a_stream_that_goes_wrong_says_how(events: list[ServerEvent], problem: str):
    reader = ChunkReader()
    with pytest.raises(WireError, match=problem):
        for event in events:
            reader.read(event)
        reader.answer()
