"""Anthropic messages in pieces, both sides: blocks that open, grow and close between ``message_start`` and ``message_stop``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

from phronesis.chat.wire.anthropic_messages import read_stop, read_usage, stop_reason, write_usage
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
from phronesis.chat.wire.sse import ServerEvent
from phronesis.errors import WireError
from phronesis.policy import Answer
from phronesis.records import Finish, Usage

_Block = Literal["thinking", "text"] | int
"""What is open: the thought, the text, or the call of a number."""


class MessageWriter:
    """Writes the pieces of one answer as events.

    >>> writer = MessageWriter(id="msg_1", model="m")
    >>> [event.name for event in (*writer.start(), *writer.write(TextPiece("hi")), *writer.close())]
    ['message_start', 'content_block_start', 'content_block_delta', 'content_block_stop', 'message_delta', 'message_stop']
    """

    def __init__(self, *, id: str, model: str, usage: Usage | None = None):
        """One writer per answer.

        Args:
            id: the answer's name.
            model: the model's name.
            usage: what is known of the token counts before the answer begins.
        """
        self._id, self._model = id, model
        self._usage = usage or Usage()
        self._finish = Finish.stop
        self._open: _Block | None = None
        self._index = -1
        self._calls = False

    def start(self) -> list[ServerEvent]:
        """The first event."""
        message: dict[str, Any] = {"id": self._id, "type": "message", "role": "assistant", "model": self._model, "content": []}
        message |= {"stop_reason": None, "stop_sequence": None, "usage": write_usage(self._usage)}
        return [_event("message_start", message=message)]

    def write(self, piece: Piece) -> list[ServerEvent]:
        """The events of a piece."""
        match piece:
            case ThoughtPiece(text):
                opened = self._turn_to("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                return [*opened, self._delta(type="thinking_delta", thinking=text)]
            case TextPiece(text):
                return [*self._turn_to("text", {"type": "text", "text": ""}), self._delta(type="text_delta", text=text)]
            case CallPiece(index, arguments, id, name):
                self._calls = True
                opened = self._turn_to(index, {"type": "tool_use", "id": id, "name": name, "input": {}})
                grown = [self._delta(type="input_json_delta", partial_json=arguments)] if arguments else []
                return [*opened, *grown]
            case EndPiece(finish):
                self._finish = finish
            case UsagePiece(usage):
                self._usage = usage
        return []

    def close(self) -> list[ServerEvent]:
        """The last events: why the answer ended, and the token counts."""
        delta = {"stop_reason": stop_reason(self._finish, self._calls), "stop_sequence": None}
        last = _event("message_delta", delta=delta, usage=write_usage(self._usage))
        return [*self._shut(), last, _event("message_stop")]

    def _turn_to(self, block: _Block, shape: dict[str, Any]) -> list[ServerEvent]:
        if self._open == block:
            return []
        shut = self._shut()
        self._open = block
        self._index += 1
        return [*shut, _event("content_block_start", index=self._index, content_block=shape)]

    def _shut(self) -> list[ServerEvent]:
        if self._open is None:
            return []
        self._open = None
        return [_event("content_block_stop", index=self._index)]

    def _delta(self, **delta: str) -> ServerEvent:
        return _event("content_block_delta", index=self._index, delta=delta)


def stream_answer(answer: Answer, *, size: int = 24) -> Iterator[ServerEvent]:
    """All events of a finished answer, at most `size` characters in each."""
    writer = MessageWriter(id=answer.id, model=answer.model, usage=answer.usage)
    yield from writer.start()
    for piece in pieces(answer, size):
        yield from writer.write(piece)
    yield from writer.close()


def stream_error(message: str, kind: str = "api_error") -> ServerEvent:
    """The event that ends a stream which cannot go on."""
    return _event("error", error={"type": kind, "message": message})


class MessageReader:
    """Reads the events of one answer. Events of types it does not know are passed over, as the format asks."""

    def __init__(self, turn: int = 0):
        self._gather = Gather(turn)
        self._model = self._id = ""
        self._calls: dict[int, int] = {}
        self._thinking: dict[int, dict[str, object]] = {}
        self.done = False
        """Whether ``message_stop`` came."""

    @property
    def complete(self) -> bool:
        """Whether the answer is whole."""
        return self.done and self._gather.finish is not None

    @property
    def blocks(self) -> tuple[Mapping[str, object], ...]:
        """The thinking blocks, word for word (see `anthropic_messages.thinking_blocks`)."""
        return tuple(block for _, block in sorted(self._thinking.items()))

    def read(self, event: ServerEvent) -> list[Piece]:
        """The pieces of an event, kept for `answer`.

        Raises:
            WireError: it is no event of this format, or the server reports an error in mid-stream.
        """
        fields = Fields(decoded(event.data), event.name or "event")
        kind, found = fields.text("type"), list[Piece]()
        if kind == "error":
            raise WireError("error", f"the server broke off: {fields.child('error').text_or('message', 'it names no reason')}")
        if kind == "message_start":
            message = fields.child("message")
            self._id, self._model = message.text_or("id", ""), message.text_or("model", "")
            found.append(UsagePiece(read_usage(message.child_or("usage"))))
        elif kind == "content_block_start":
            found = self._begin(fields.whole("index"), fields.child("content_block"))
        elif kind == "content_block_delta":
            found = self._grow(fields.whole("index"), fields.child("delta"))
        elif kind == "message_delta":
            reason = fields.child("delta").text_or("stop_reason", None)
            if reason is not None:
                found.append(EndPiece(read_stop(reason, fields.place("delta.stop_reason"))))
            found.append(UsagePiece(read_usage(fields.child_or("usage"), self._gather.usage)))
        elif kind == "message_stop":
            self.done = True
        self._gather.take_all(found)
        return found

    def answer(self) -> Answer:
        """The whole answer; a WireError where it never ended."""
        return self._gather.answer(self._model, self._id)

    def _begin(self, index: int, block: Fields) -> list[Piece]:
        kind = block.text("type")
        if kind == "text":
            text = block.text_or("text", "")
            return [TextPiece(text)] if text else []
        if kind == "thinking":
            thought = block.text_or("thinking", "")
            self._thinking[index] = {"type": kind, "thinking": thought, "signature": block.text_or("signature", "")}
            return [ThoughtPiece(thought)] if thought else []
        if kind == "redacted_thinking":
            self._thinking[index] = {"type": kind, "data": block.text("data")}
            return []
        if kind != "tool_use":
            raise block.wrong("type", f"expected text, thinking or tool_use, got {kind!r}")
        self._calls[index] = len(self._calls)
        given = block.mapping_or("input", None)
        text = compact(given) if given else ""
        return [CallPiece(self._calls[index], text, block.text_or("id", None), block.text("name"))]

    def _grow(self, index: int, delta: Fields) -> list[Piece]:
        kind = delta.text("type")
        if kind == "text_delta":
            return [TextPiece(delta.text("text"))]
        if kind in ("thinking_delta", "signature_delta"):
            field = kind.removesuffix("_delta")
            text, block = (
                delta.text(field),
                self._thinking.setdefault(index, {"type": "thinking", "thinking": "", "signature": ""}),
            )
            block[field] = cast(str, block[field]) + text
            return [ThoughtPiece(text)] if field == "thinking" and text else []
        if kind == "input_json_delta":
            if index not in self._calls:
                raise delta.wrong("type", f"arguments for block {index!r}, which is no tool call")
            return [CallPiece(self._calls[index], delta.text("partial_json"))]
        return []  # citations


def _event(kind: str, **fields: object) -> ServerEvent:
    return ServerEvent(compact({"type": kind, **fields}), kind)
