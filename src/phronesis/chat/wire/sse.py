"""Server-sent events as bytes: read in pieces of any size, and written.   Source: WHATWG HTML, section 9.2."""

from __future__ import annotations

from typing import NamedTuple


class ServerEvent(NamedTuple):
    """One event of a stream."""

    data: str
    """Its data lines, joined by line breaks."""
    name: str = ""
    """Its type; empty when the stream names none."""


class EventReader:
    """Collects bytes and gives back the events that are complete.

    >>> reader = EventReader()
    >>> reader.feed(b'event: ping\\ndata: {"a"'), reader.feed(b': 1}\\n\\n')
    ([], [ServerEvent(data='{"a": 1}', name='ping')])

    Only line feed, carriage return and the pair end a line, so a text that holds U+2028 stays whole. Bytes that are no
    UTF-8 become U+FFFD. An event the stream breaks off in is never given back.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._after_return = False
        self._data: list[str] = []
        self._name = ""

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that `piece` completes, in order."""
        if self._after_return and piece:
            piece, self._after_return = piece.removeprefix(b"\n"), False
        self._after_return = piece.endswith(b"\r") or (self._after_return and not piece)
        self._rest += piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = self._rest.split(b"\n")
        found: list[ServerEvent] = []
        for line in lines:
            event = self._line(line.decode("utf-8", "replace"))
            if event is not None:
                found.append(event)
        return found

    @property
    def torn(self) -> bool:
        """Whether the bytes so far end inside an event."""
        return bool(self._rest or self._data)

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            event = ServerEvent("\n".join(self._data), self._name) if self._data else None
            self._data, self._name = [], ""
            return event
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        return None


def encode(event: ServerEvent) -> bytes:
    """An event as bytes.

    >>> encode(ServerEvent("a\\nb", "ping"))
    b'event: ping\\ndata: a\\ndata: b\\n\\n'
    """
    lines = [f"event: {event.name}"] if event.name else []
    lines += [f"data: {line}" for line in event.data.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return ("\n".join(lines) + "\n\n").encode()
