"""A thread that writes down, every other second, what its process does and waits for.

It is a thread and not a task, so that an event loop that is blocked is seen by somebody. What not even a thread can see, C code
that keeps the interpreter to itself, is seen from outside: ``status.json`` becomes old, and the signal SIGUSR1 makes the
process write its stacks to ``stacks.txt`` without the interpreter.

Rule: the run never suffers. What cannot be written is left out until it can be, and no error leaves the thread.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO, TypeVar

from phronesis.alive import process, stacks
from phronesis.alive.record import STACKS, LoopState, Status, Wait, stamp, write
from phronesis.log import Activity, under_way

logger = logging.getLogger(__name__)

T = TypeVar("T")

SECONDS = "PHRONESIS_STATUS_SECONDS"
"""Environment variable: seconds between two writes (default 2); stacks are taken every fifth time."""
_EVERY = 2.0
_STACKS_EVERY = 5  # writes
_UNITS = 20  # whose mean duration is shown
_USED_SHARE = 0.01  # of a thread's time; less counts as none
_MOST_DUMPED = 2**20  # bytes of stacks.txt before it begins anew
_DURATION = re.compile(r"\d+(?:\.\d+)? s\b")


class _Idle:
    """For how long a thread has not used the processor."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[float, float]] = {}  # thread -> (seconds it has computed, when it was last seen to)

    def __call__(self, thread: int, now: float) -> float | None:
        """Seconds, 0 when seen for the first time; None where the system does not say."""
        used = process.thread_seconds(thread)
        if used is None:
            return None
        before, since = self._seen.get(thread, (-1.0, now))
        if before < 0.0 or used - before > max(_USED_SHARE * (now - since), 0.005):
            self._seen[thread] = (used, now)
            return 0.0
        return now - since


