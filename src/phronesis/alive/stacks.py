"""Where a process stands: its tasks, those at one place counted together, and its threads. May be asked from any thread."""

from __future__ import annotations

import asyncio
import gc
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import NamedTuple, cast

from msgspec import Struct

_PACKAGE = Path(__file__).resolve().parent.parent.as_posix() + "/"
_LIBRARY = Path(sysconfig.get_paths()["stdlib"]).resolve().as_posix() + "/"
_SITES = ("/site-packages/", "/dist-packages/")

SHOWN_FRAMES = 3
"""Innermost functions of a task that are named."""
THREAD_FRAMES = 12
"""Innermost frames of a thread that are kept."""
MOST_PLACES = 30
"""Most places that are listed; the rest is counted."""
_PAUSE_TASKS = 100  # the event loop may run after so many tasks were looked at
_DEEPEST = 200
_STEPS_OF_GENERATORS = ("async_generator_asend", "async_generator_athrow", "coroutine_wrapper", "anext_awaitable")


class Frame(Struct, frozen=True, kw_only=True):
    """One call that is under way."""

    file: str
    """Where, short: ``envs/ledger/env.py``, ``asyncio/locks.py``, or the end of another path."""
    line: int
    """Line in it."""
    function: str
    """What is called, with its class."""
    foreign: bool = False
    """Whether the file is of Python's library or of an installed package."""

    def __str__(self) -> str:
        """``envs/ledger/env.py:88 Ledger.step``."""
        return f"{self.file}:{self.line} {self.function}"


class Place(Struct, frozen=True, kw_only=True):
    """Tasks that await at one place."""

    count: int
    """How many."""
    where: str
    """The innermost functions, and the line: ``play > EpisodeSession.act > Ledger.step > envs/ledger/env.py:88``."""


class ThreadStack(Struct, frozen=True, kw_only=True):
    """Where a thread stands."""

    name: str
    """Its name."""
    frames: tuple[Frame, ...]
    """Innermost call first."""
    thread: int | None = None
    """The system's number of it; None where it was not started by Python."""


def short(path: str) -> str:
    """A path as a person wants to read it.

    >>> short("/srv/our/project/worlds/my_env.py")
    'project/worlds/my_env.py'
    """
    if path.startswith(_PACKAGE):
        return path.removeprefix(_PACKAGE)
    for site in _SITES:
        if site in path:
            return path.rpartition(site)[2]
    if path.startswith(_LIBRARY):
        return path.removeprefix(_LIBRARY)
    return "/".join(path.split("/")[-3:])


def foreign(path: str) -> bool:
    """Whether a file belongs to Python's library or to an installed package, rather than to this package or its user."""
    return (path.startswith((_LIBRARY, "<")) or any(site in path for site in _SITES)) and not path.startswith(_PACKAGE)


class _Call(NamedTuple):
    """A call that is under way, cheap to take and to count; its line is looked up only where it is shown."""

    code: CodeType
    """What is called."""
    at: int
    """How far it has come, in bytes of its code."""

    @property
    def line(self) -> int:
        """The line it stands at."""
        return next(
            (line or 0 for start, end, line in self.code.co_lines() if start <= self.at < end), self.code.co_firstlineno
        )

    @property
    def shown(self) -> Frame:
        """The call as people read it."""
        file = self.code.co_filename
        return Frame(file=short(file), line=self.line, function=self.code.co_qualname, foreign=foreign(file))


def _chain(awaited: object) -> tuple[_Call, ...]:
    """The calls of a suspended coroutine, outermost first, down to what it awaits."""
    calls: list[_Call] = []
    while awaited is not None and len(calls) < _DEEPEST:
        if isinstance(awaited, CoroutineType):
            frame, inner = awaited.cr_frame, cast("object", awaited.cr_await)
        elif isinstance(awaited, GeneratorType):
            frame, inner = awaited.gi_frame, cast("object", awaited.gi_yieldfrom)
        elif isinstance(awaited, AsyncGeneratorType):
            frame, inner = awaited.ag_frame, cast("object", awaited.ag_await)
        else:
            awaited = _generator_of(awaited)
            continue
        if frame is not None:  # pyright: ignore[reportUnnecessaryComparison] - None once it has ended
            calls.append(_Call(frame.f_code, frame.f_lasti))
        awaited = inner
    return tuple(calls)


