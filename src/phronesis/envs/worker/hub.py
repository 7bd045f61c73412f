"""Worker processes shared by all episodes and all event loops of this process, in a thread of their own.

An episode stays with the process that it began in. When that process ends, its episodes fault, and the next episode finds a
fresh one.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from phronesis.envs.worker.process import BoxShell, PlainShell, Process
from phronesis.envs.worker.spec import WorkerSpec
from phronesis.errors import ConfigError, SandboxFault
from phronesis.sandbox import BoxSpec, Sandbox, start

T = TypeVar("T")


class Hub:
    """The thread, its event loop, and the processes."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.sandbox: Sandbox | None = None
        self.processes: dict[str, list[Process]] = {}
        self.starting: dict[str, asyncio.Lock] = {}
        self.started = 0
        """Processes started so far."""
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True, name="phronesis-workers")
        self.thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Runs it in the thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def process(self, spec: WorkerSpec, number: int = 0) -> Process:
        """The living process of a spec; started if there is none.

        Args:
            spec: what it serves.
            number: which of several.

        Raises:
            ConfigError: the interpreter or the package is missing.
            EnvFault: it does not start.
        """
        key = f"{number}:{spec.key}"
        async with self.starting.setdefault(key, asyncio.Lock()):
            living = [p for p in self.processes.get(key, []) if not p.ended]
            if living:
                return living[-1]
            process = Process(spec, await self._shell(spec))
            self.started += 1
            await process.start()
            self.processes[key] = [process]
            return process

    async def close(self) -> None:
        """Ends all processes."""
        for found in self.processes.values():
            for process in found:
                await process.kill("it was closed")
        self.processes.clear()
        if self.sandbox is not None:
            self.sandbox.close()
            self.sandbox = None

    async def _shell(self, spec: WorkerSpec) -> PlainShell | BoxShell:
        if not os.access(spec.python, os.X_OK):
            raise ConfigError(
                f"{spec.name!r} needs the interpreter {spec.python!r}, which is not there; make it with: {spec.install}"
            )
        if not Path(spec.guest).is_file():
            raise ConfigError(f"{spec.name!r}: there is no file {str(spec.guest)!r}")
        if not spec.isolated:
            return PlainShell()
        for attempt in range(2):
            if self.sandbox is None:
                self.sandbox = await start("landlock")
            try:
                await (await self.sandbox.open(_EMPTY)).close()
                break
            except SandboxFault:
                self.sandbox = None
                if attempt:
                    raise
        assert self.sandbox is not None
        return BoxShell(self.sandbox)


_EMPTY = BoxSpec(disk=1 << 20, files=16)
_lock = threading.Lock()
_hub: Hub | None = None


def hub() -> Hub:
    """The one of this process."""
    global _hub
    with _lock:
        if _hub is None:
            _hub = Hub()
            atexit.register(close)
        return _hub


def close() -> None:
    """Ends all worker processes; the next use starts new ones."""
    global _hub
    with _lock:
        old, _hub = _hub, None
    if old is not None:
        with contextlib.suppress(concurrent.futures.TimeoutError):
            old.submit(old.close()).result(5)
        old.loop.call_soon_threadsafe(old.loop.stop)
        old.thread.join(5)
        if not old.thread.is_alive():
            old.loop.close()


def now(work: Coroutine[Any, Any, T]) -> T:
    """The result of work in the thread, waited for. For code that cannot await."""
    return hub().submit(work).result()


async def soon(work: Coroutine[Any, Any, T]) -> T:
    """The result of work in the thread. Whoever stops waiting does not stop it: the process stays in step."""
    waited = asyncio.wrap_future(hub().submit(work))
    waited.add_done_callback(_seen)
    return await asyncio.shield(waited)


def _seen(done: asyncio.Future[Any]) -> None:
    """Takes note of what went wrong where nobody waits any more."""
    if not done.cancelled():
        done.exception()
