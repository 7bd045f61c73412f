"""OpenAI chat completions in pieces, both sides: ``chat.completion.chunk`` events, closed by ``[DONE]``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from phronesis.chat.wire.exchange import (
    CallPiece,
    EndPiece,
    Gather,
    Piece,
    TextPiece,
    ThoughtPiece,
    UsagePiece,
    compact,
    decoded,
    pieces,
)
from phronesis.chat.wire.fields import Fields
from phronesis.chat.wire.openai_chat import finish_reason, read_finish, read_usage, write_usage
from phronesis.chat.wire.sse import ServerEvent
from phronesis.errors import WireError
from phronesis.policy import Answer
from phronesis.records import Finish, Usage

DONE = ServerEvent("[DONE]")
"""Closes a stream."""


class ChunkWriter:
    """Writes the pieces of one answer as events.

    >>> writer = ChunkWriter(id="c", model="m", created=0, usage=False)
    >>> [e.data[-60:] for e in writer.write(TextPiece("hi"))]
    ['[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}']
    """

    def __init__(self, *, id: str, model: str, created: int, usage: bool):
        """One writer per answer.

        Args:
            id: the answer's name.
            model: the model's name.
            created: seconds since 1970.
            usage: whether the client asked for the token counts.
        """
        self._head = {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._usage = usage
        self._calls = False
        self._finish, self._spent = Finish.stop, Usage()

    def start(self) -> list[ServerEvent]:
        """The first event: who speaks."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def write(self, piece: Piece) -> list[ServerEvent]:
        """The events of a piece."""
        match piece:
            case ThoughtPiece(text):
                return [self._chunk({"reasoning_content": text})]
            case TextPiece(text):
                return [self._chunk({"content": text})]
            case CallPiece(index, arguments, id, name):
                self._calls = True
                function: dict[str, Any] = {"arguments": arguments}
                call: dict[str, Any] = {"index": index}
                if name is not None:
                    call |= {"id": id, "type": "function"}
                    function = {"name": name, **function}
                return [self._chunk({"tool_calls": [{**call, "function": function}]})]
            case EndPiece(finish):
                self._finish = finish
            case UsagePiece(usage):
                self._spent = usage
        return []

    def close(self) -> list[ServerEvent]:
        """The last events: why the answer ended, the token counts if they were asked for, ``[DONE]``."""
        events = [self._chunk({}, finish_reason(self._finish, self._calls))]
        if self._usage:
            events.append(ServerEvent(compact({**self._head, "choices": [], "usage": write_usage(self._spent)})))
        return [*events, DONE]

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> ServerEvent:
        return ServerEvent(compact({**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}))


def stream_answer(answer: Answer, *, created: int, usage: bool = False, size: int = 24) -> Iterator[ServerEvent]:
    """All events of a finished answer.

    Args:
        answer: the answer.
        created: seconds since 1970.
        usage: whether the client asked for the token counts.
        size: most characters per event.
    """
    writer = ChunkWriter(id=answer.id, model=answer.model, created=created, usage=usage)
    yield from writer.start()
    for piece in pieces(answer, size):
        yield from writer.write(piece)
    yield from writer.close()


def stream_error(message: str, kind: str = "server_error") -> ServerEvent:
    """The event that ends a stream which cannot go on."""
    return ServerEvent(compact({"error": {"message": message, "type": kind, "param": None, "code": None}}))


class ChunkReader:
    """Reads the events of one answer."""

    def __init__(self, turn: int = 0):
        self._gather = Gather(turn)
        self._model = self._id = ""
        self._indices: dict[str, int] = {}
        self.done = False
        """Whether ``[DONE]`` came."""

    @property
    def complete(self) -> bool:
        """Whether the answer is whole. Some servers close the stream without ``[DONE]``; the reason to end must have come."""
        return self._gather.finish is not None

    def read(self, event: ServerEvent) -> list[Piece]:
        """The pieces of an event, kept for `answer`.

        Raises:
            WireError: it is no chunk, or the server reports an error in mid-stream.
        """
        if event.data.strip() == "[DONE]":
            self.done = True
            return []
        fields = Fields(decoded(event.data), "chunk")
        if fields.has("error"):
            error = fields.value("error")
            said = cast(dict[str, object], error).get("message") if isinstance(error, dict) else error
            raise WireError("error", f"the server broke off: {said}")
        self._model = fields.text_or("model", "") or self._model
        self._id = fields.text_or("id", "") or self._id
        found: list[Piece] = []
        for choice in fields.each("choices"):
            if choice.whole_or("index", 0) == 0:
                found += self._choice(choice)
        usage = fields.child_or("usage")
        if usage is not None:
            found.append(UsagePiece(read_usage(usage)))
        self._gather.take_all(found)
        return found

    def answer(self) -> Answer:
        """The whole answer; a WireError where it never ended."""
        return self._gather.answer(self._model, self._id)

    def _choice(self, choice: Fields) -> list[Piece]:
        found: list[Piece] = []
        delta = choice.child_or("delta")
        if delta is not None:
            thought = delta.text_or("reasoning_content", None) or delta.text_or("reasoning", None)
            if thought:
                found.append(ThoughtPiece(thought))
            text = delta.text_or("content", None) or delta.text_or("refusal", None)
            if text:
                found.append(TextPiece(text))
            found += (self._call(call) for call in delta.each("tool_calls"))
        reason = choice.text_or("finish_reason", None)
        if reason:
            found.append(EndPiece(read_finish(reason, choice.place("finish_reason"))))
        return found

    def _call(self, call: Fields) -> CallPiece:
        function = call.child_or("function")
        id = call.text_or("id", None) or None
        index = call.whole_or("index", None)
        if index is None:  # some servers leave it out: a new id begins a new call
            index = self._indices.setdefault(id, len(self._indices)) if id else max(len(self._indices) - 1, 0)
        name = None if function is None else function.text_or("name", None) or None
        return CallPiece(index, "" if function is None else function.text_or("arguments", ""), id, name)
