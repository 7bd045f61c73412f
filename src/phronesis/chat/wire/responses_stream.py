"""OpenAI Responses in pieces, both sides: items that are added, grow and are done between ``created`` and ``completed``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from phronesis.chat.wire import openai_responses as wire
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

_Open = tuple[str, int]
"""What is open: ``thought``, ``text`` or ``call``, and the call's number."""


class ResponseWriter:
    """Writes the pieces of one answer as events.

    >>> writer = ResponseWriter(id="r", model="m", created=0)
    >>> names = [event.name for event in (*writer.start(), *writer.write(TextPiece("hi")), *writer.close())]
    >>> names[0], names[-1], len(names)
    ('response.created', 'response.completed', 9)
    """

    def __init__(self, *, id: str, model: str, created: int):
        """One writer per answer; `created` in seconds since 1970."""
        self._id, self._head = id, wire.head(id, model, created)
        self._finish, self._usage = Finish.stop, Usage()
        self._items: list[dict[str, Any]] = []
        self._open: _Open | None = None
        self._text = self._call_id = self._name = ""
        self._sent = 0

    def start(self) -> list[ServerEvent]:
        """The first events."""
        return [self._event("created", response=self._head), self._event("in_progress", response=self._head)]

    def write(self, piece: Piece) -> list[ServerEvent]:
        """The events of a piece."""
        match piece:
            case ThoughtPiece(text):
                return [*self._turn_to(("thought", 0)), self._grow("reasoning_text", text, content_index=0)]
            case TextPiece(text):
                return [*self._turn_to(("text", 0)), self._grow("output_text", text, content_index=0, logprobs=[])]
            case CallPiece(index, arguments, id, name):
                opened = self._turn_to(("call", index), id or "", name or "")
                return [*opened, *([self._grow("function_call_arguments", arguments)] if arguments else [])]
            case EndPiece(finish):
                self._finish = finish
            case UsagePiece(usage):
                self._usage = usage
        return []

    def close(self) -> list[ServerEvent]:
        """The last events; the very last holds the whole answer."""
        shut = self._shut()
        ending = wire.ending(self._finish)
        whole = self._head | ending | {"output": self._items, "usage": wire.write_usage(self._usage)}
        return [*shut, self._event(ending["status"], response=whole)]

    def _turn_to(self, block: _Open, call_id: str = "", name: str = "") -> list[ServerEvent]:
        if self._open == block:
            return []
        shut = self._shut()
        self._open, self._text, self._call_id, self._name = block, "", call_id, name
        added = self._event("output_item.added", output_index=len(self._items), item=self._item("in_progress"))
        if block[0] == "call":
            return [*shut, added]
        return [*shut, added, self._event("content_part.added", **self._place(), content_index=0, part=self._part())]

    def _shut(self) -> list[ServerEvent]:
        if self._open is None:
            return []
        place, kind = self._place(), self._open[0]
        if kind == "call":
            events = [self._event("function_call_arguments.done", **place, name=self._name, arguments=self._text)]
        else:
            said = "output_text" if kind == "text" else "reasoning_text"
            more: dict[str, Any] = {"logprobs": []} if kind == "text" else {}
            events = [
                self._event(f"{said}.done", **place, content_index=0, text=self._text, **more),
                self._event("content_part.done", **place, content_index=0, part=self._part()),
            ]
        item = self._item("completed")
        events.append(self._event("output_item.done", output_index=len(self._items), item=item))
        self._items.append(item)
        self._open = None
        return events

    def _grow(self, field: str, delta: str, **more: object) -> ServerEvent:
        self._text += delta
        return self._event(f"{field}.delta", **self._place(), delta=delta, **more)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item("in_progress")["id"], "output_index": len(self._items)}

    def _part(self) -> dict[str, Any]:
        if self._open is not None and self._open[0] == "thought":
            return {"type": "reasoning_text", "text": self._text}
        return {"type": "output_text", "text": self._text, "annotations": []}

    def _item(self, status: str) -> dict[str, Any]:
        kind, n = self._open or ("text", 0)
        if kind == "thought":
            return wire.reasoning_item(f"rs_{self._id}", self._text, status)
        if kind == "text":
            return wire.message_item(f"msg_{self._id}", self._text, status)
        return wire.call_item(f"fc_{self._id}_{n}", self._call_id, self._name, self._text, status)

    def _event(self, kind: str, **fields: object) -> ServerEvent:
        name = f"response.{kind}"
        event = ServerEvent(compact({"type": name, "sequence_number": self._sent, **fields}), name)
        self._sent += 1
        return event


def stream_answer(answer: Answer, *, created: int, size: int = 24) -> Iterator[ServerEvent]:
    """All events of a finished answer, at most `size` characters in each."""
    writer = ResponseWriter(id=answer.id, model=answer.model, created=created)
    yield from writer.start()
    for piece in pieces(answer, size):
        yield from writer.write(piece)
    yield from writer.close()


def stream_error(message: str, kind: str = "server_error") -> ServerEvent:
    """The event that ends a stream which cannot go on."""
    return ServerEvent(
        compact({"type": "error", "code": kind, "message": message, "param": None, "sequence_number": 0}), "error"
    )


class ResponseReader:
    """Reads the events of one answer. The last event holds all of it, and counts; the others only show it as it grows."""

    def __init__(self, turn: int = 0):
        self._turn = turn
        self._gather = Gather(turn)
        self._calls: dict[int, int] = {}
        self._answer: Answer | None = None

    @property
    def complete(self) -> bool:
        """Whether the answer is whole."""
        return self._answer is not None

    def read(self, event: ServerEvent) -> list[Piece]:
        """The pieces of an event. Events of types it does not know are passed over.

        Raises:
            WireError: it is no event of this format, or the server reports an error in mid-stream.
        """
        fields = Fields(decoded(event.data), event.name or "event")
        found = self._pieces(fields, fields.text("type").removeprefix("response."))
        self._gather.take_all(found)
        return found

    def _pieces(self, fields: Fields, kind: str) -> list[Piece]:
        if kind in ("error", "failed"):
            failed = fields.child_or("response")
            error = fields if failed is None else failed.child_or("error") or failed
            raise WireError("error", f"the server broke off: {error.text_or('message', 'it names no reason')}")
        if kind in ("completed", "incomplete"):
            self._answer = wire.read_answer(fields.value("response"), self._turn)
            return [EndPiece(self._answer.finish), UsagePiece(self._answer.usage)]
        if kind == "output_item.added" and fields.child("item").value("type") == "function_call":
            at, item = fields.whole("output_index"), fields.child("item")
            self._calls[at] = len(self._calls)
            return [CallPiece(self._calls[at], id=item.text_or("call_id", None), name=item.text("name"))]
        if kind in ("reasoning_text.delta", "reasoning_summary_text.delta"):
            return [ThoughtPiece(fields.text("delta"))]
        if kind in ("output_text.delta", "refusal.delta"):
            return [TextPiece(fields.text("delta"))]
        if kind == "function_call_arguments.delta":
            at = fields.whole("output_index")
            if at not in self._calls:
                raise fields.wrong("output_index", f"arguments for item {at!r}, which is no call")
            return [CallPiece(self._calls[at], fields.text("delta"))]
        return []

    def answer(self) -> Answer:
        """The whole answer; a WireError where it never ended."""
        if self._answer is None:
            raise WireError("response", "the stream ended without a completed response")
        return self._answer
