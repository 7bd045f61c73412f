"""Encodes the first prompt of an episode: a short one at once, a long one in a thread, and once for all who open alike."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from phronesis.chat.format import ChatFormat
from phronesis.records import Message, ToolSpec

LONG = 6000
"""Characters from which a prompt is encoded in the thread: about 5 ms, which the event loop should not stand still."""
_THREAD = ThreadPoolExecutor(1, thread_name_prefix="phronesis-encode")  # one: it shall not take the loop's processor
_UNDER_WAY: dict[tuple[int, int, bytes], asyncio.Future[tuple[int, ...]]] = {}


async def opened(chat: ChatFormat, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> tuple[int, ...]:
    """``chat.open(messages, tools)``.

    Raises:
        Exception: whatever the chat format or its template raises.
    """
    if sum(len(message.text) for message in messages) < LONG:
        return chat.open(messages, tools)
    loop = asyncio.get_running_loop()
    key = (id(loop), id(chat), msgspec.json.encode((messages, tools)))
    found = _UNDER_WAY.get(key)
    if found is None:
        found = _UNDER_WAY[key] = loop.run_in_executor(_THREAD, chat.open, tuple(messages), tuple(tools))
        found.add_done_callback(lambda done: (_UNDER_WAY.pop(key, None), done.cancelled() or done.exception()))
    return await asyncio.shield(found)  # an episode that is given up leaves the others their prompt