def _generator_of(awaited: object) -> object | None:
    """The asynchronous generator behind one of its steps, which does not name it."""
    if type(awaited).__name__ not in _STEPS_OF_GENERATORS:
        return None
    for held in cast("list[object]", gc.get_referents(awaited)):
        if isinstance(held, (AsyncGeneratorType, CoroutineType)):
            return cast("object", held)
    return None


def _own(calls: Sequence[_Call]) -> int:
    """Index of the innermost call that is not Python's or an installed package's; the innermost where all are."""
    for n in range(len(calls) - 1, -1, -1):
        if not foreign(calls[n].code.co_filename):
            return n
    return len(calls) - 1


def _where(calls: Sequence[_Call]) -> str:
    if not calls:
        return "runs, or has not begun"
    at = _own(calls)
    names = [c.code.co_qualname.replace(".<locals>", "") for c in calls[max(0, at - SHOWN_FRAMES + 1) : at + 1]]
    inner = f" ({calls[-1].code.co_qualname})" if at < len(calls) - 1 else ""
    return f"{' > '.join(names)} > {short(calls[at].code.co_filename)}:{calls[at].line}{inner}"


def tasks(loop: asyncio.AbstractEventLoop | None, pause: float = 0.0) -> tuple[int, tuple[Place, ...]]:
    """How many tasks a loop has, and where they await, most first.

    Args:
        loop: whose tasks; None has none.
        pause: seconds to let other threads run after every hundred tasks; 0 only yields.
    """
    if loop is None:
        return 0, ()
    try:
        held = list(asyncio.all_tasks(loop))
    except RuntimeError:  # they came and went faster than they could be listed
        return 0, ()
    counts = Counter[tuple[_Call, ...]]()
    for n, task in enumerate(held):
        if n % _PAUSE_TASKS == _PAUSE_TASKS - 1:
            time.sleep(pause)
        counts[_chain(task.get_coro())] += 1
    merged = Counter[str]()
    for chain, count in counts.items():
        merged[_where(chain)] += count
    found = [Place(count=count, where=where) for where, count in merged.most_common(MOST_PLACES)]
    if (rest := sum(merged.values()) - sum(p.count for p in found)) > 0:
        found.append(Place(count=rest, where=f"at {len(merged) - MOST_PLACES} other places"))
    return len(held), tuple(found)


def _calls(frame: FrameType | None, most: int) -> list[_Call]:
    """The innermost calls of a thread, innermost first."""
    calls: list[_Call] = []
    while frame is not None and len(calls) < most:
        calls.append(_Call(frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return calls


def threads(leave_out: int) -> tuple[ThreadStack, ...]:
    """Where every thread of this process stands, but the one whose identifier is `leave_out`."""
    known = {t.ident: t for t in threading.enumerate()}
    found: list[ThreadStack] = []
    for ident, frame in sys._current_frames().items():  # pyright: ignore[reportPrivateUsage] - the documented way
        if ident == leave_out:
            continue
        thread = known.get(ident)
        frames = tuple(c.shown for c in _calls(frame, THREAD_FRAMES))
        found.append(
            ThreadStack(
                name=thread.name if thread else f"thread {ident}", frames=frames, thread=thread.native_id if thread else None
            )
        )
    return tuple(found)


def own(frames: Sequence[Frame]) -> Frame | None:
    """The innermost of some calls, innermost first, that is this package's or its user's; the innermost where none is."""
    return next((f for f in frames if not f.foreign), frames[0] if frames else None)


def stands(ident: int) -> Frame | None:
    """The innermost call of one thread that is this package's or its user's; None where the thread has ended."""
    return own([c.shown for c in _calls(sys._current_frames().get(ident), _DEEPEST)])  # pyright: ignore[reportPrivateUsage]
