"""Reading an HTTP answer as server-sent events, to its end or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import httpx

from phronesis.chat.wire.sse import EventReader, ServerEvent
from phronesis.errors import WireError

T = TypeVar("T")


class BrokenReply(Exception):
    """Raised by a reader: the answer began well and turned out unusable (cut short, or an error in mid-stream)."""

    def __init__(self, problem: str, reason: str = "broken", retry: bool = True):
        super().__init__(problem)
        self.reason, self.retry = reason, retry


def folded(fold: Callable[[AsyncIterator[ServerEvent]], Awaitable[T]]) -> Callable[[httpx.Response], Awaitable[T]]:
    """A reader of server-sent events; see `HttpClient.post_stream`."""

    async def read(response: httpx.Response) -> T:
        return await fold(read_events(response))

    return read


async def read_events(response: httpx.Response) -> AsyncIterator[ServerEvent]:
    """The events of an answer as they come.

    Raises:
        BrokenReply: the answer is no event stream, or ended inside an event.
    """
    kind = response.headers.get("content-type", "")
    if not kind.startswith("text/event-stream"):
        raise WireError("content-type", f"expected 'text/event-stream', got {kind!r}")
    reader = EventReader()
    async for piece in response.aiter_bytes():
        for event in reader.feed(piece):
            yield event
    if reader.torn:
        raise BrokenReply("the stream ended inside an event", "cut")
