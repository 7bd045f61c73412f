"""Lets plain synchronous code serve as an environment, if wished in a thread of its own."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar, cast

from phronesis.errors import UserError
from phronesis.records import Message, Reply, Task

T = TypeVar("T")
Calls = queue.SimpleQueue[Callable[[], None] | None]
"""What a thread is to do, in order; None ends it."""


class Worker:
    """One daemon thread that runs calls in order. It starts with the first call and ends with `release`, or when the
    worker is not used any more.

    A call that never returns can be given up (the awaiting side is cancelled, the event loop goes on) but not ended:
    its thread stays until the process ends, and does not keep the process alive.
    """

    def __init__(self) -> None:
        self._calls: Calls = queue.SimpleQueue()
        self._started = self._ended = False
        self._stuck = 0

    async def run(self, function: Callable[..., object], /, *arguments: object, **named: object) -> object:
        """The function's result, computed in the worker's thread; raises what it raises. A result that is awaitable is
        awaited in the event loop. A function that is async from the start never sees the thread.

        Raises:
            UserError: the worker has been released.
        """
        if self._ended:
            raise UserError("this environment is closed, so nothing can be called on it any more; make a new one")
        return await self._run(function, *arguments, **named)

    async def _run(self, function: Callable[..., object], /, *arguments: object, **named: object) -> object:
        if inspect.iscoroutinefunction(function):
            return await cast("Awaitable[object]", function(*arguments, **named))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        context = contextvars.copy_context()

        def deliver(result: object, error: BaseException | None) -> None:
            if future.cancelled():
                self._stuck -= 1
            elif isinstance(error, StopIteration):  # no future can carry it; coroutines turn it into this error, too
                future.set_exception(RuntimeError(f"{function!r} raised StopIteration"))
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        def work() -> None:
            try:
                outcome = (context.run(partial(function, *arguments, **named)), None)
            except BaseException as error:
                outcome = (None, error)
            with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(deliver, *outcome)

        self._give(work)
        try:
            result = await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._stuck += 1
            raise
        return await _awaited(result)

    async def release(self, function: Callable[[], object] | None = None) -> None:
        """Runs one last call, if given, and ends the thread after it. Done once; a second time it does nothing.

        While a call that was given up has not returned, the last call is left to the thread and not waited for.
        """
        if self._ended:
            return
        self._ended = True
        try:
            if function is None:
                return
            if self._stuck and not inspect.iscoroutinefunction(function):
                self._give(_quietly(function))
            else:
                await self._run(function)
        finally:
            if self._started:
                self._calls.put(None)

    def _give(self, work: Callable[[], None]) -> None:
        if not self._started:
            self._started = True
            threading.Thread(target=_serve, args=(self._calls,), daemon=True, name="phronesis-env").start()
            weakref.finalize(self, self._calls.put, None).atexit = False
        self._calls.put(work)


def _serve(calls: Calls) -> None:
    while (work := calls.get()) is not None:
        work()
        del work  # holds the worker, which must be free to end


async def _awaited(result: object) -> object:
    return await cast("Awaitable[object]", result) if inspect.isawaitable(result) else result


def _quietly(function: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        with suppress(Exception):  # its environment has failed already
            function()

    return call


class SyncEnv:
    """An environment written without async: an object with plain `reset`, `step` and `close`.

    Optional methods of the same names as the capabilities (`snapshot`, `restore`, `legal`, `expert`) are passed on. Once it
    is closed, `close` does nothing and every other call raises `UserError`.
    """

    def __init__(self, inner: object, *, thread: bool = True):
        """Wrap an object.

        Args:
            inner: has ``reset(task, seed)``, ``step(action)`` and ``close()``, each sync or async. A class is built with
                the first `reset` or `restore`, in the thread if there is one.
            thread: run its calls in one thread of its own, so that blocking calls neither stop the event loop nor
                escape a deadline. Costs about 0.1 ms a call. False for code that never blocks, or that must run in the
                event loop's thread.
        """
        self.inner = inner
        self._worker = Worker() if thread else None
        self._closed = False
        for capability in ("snapshot", "restore", "legal", "expert"):
            if hasattr(inner, capability):
                setattr(self, capability, self._forward(capability))

    async def reset(self, task: Task, seed: int) -> Reply:
        """Begins the episode."""
        await self._build()
        return cast("Reply", await self._call("reset", task, seed))

    async def step(self, action: Message) -> Reply:
        """Answers one assistant message."""
        return cast("Reply", await self._call("step", action))

    async def close(self) -> None:
        """Releases everything, the thread included; the second time there is nothing left to release."""
        if self._closed:
            return
        self._closed = True
        built = not isinstance(self.inner, type)
        if self._worker is not None:
            await self._worker.release(self._method("close") if built else None)
        elif built:
            await _awaited(self._method("close")())

    async def _build(self) -> None:
        self._check_open()
        if isinstance(self.inner, type):
            made = cast("Callable[[], object]", self.inner)
            self.inner = made() if self._worker is None else await self._worker.run(made)

    def _method(self, name: str) -> Callable[..., object]:
        return cast("Callable[..., object]", getattr(self.inner, name))

    def _check_open(self) -> None:
        if self._closed:
            name = (self.inner if isinstance(self.inner, type) else type(self.inner)).__name__
            raise UserError(f"environment {name!r} is closed, so nothing can be called on it any more; make a new one")

    async def _call(self, name: str, *arguments: object) -> object:
        self._check_open()
        if self._worker is not None:
            return await self._worker.run(self._method(name), *arguments)
        return await _awaited(self._method(name)(*arguments))

    def _forward(self, name: str) -> Callable[..., Awaitable[object]]:
        async def forward(*arguments: object) -> object:
            await self._build()
            return await self._call(name, *arguments)

        return forward
