"""A model behind an endpoint that plays `guess` perfectly, and a way to make the endpoint misbehave.

It bisects, so it earns 0.81 on average over the ten numbers, exactly and whatever the format, as long as nothing of a
conversation is lost, doubled or mixed up on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
from scripted_server import Heard, Said

from phronesis.chat.wire import (
    anthropic_messages,
    anthropic_stream,
    openai_chat,
    openai_responses,
    openai_stream,
    responses_stream,
)
from phronesis.chat.wire.exchange import ChatRequest
from phronesis.chat.wire.sse import ServerEvent, encode
from phronesis.policy import Answer
from phronesis.records import Finish, Message, ToolCall, Usage

OPTIMUM = 0.81


def bisect(request: ChatRequest) -> Message:
    """The next guess after all that was answered."""
    low, high, asked = 0, 9, dict[str, int]()
    for message in request.messages:
        for call in message.tool_calls:
            asked[call.id] = call.arguments["number"]
        if message.role == "tool":
            number = asked[message.tool_call_id or ""]
            low, high = {"higher": (number + 1, high), "lower": (low, number - 1)}.get(message.text, (number, number))
    assert [tool.name for tool in request.tools] == ["guess"]
    number = (low + high) // 2
    call = ToolCall(id=f"call_{len(asked)}", name="guess", arguments={"number": number})
    return Message(role="assistant", thought=f"between {low} and {high}", tool_calls=(call,))


class Oracle:
    """Answers requests of both formats. Every n-th request that was not asked before meets the next of the `faults`; asked
    again, it is answered."""

    def __init__(self, faults: Sequence[Said | Callable[[Said], Said]] = (), every: int = 3):
        self.faults, self.every = list(faults), every
        self.asked = self.faulted = 0
        self.requests: list[ChatRequest] = []
        self._heard: set[bytes] = set()

    def __call__(self, heard: Heard) -> Said:
        self.asked += 1
        said = self.answer(heard)
        known = len(self._heard)
        self._heard.add(msgspec.json.encode(heard.body))
        if self.faults and len(self._heard) > known and known % self.every == 0:
            fault = self.faults[self.faulted % len(self.faults)]
            self.faulted += 1
            return fault(said) if callable(fault) else fault
        return said

    def answer(self, heard: Heard) -> Said:
        """What a server in order says."""
        kind = heard.path.rpartition("/")[2]
        request = {
            "messages": anthropic_messages.read_request,
            "responses": openai_responses.read_request,
            "completions": openai_chat.read_request,
        }[kind](heard.body)
        self.requests.append(request)
        usage = Usage(input_tokens=100, output_tokens=10, cached_tokens=60)
        answer = Answer(message=bisect(request), finish=Finish.stop, usage=usage, model="oracle-1", id="a")
        if not request.stream:
            whole = {
                "messages": lambda: anthropic_messages.write_answer(answer),
                "responses": lambda: openai_responses.write_answer(answer, created=0),
                "completions": lambda: openai_chat.write_answer(answer, created=0),
            }
            return Said(body=msgspec.to_builtins(whole[kind]()))
        sent = {
            "messages": lambda: anthropic_stream.stream_answer(answer, size=4),
            "responses": lambda: responses_stream.stream_answer(answer, created=0, size=4),
            "completions": lambda: openai_stream.stream_answer(answer, created=0, usage=True, size=4),
        }
        return stream(*sent[kind]())


def stream(*sent: ServerEvent) -> Said:
    """An answer of these events."""
    return Said(body=b"".join(map(encode, sent)), headers={"content-type": "text/event-stream"})


def cut_in_call(said: Said) -> Said:
    """The connection drops in the middle of the arguments of a tool call."""
    assert isinstance(said.body, bytes)
    return replace(said, cut=max(said.body.rfind(b"arguments"), said.body.rfind(b"partial_json")) + 14)


def closed_in_call(said: Said) -> Said:
    """The stream ends in good order, but in the middle of the arguments of a tool call."""
    assert isinstance(said.body, bytes)
    sent = said.body.split(b"\n\n")
    last = max(i for i, event in enumerate(sent) if b"arguments" in event or b"partial_json" in event)
    return replace(said, body=b"\n\n".join(sent[:last]) + b"\n\n")


def without_end(said: Said) -> Said:
    """The answer breaks off where a list would begin."""
    body = said.body if isinstance(said.body, bytes) else msgspec.json.encode(said.body)
    return replace(said, body=body[: body.find(b"[") + 1])


def not_a_number(said: Said) -> Said:
    """A token count is NaN."""
    body = said.body if isinstance(said.body, bytes) else msgspec.json.encode(said.body)
    return replace(said, body=body.replace(b'_tokens":10', b'_tokens":NaN'))
