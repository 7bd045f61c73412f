"""Encodes the first prompt of an episode: a short one at once, a long one in a thread, and once for all who open alike."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from phronesis.chat.format import ChatFormat
from phronesis.errors import TemplateError
from phronesis.records import Message, ToolSpec

LONG = 6000
"""Characters from which a prompt is encoded in the thread: about 5 ms, which the event loop should not stand still."""
_UNDER_WAY: dict[tuple[int, int, bytes], asyncio.Future[tuple[int, ...]]] = {}


class _Thread:
    """One thread that encodes: more would take the loop's processor."""

    def __init__(self) -> None:
        """It starts with the first prompt."""
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="phronesis-encode")
        self.began = time.monotonic()
        """When it last took up a prompt."""

    def encode(self, chat: ChatFormat, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]) -> tuple[int, ...]:
        """``chat.open``, in the thread."""
        self.began = time.monotonic()
        try:
            return chat.open(messages, tools)
        except StopIteration as error:  # which no future can carry
            raise TemplateError("the chat format raised StopIteration") from error


_thread = _Thread()


def _renew() -> None:
    """A forked process has the queue but not the thread."""
    global _thread
    _thread = _Thread()
    _UNDER_WAY.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


async def opened(
    chat: ChatFormat, messages: Sequence[Message], tools: Sequence[ToolSpec], patience: float = 30.0
) -> tuple[int, ...]:
    """``chat.open(messages, tools)``.

    Args:
        patience: seconds the thread may take over one prompt; those before it in the queue do not count.

    Raises:
        TimeoutError: the thread hangs, in this prompt or in one before it.
        Exception: whatever the chat format or its template raises.
    """
    if sum(len(message.text) for message in messages) < LONG:
        return chat.open(messages, tools)
    loop, thread = asyncio.get_running_loop(), _thread
    key = (id(loop), id(chat), msgspec.json.encode((messages, tools)))
    found = _UNDER_WAY.get(key)
    if found is None:
        found = _UNDER_WAY[key] = loop.run_in_executor(thread.pool, thread.encode, chat, tuple(messages), tuple(tools))
        found.add_done_callback(lambda done: (_UNDER_WAY.pop(key, None), done.cancelled() or done.exception()))
    since = time.monotonic()
    while not found.done():  # an episode that is given up leaves the others their prompt
        left = max(since, thread.began) + patience - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"a prompt was not encoded within {patience:g} s: the chat format hangs")
        await asyncio.wait([found], timeout=left)
    return found.result()
