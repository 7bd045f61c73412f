"""A limit on waiting for anybody: foreign code, the policy, a whole phase."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from phronesis.errors import PhronesisError

T = TypeVar("T")


async def within(seconds: float, work: Awaitable[T], error: type[PhronesisError], what: str) -> T:
    """Awaits something for a limited time. It is cancelled when that is over; whoever refuses to be cancelled is waited for all
    the same, and heartbeats name it.

    Args:
        seconds: the limit, above 0.
        work: what is awaited.
        error: raised when the time is over.
        what: who, and which setting is the limit, e.g. ``the rubric (limits.rubric_seconds)``.

    >>> asyncio.run(within(1.0, asyncio.sleep(0, "done"), PhronesisError, "sleep"))
    'done'

    Raises:
        PhronesisError: of the given type, when the time is over. What the work itself raises, a `TimeoutError` of its own
            included, is passed on.
    """
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return await work
    except TimeoutError as late:
        if not deadline.expired():
            raise
        raise error(f"{what} gave no answer within {seconds:g} s; raise the limit or mend the call") from late
