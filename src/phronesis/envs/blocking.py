"""Lets plain synchronous code serve as an environment, if wished in a thread of its own."""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from phronesis.records import Message, Reply, Task

T = TypeVar("T")


class Worker:
    """One daemon thread that runs calls in order.

    A call that never returns can be given up (the awaiting side is cancelled, the event loop goes on) but not ended:
    its thread stays until the process ends, and does not keep the process alive.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True, name="phronesis-env").start()

    async def run(self, function: Callable[..., T], *arguments: object, **named: object) -> T:
        """The function's result, computed in the worker's thread; raises what it raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def deliver(result: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(cast("T", result))

        def work() -> None:
            try:
                outcome = (function(*arguments, **named), None)
            except BaseException as error:
                outcome = (None, error)
            if not loop.is_closed():
                loop.call_soon_threadsafe(deliver, *outcome)

        self._calls.put(work)
        return await future

    def close(self) -> None:
        """Ends the thread after the calls already given."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            work()


class SyncEnv:
    """An environment written without async: an object with plain `reset`, `step` and `close`.

    Optional methods of the same names as the capabilities (`snapshot`, `restore`, `legal`, `expert`) are passed on.
    """

    def __init__(self, inner: object, *, thread: bool = False):
        """Wrap an object.

        Args:
            inner: has ``reset(task, seed)``, ``step(action)`` and ``close()``, each sync or async.
            thread: run its calls in one thread of its own, so that blocking calls neither stop the event loop nor
                escape a deadline. Costs about 0.1 ms a call.
        """
        self.inner = inner
        self._worker = Worker() if thread else None
        for capability in ("snapshot", "restore", "legal", "expert"):
            if hasattr(inner, capability):
                setattr(self, capability, self._forward(capability))

    async def reset(self, task: Task, seed: int) -> Reply:
        """Begins the episode."""
        return cast("Reply", await self._call("reset", task, seed))

    async def step(self, action: Message) -> Reply:
        """Answers one assistant message."""
        return cast("Reply", await self._call("step", action))

    async def close(self) -> None:
        """Releases everything, the thread included."""
        try:
            await self._call("close")
        finally:
            if self._worker is not None:
                self._worker.close()

    async def _call(self, name: str, *arguments: object) -> object:
        method = cast("Callable[..., object]", getattr(self.inner, name))
        if self._worker is not None and not inspect.iscoroutinefunction(method):
            return await self._worker.run(method, *arguments)
        result = method(*arguments)
        return await cast("Awaitable[object]", result) if inspect.isawaitable(result) else result

    def _forward(self, name: str) -> Callable[..., Awaitable[object]]:
        async def forward(*arguments: object) -> object:
            return await self._call(name, *arguments)

        return forward
