"""Logging: a line for people on a terminal, a JSON object per line for machines, and heartbeats for loops that wait.

Rule: library code only logs and never prints; `setup` is called by programs, never by the library.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple, TextIO, TypeVar, cast

T = TypeVar("T")

Number = float | int | bool | str | None

ROOT = "phronesis"


class Column(NamedTuple):
    """One column of the console line."""

    key: str
    """Metric shown."""
    title: str
    """Word before the number."""
    spec: str = "7.3f"
    """Format of a float; its width keeps columns in place."""


class JsonFormatter(logging.Formatter):
    """One JSON object per record: ``time``, ``level``, ``logger``, ``message`` and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; numbers that are not finite become texts."""
        row: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{k: _finite(v) for k, v in fields_of(record).items()},
        }
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row, default=str)


class PlainFormatter(logging.Formatter):
    """For people: the message alone for INFO, with the level in front otherwise."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        text = record.getMessage()
        if record.levelno != logging.INFO:
            text = f"{record.levelname.lower()}: {text}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def setup(*, as_json: bool | None = None, stream: TextIO | None = None, level: int = logging.INFO) -> logging.Logger:
    """Sends the library's log to `stream` and returns its root logger; may be called again.

    Args:
        as_json: JSON lines instead of text; None decides by whether the stream is a terminal.
        stream: standard error when None.
        level: least severe level shown.
    """
    out: TextIO = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter() if (not out.isatty() if as_json is None else as_json) else PlainFormatter())
    logger = logging.getLogger(ROOT)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    return logger


def fields_of(record: logging.LogRecord) -> dict[str, Number]:
    """The fields a record was logged with (``extra={"fields": {...}}``)."""
    return cast(dict[str, Number], getattr(record, "fields", {}))


def step_line(step: int, total: int, values: Mapping[str, float | None], columns: Sequence[Column]) -> str:
    """The console line of a step: the same columns at the same place in every line.

    >>> step_line(3, 60, {"reward/mean": 0.5}, [Column("reward/mean", "reward"), Column("eval/success", "eval")])
    'step  3/60  reward   0.500  eval       -'
    """
    parts = [f"step {step:>{len(str(total))}}/{total}"]
    for column in columns:
        value = values.get(column.key)
        shown = format(float("nan") if value is None else value, column.spec)
        parts.append(f"{column.title} {'-'.rjust(len(shown)) if value is None else shown}")
    return "  ".join(parts)


def log_step(
    logger: logging.Logger, step: int, total: int, values: Mapping[str, float | None], columns: Sequence[Column]
) -> None:
    """One INFO record per step: the console line as text, every value as a field."""
    logger.info(step_line(step, total, values, columns), extra={"fields": {"step": step, "total": total, **values}})


class Activity(NamedTuple):
    """Something this process is about, as whoever looks at it from outside is told."""

    name: str
    """What, e.g. ``play`` or ``update``."""
    since: float
    """When it began, in monotonic seconds."""
    reason: Callable[[], str]
    """What it waits for just then, in words; '' where it computes."""
    thread: int
    """The system's number of the thread that computes, or that waits."""
    computes: bool
    """True where the thread itself is at work until it is over; False where it awaits others and goes on meanwhile."""


_under_way: dict[int, Activity] = {}


def under_way() -> list[Activity]:
    """What this process is about, in the order it began; may be asked from any thread."""
    return list(_under_way.values())


@contextmanager
def doing(name: str, reason: Callable[[], str] = lambda: "", *, computes: bool = True) -> Generator[None]:
    """While it lasts, `under_way` lists it: ``with doing("update"): learner.update(batch)``. It belongs to the thread that
    enters it."""
    activity = Activity(name, time.monotonic(), reason, threading.get_native_id(), computes)
    _under_way[id(activity)] = activity
    try:
        yield
    finally:
        del _under_way[id(activity)]


class Heartbeat:
    """Says what a loop waits for, so that starving is never silent.

    Example: ``beat = Heartbeat("play")``; in the loop ``beat.progress()`` when something came, ``beat.waiting("3 episodes
    wait for the policy")`` when nothing did. A message appears once the wait has lasted `every` seconds, and again each
    time it has lasted as long once more.
    """

    def __init__(
        self,
        name: str,
        *,
        every: float = 10.0,
        listener: Callable[[str, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts the clock.

        Args:
            name: the loop's name; messages are logged to ``phronesis.heartbeat``.
            every: seconds between messages.
            listener: also told the reason and the seconds waited, e.g. to store an event.
            clock: seconds, monotonic.
        """
        self.name, self.every = name, every
        self._listener, self._clock = listener, clock
        self._since = self._said = clock()
        self._logger = logging.getLogger(f"{ROOT}.heartbeat")

    @property
    def waited(self) -> float:
        """Seconds since the last progress."""
        return self._clock() - self._since

    def progress(self) -> None:
        """Something came: the wait is over."""
        self._since = self._said = self._clock()

    def waiting(self, reason: str) -> bool:
        """Nothing came, because of `reason`; True when that was said aloud."""
        now = self._clock()
        if now - self._said < self.every:
            return False
        self._said = now
        waited = now - self._since
        self._logger.info(
            "%s has waited %.0f s: %s",
            self.name,
            waited,
            reason,
            extra={"fields": {"loop": self.name, "waited_seconds": waited, "reason": reason}},
        )
        if self._listener is not None:
            self._listener(reason, waited)
        return True

    async def watch(self, awaitable: Awaitable[T], reason: Callable[[], str]) -> T:
        """Awaits something and says, while that lasts, what `reason()` is then.

        Raises:
            asyncio.CancelledError: the caller gave up; what was awaited is cancelled and has ended, cleaning up included.
        """
        task = asyncio.create_task(_result(awaitable))
        try:
            with doing(self.name, reason, computes=False):
                while True:
                    done, _ = await asyncio.wait([task], timeout=self.every)
                    if done:
                        self.progress()
                        return task.result()
                    self.waiting(reason())
        finally:
            if not task.done():  # it is cancelled once and waited for: a second time would cut its cleaning up short
                if not task.cancelling():
                    task.cancel()
                await asyncio.wait([task])


async def _result(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _finite(value: Number) -> Number:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