class Watchdog:
    """Writes ``status.json`` while it is entered; `guard` awaits the work and notices when its event loop is blocked.

    Example: ``with Watchdog(folder, "train") as dog: asyncio.run(dog.guard(job()))``, and ``dog.told("train", 3, 60)`` when a
    unit of the work is done.
    """

    def __init__(
        self,
        folder: Path,
        command: str,
        *,
        signs: Callable[[], int] = lambda: 0,
        every: float | None = None,
    ):
        """Writes nothing yet.

        Args:
            folder: where ``status.json`` goes; it exists.
            command: what the process does, for people.
            signs: a number that changes whenever something moves on.
            every: seconds between two writes; None takes the environment's, or 2.
        """
        self.folder, self.command = folder, command
        self.every = every or _seconds()
        self._signs = signs
        self.sources: Callable[[], Mapping[str, Mapping[str, int]]] = dict
        """By source of tasks, how many of its groups, or episodes, do what."""
        self._me, self._began = process.myself(), stamp(time.time())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._dump: TextIO | None = None
        self._phase, self._done, self._total = "", 0, 0
        self._last: float | None = None
        self._units = deque[tuple[float, int]](maxlen=_UNITS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = self._loop_ident = 0
        self._ticked = self._lag = 0.0
        self._lags = deque[tuple[float, float]]()
        self._idle = _Idle()
        self._alive_at, self._sign = time.monotonic(), ""
        self._unwritten = False
        self._stacks = Status(command=command, process=self._me, began=self._began, time=self._began, every=self.every)
        self._kin: tuple[float, float] = (0.0, 0.0)

    def __enter__(self) -> Self:
        """Begins to write."""
        self._answer_signals()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Writes how it ended."""
        self._stop.set()
        self._thread.join()
        if self._dump is not None:
            faulthandler.unregister(signal.SIGUSR1)
            self._dump.close()
            self._dump = None
            with suppress(OSError):
                if not (self.folder / STACKS).stat().st_size:
                    (self.folder / STACKS).unlink()
        ended = "finished" if error is None else "failed" if isinstance(error, Exception) else "interrupted"
        said = None if error is None else f"{type(error).__name__}: {error}"
        self._write(ended, said)

    def told(self, phase: str, done: int, total: int) -> None:
        """So many units of a phase are done."""
        if phase != self._phase or done < self._done:
            self._units.clear()
        self._phase, self._done, self._total = phase, done, total
        self._last = time.time()
        self._units.append((time.monotonic(), done))

    async def guard(self, work: Awaitable[T]) -> T:
        """Awaits `work`, and makes an appointment with the event loop again and again meanwhile."""
        self._loop_thread, self._loop_ident = threading.get_native_id(), threading.get_ident()
        self._ticked, self._loop = time.monotonic(), asyncio.get_running_loop()
        ticking = asyncio.create_task(self._tick(), name="watchdog")
        try:
            return await work
        finally:
            self._loop = None
            ticking.cancel()

    async def _tick(self) -> None:
        pause = self.every / 4
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            self._lag = max(0.0, now - self._ticked - pause)
            self._lags.append((now, self._lag))
            while self._lags and now - self._lags[0][0] > 15 * self.every:
                self._lags.popleft()
            self._ticked = now

    def _answer_signals(self) -> None:
        """Writes the stacks on SIGUSR1, unless the signal is somebody else's."""
        if not hasattr(faulthandler, "register") or signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL:
            return
        try:
            self._dump = (self.folder / STACKS).open("w", encoding="utf-8")
            faulthandler.register(signal.SIGUSR1, file=self._dump, all_threads=True, chain=False)
        except (OSError, RuntimeError) as error:
            logger.debug("stacks cannot be written on a signal: %s", error)
            if self._dump is not None:
                self._dump.close()
                self._dump = None

    def _watch(self) -> None:
        beat = 0
        while True:
            if beat % _STACKS_EVERY == 0:
                self._take_stacks()
            self._write(None, None)
            beat += 1
            if self._stop.wait(self.every):
                return

    def _take_stacks(self) -> None:
        count, places = stacks.tasks(self._loop, pause=0.0005)
        threads = stacks.threads(threading.get_ident())
        now = stamp(time.time())
        self._stacks = Status(
            command=self.command, process=self._me, began=self._began, time=now, every=self.every,
            tasks=count, places=places, threads=threads, stacks_time=now,
        )  # fmt: skip

    def _write(self, ended: str | None, error: str | None) -> None:
        now = time.monotonic()
        waits = tuple(self._wait(a, now) for a in under_way()) if ended is None else ()
        status = Status(
            command=self.command,
            process=self._me,
            began=self._began,
            time=stamp(time.time()),
            every=self.every,
            signal=None if self._dump is None else int(signal.SIGUSR1),
            phase=self._phase,
            done=self._done,
            total=self._total,
            last=None if self._last is None else stamp(self._last),
            unit_seconds=self._unit_seconds(),
            quiet=self._quiet(waits, now),
            waits=waits,
            sources={name: dict(counts) for name, counts in _patiently(self.sources, {}).items()},
            loop=self._loop_state(now),
            memory=process.memory(),
            tasks=self._stacks.tasks,
            places=self._stacks.places,
            threads=self._stacks.threads,
            stacks_time=self._stacks.stacks_time,
            ended=ended,
            error=error,
        )
        try:
            write(self.folder, status)
            if self._dump is not None and self._dump.tell() > _MOST_DUMPED:
                os.ftruncate(self._dump.fileno(), 0)
                os.lseek(self._dump.fileno(), 0, os.SEEK_SET)
            self._unwritten = False
        except OSError as why:
            if not self._unwritten:
                logger.warning("status.json cannot be written (%s); the run goes on", why.strerror or why)
            self._unwritten = True

    def _unit_seconds(self) -> float | None:
        units = list(self._units)
        if len(units) < 2 or units[-1][1] <= units[0][1]:
            return None
        return (units[-1][0] - units[0][0]) / (units[-1][1] - units[0][1])

    def _wait(self, activity: Activity, now: float) -> Wait:
        idle = None
        if activity.computes:
            idle = self._idle(activity.thread, now)
            idle = self._without_kin(idle, now) if idle and idle > 2 * self.every else idle
        return Wait(
            name=activity.name,
            seconds=now - activity.since,
            reason=_patiently(activity.reason, ""),
            computes=activity.computes,
            idle=idle,
            at=stacks.stands(_ident(activity.thread)) if activity.computes else None,
        )

    def _without_kin(self, idle: float, now: float) -> float:
        """A thread that waits for processes it started is not idle while they compute."""
        used, since = self._kin
        computed = process.family_seconds(os.getpid())
        if computed > used or not since:
            self._kin = (computed, now)
        return min(idle, now - self._kin[1])

    def _loop_state(self, now: float) -> LoopState | None:
        if self._loop is None:
            return None
        pause = self.every / 4
        late = max(0.0, now - self._ticked - pause)
        blocked = late if late > pause else 0.0
        return LoopState(
            lag=self._lag,
            worst=max((lag for _, lag in list(self._lags)), default=0.0),
            blocked=blocked,
            idle=self._idle(self._loop_thread, now),
            at=stacks.stands(self._loop_ident) if blocked else None,
        )

    def _quiet(self, waits: tuple[Wait, ...], now: float) -> float:
        """Seconds since anything changed that is no duration."""
        said = [f"{w.name} {_DURATION.sub('', w.reason)}" for w in waits]
        sign = f"{self._phase} {self._done} {self._signs()} {said}"
        if sign != self._sign:
            self._sign, self._alive_at = sign, now
        return now - self._alive_at


def _ident(native: int) -> int:
    """Python's number of the thread that the system calls `native`; 0 when it has ended."""
    return next((t.ident or 0 for t in threading.enumerate() if t.native_id == native), 0)


def _patiently(ask: Callable[[], T], otherwise: T) -> T:
    """What `ask` says; it looks at things that another thread changes, and may have to look again."""
    for _ in range(5):
        try:
            return ask()
        except RuntimeError:  # changed size during iteration
            continue
    return otherwise


def _seconds() -> float:
    try:
        given = float(os.environ.get(SECONDS, _EVERY))
    except ValueError:
        return _EVERY
    return given if given > 0 else _EVERY
