"""OpenAI Responses: what is written is read back the same, streams hold the whole answer, faults name their field."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from msgspec.structs import replace
from wire_cases import SHELF, answers, requests, same

from phronesis.chat.wire import openai_responses as wire
from phronesis.chat.wire.exchange import ChatRequest, Gather
from phronesis.chat.wire.responses_stream import ResponseReader, stream_answer, stream_error
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
    assert replace(back, messages=(), stream_usage=False) == replace(request, messages=(), stop=(), top_k=None)


@given(answers())
def test_an_answer_is_read_back_as_it_was_written(answer: Answer):
    assert wire.read_answer(over_the_wire(wire.write_answer(answer, created=1))) == answer


@given(answers())
def test_a_streamed_answer_is_the_whole_answer_and_so_are_its_pieces(answer: Answer):
    reader, gather, numbers = ResponseReader(), Gather(), list[int]()
    for event in stream_answer(answer, created=1, size=3):
        fields = json.loads(event.data)
        assert fields["type"] == event.name
        numbers.append(fields["sequence_number"])
        gather.take_all(reader.read(event))
    assert numbers == list(range(len(numbers)))
    assert reader.complete and reader.answer() == answer == gather.answer("m", "answer-1")


def test_the_request_of_a_tool_loop_in_full():
    messages = (
        say("system", "Be brief."),
        say("user", "2+3?"),
        Message(role="assistant", thought="easy", tool_calls=(ToolCall(id="c1", name="add", arguments={"a": 2}),)),
        Message(role="tool", content=(TextPart(text="5"),), tool_call_id="c1", name="add"),
    )
    request = ChatRequest(model="m", messages=messages, tools=(ADD,), tool_mode="required", tool_name="add", max_tokens=9)
    assert wire.write_request(request) == {
        "model": "m",
        "store": False,
        "max_output_tokens": 9,
        "input": [
            {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "2+3?"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "easy"}]},
            {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a":2}'},
            {"type": "function_call_output", "call_id": "c1", "output": "5"},
        ],
        "tools": [{"type": "function", "name": "add", "description": "Adds.", "parameters": ADD.parameters}],
        "tool_choice": {"type": "function", "name": "add"},
    }


def test_a_bare_text_and_instructions_are_a_conversation():
    request = wire.read_request({"model": "m", "input": "hello", "instructions": "Be kind."})
    assert request.messages == (say("system", "Be kind."), say("user", "hello"))


def test_an_answer_as_the_provider_sends_it():
    body = {
        "id": "resp_1", "model": "m-2", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
        "output": [
            {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "look"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So", "annotations": []}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"},
        ],
        "usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 3,
                  "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 12},
    }  # fmt: skip
    answer = wire.read_answer(body)
    assert (answer.message.thought, answer.message.text, answer.finish) == ("look", "So", Finish.length)
    assert answer.message.tool_calls[0].raw == "{" and "not valid JSON" in (answer.message.tool_calls[0].error or "")
    assert answer.usage == Usage(input_tokens=9, output_tokens=3, cached_tokens=4, thought_tokens=2)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call_output", "output": "5"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call", "arguments": "{}"}]}, "input[0].name"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
        ({"previous_response_id": "r"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_a_malformed_request_names_its_field(change: dict[str, Any], field: str):
    with pytest.raises(WireError) as caught:
        wire.read_request({"model": "m", "input": "x"} | change)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (stream_error("overloaded"), "the server broke off: overloaded"),
        (ServerEvent('{"type": "response.failed", "response": {"error": {"message": "gone"}}}'), "the server broke off: gone"),
        (
            ServerEvent('{"type": "response.function_call_arguments.delta", "output_index": 3, "delta": "{"}'),
            "which is no call",
        ),
        (ServerEvent('{"type": "response.new_event"}'), "ended without a completed response"),
    ],
)
def test_a_stream_that_goes_wrong_says_how(event: ServerEvent, problem: str):
    reader = ResponseReader()
    with pytest.raises(WireError, match=problem):
        reader.read(event)
        reader.answer()
