"""Anthropic messages: what is written is read back the same, signed thoughts go back word for word, faults name fields."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from msgspec.structs import replace
from wire_cases import SHELF, answers, requests, same

from phronesis.chat.wire import anthropic_messages as wire
from phronesis.chat.wire.anthropic_stream import MessageReader, stream_answer, stream_error
from phronesis.chat.wire.exchange import ChatRequest
from phronesis.chat.wire.sse import ServerEvent
from phronesis.errors import WireError
from phronesis.policy import Answer
from phronesis.records import Finish, Message, TextPart, ToolCall, ToolSpec, Usage, say

ADD = ToolSpec(name="add", description="Adds.", parameters={"type": "object", "properties": {}})


def over_the_wire(value: object) -> Any:
    return json.loads(msgspec.json.encode(value))


@given(requests())
def test_a_request_is_read_back_as_it_was_written(request: ChatRequest):
    body = over_the_wire(wire.write_request(request, images=SHELF, thoughts=True))
    back = wire.read_request(body, images=SHELF)
    assert [same(m) for m in back.messages] == [same(m) for m in request.messages]
    assert replace(back, messages=(), stream_usage=False) == replace(request, messages=())


@given(answers())
def test_an_answer_is_read_back_as_it_was_written(answer: Answer):
    assert wire.read_answer(over_the_wire(wire.write_answer(answer))) == answer


@given(answers())
def test_a_streamed_answer_is_the_whole_answer(answer: Answer):
    reader = MessageReader()
    for event in stream_answer(answer, size=3):
        assert json.loads(event.data)["type"] == event.name
        reader.read(event)
    assert reader.complete and reader.answer() == answer


def test_tool_results_and_the_user_message_after_them_are_one_message():
    messages = (
        say("system", "Be brief."),
        say("user", "2+3 and 1+1?"),
        Message(
            role="assistant",
            content=(TextPart(text="Let me see."),),
            thought="easy",
            tool_calls=tuple(ToolCall(id=f"c{i}", name="add", arguments={"a": i}) for i in (1, 2)),
        ),
        Message(role="tool", content=(TextPart(text="5"),), tool_call_id="c1", name="add"),
        Message(role="tool", tool_call_id="c2", name="add"),
        say("user", "Well?"),
    )
    request = ChatRequest(model="m", messages=messages, tools=(ADD,), tool_mode="required", parallel_calls=False, max_tokens=9)
    assert wire.write_request(request) == {
        "model": "m",
        "max_tokens": 9,
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "2+3 and 1+1?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
                    {"type": "tool_use", "id": "c2", "name": "add", "input": {"a": 2}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "5"},
                    {"type": "tool_result", "tool_use_id": "c2"},
                    {"type": "text", "text": "Well?"},
                ],
            },
        ],
        "tools": [{"name": "add", "description": "Adds.", "input_schema": ADD.parameters}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }


def test_a_message_without_content_still_says_something():
    sent = wire.write_request(ChatRequest(model="m", messages=(say("user", ""),), max_tokens=1))["messages"]
    assert sent == [{"role": "user", "content": "(nothing)"}]


SIGNED = [
    {"type": "thinking", "thinking": "first", "signature": "sig-1"},
    {"type": "redacted_thinking", "data": "opaque"},
]


def test_signed_thoughts_go_back_word_for_word():
    body = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use", "stop_sequence": None,
        "content": [*SIGNED, {"type": "tool_use", "id": "t1", "name": "add", "input": {}}],
        "usage": {"input_tokens": 3, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 7, "output_tokens": 5,
                  "output_tokens_details": {"thinking_tokens": 4}},
    }  # fmt: skip
    answer, blocks = wire.read_answer(body), wire.thinking_blocks(body)
    assert (answer.message.thought, list(blocks)) == ("first", SIGNED)
    assert answer.usage == Usage(input_tokens=100, output_tokens=5, cached_tokens=90, written_tokens=7, thought_tokens=4)
    request = ChatRequest(model="m", messages=(say("user", "x"), answer.message), max_tokens=1)
    sent = wire.write_request(request, sealed=lambda m: blocks if m == answer.message else None)["messages"][1]["content"]
    assert sent == [*SIGNED, {"type": "tool_use", "id": "t1", "name": "add", "input": {}}]


def test_a_stream_gives_the_signed_thoughts_too():
    def event(kind: str, **fields: object) -> ServerEvent:
        return ServerEvent(json.dumps({"type": kind, **fields}), kind)

    reader = MessageReader(turn=2)
    for sent in (
        event("message_start", message={"id": "msg_1", "model": "m", "usage": {"input_tokens": 10, "output_tokens": 1}}),
        event("ping"),
        event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}),
        event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "fir"}),
        event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "st"}),
        event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "sig-1"}),
        event("content_block_stop", index=0),
        event("content_block_start", index=1, content_block={"type": "redacted_thinking", "data": "opaque"}),
        event("content_block_start", index=2, content_block={"type": "tool_use", "id": "t1", "name": "add", "input": {}}),
        event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": '{"a": '}),
        event("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": "1}"}),
        event("some_new_event", index=2),
        event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 25}),
        event("message_stop"),
    ):
        reader.read(sent)
    answer = reader.answer()
    assert list(reader.blocks) == SIGNED and answer.message.thought == "first"
    assert [(c.id, c.arguments) for c in answer.message.tool_calls] == [("t1", {"a": 1})]
    assert answer.usage == Usage(input_tokens=10, output_tokens=25)


def test_why_an_answer_ended():
    def ended(finish: Finish) -> Finish:
        answer = Answer(message=say("assistant", "x"), finish=finish)
        return wire.read_answer(wire.write_answer(answer)).finish

    assert [ended(f) for f in (Finish.stop, Finish.length, Finish.context, Finish.refused)] == [
        Finish.stop, Finish.length, Finish.context, Finish.refused,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://a"}}]}]},
            "messages[0].content[0].source.type",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": []}]}]},
            "messages[0].content[0].input",
        ),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "sub"}}, "tool_choice.name"),
    ],
)
def test_a_malformed_request_names_its_field(change: dict[str, Any], field: str):
    with pytest.raises(WireError) as caught:
        tools = [] if change.get("tool_choice") == {"type": "any"} else [{"name": "add", "input_schema": {"type": "object"}}]
        wire.read_request(
            {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}], "tools": tools} | change
        )
    assert caught.value.field == field


def test_an_error_in_mid_stream_is_one():
    with pytest.raises(WireError, match="overloaded") as caught:
        MessageReader().read(stream_error("overloaded", "overloaded_error"))
    assert caught.value.field == "error"
