"""How many episodes may be in flight: in all, and of each source of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from phronesis.errors import ConfigError
from phronesis.records import Task

Gate = AbstractAsyncContextManager[object]
"""What is entered for the time of one episode; any semaphore is one."""


class Gates:
    """One limit for all episodes and one for each source that has its own.

    An episode waits at its source's gate first, so that those of a slow source never hold places that others could use.
    """

    def __init__(self, total: int, by_source: Mapping[str, int] | None = None):
        """Gates with all places free.

        Args:
            total: most episodes in flight, at least 1.
            by_source: most episodes of tasks whose `Task.env` is the key, at least 1 each.

        Raises:
            ConfigError: a limit below 1.
        """
        limits = dict(by_source or {})
        if total < 1 or any(n < 1 for n in limits.values()):
            raise ConfigError(f"concurrency must be at least 1, got {total!r} in all and {limits!r}")
        self._all = asyncio.Semaphore(total)
        self._own = {name: asyncio.Semaphore(n) for name, n in limits.items()}

    def of(self, task: Task) -> Gate:
        """The gate of a task's episodes; may be entered any number of times."""
        own = self._own.get(task.env)
        return self._all if own is None else _Both(own, self._all)


class _Both:
    """Two semaphores, entered in this order."""

    def __init__(self, first: asyncio.Semaphore, second: asyncio.Semaphore):
        self._first, self._second = first, second

    async def __aenter__(self) -> None:
        await self._first.acquire()
        try:
            await self._second.acquire()
        except BaseException:
            self._first.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._second.release()
        self._first.release()
