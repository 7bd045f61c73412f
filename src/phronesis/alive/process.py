"""What the system says about a process: is it the same one, does it compute, would it survive a signal.

Everything comes from ``/proc``; where there is none (macOS), the answers are None and the judgement does without.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from msgspec import Struct

_PROC = Path("/proc")


class Identity(Struct, frozen=True, kw_only=True):
    """One process of one machine, which no later process is taken for."""

    pid: int
    """Its number."""
    host: str
    """Name of the machine."""
    boot: str | None
    """The machine's start it belongs to; None where the system does not say."""
    space: str | None
    """The space its number means something in (containers have their own); None where the system does not say."""
    started: int | None
    """When it began, in the system's ticks since the machine's start; None where the system does not say."""


def myself() -> Identity:
    """The identity of this process."""
    return Identity(
        pid=os.getpid(),
        host=socket.gethostname(),
        boot=_text(_PROC / "sys/kernel/random/boot_id"),
        space=_link(_PROC / "self/ns/pid"),
        started=started(os.getpid()),
    )


def here(other: Identity) -> bool:
    """Whether the number of that process means the same here: the same machine, start and space of numbers."""
    me = myself()
    return (other.host, other.boot, other.space) == (me.host, me.boot, me.space)


def runs(other: Identity) -> bool | None:
    """Whether that very process runs; None where it cannot be seen from here."""
    if not here(other):
        me = myself()
        started_anew = me.host == other.host and None not in (me.boot, other.boot) and me.boot != other.boot
        return False if started_anew else None  # what ran before a machine's start is gone
    try:
        os.kill(other.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, and alive
    now = started(other.pid)
    if state(other.pid) == "Z":
        return False  # ended; whoever started it has not noticed
    return now == other.started


def _fields(path: Path) -> list[str]:
    """Fields of a ``stat`` file after the name of the program, which may hold spaces; field 3 (state) comes first."""
    text = _text(path)
    return [] if text is None else text.rpartition(")")[2].split()


def started(pid: int) -> int | None:
    """When a process began, in ticks since the machine's start."""
    fields = _fields(_PROC / str(pid) / "stat")
    return int(fields[19]) if len(fields) > 19 else None


def state(pid: int) -> str | None:
    """The system's letter for what a process does: ``R`` runs, ``S`` sleeps, ``D`` waits for a disk, ``T`` was stopped."""
    fields = _fields(_PROC / str(pid) / "stat")
    return fields[0] if fields else None


def thread_seconds(thread: int) -> float | None:
    """Seconds that a thread of this process has computed; None when it has ended or the system does not say."""
    return _seconds(_PROC / "self/task" / str(thread) / "stat")


def family_seconds(pid: int, depth: int = 4) -> float:
    """Seconds computed by the processes that `pid` started, and by those they started, as far as they still run."""
    total = 0.0
    for child in children(pid):
        total += _seconds(_PROC / str(child) / "stat") or 0.0
        total += family_seconds(child, depth - 1) if depth > 1 else 0.0
    return total


def children(pid: int) -> list[int]:
    """Processes that `pid` started and that still run; none where the system does not say."""
    try:
        threads = list((_PROC / str(pid) / "task").iterdir())
    except OSError:
        return []
    return [int(word) for t in threads for word in (_text(t / "children") or "").split()]


def _seconds(path: Path) -> float | None:
    fields = _fields(path)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if len(fields) > 12 else None


def memory() -> int | None:
    """Bytes of memory this process holds; None where the system does not say."""
    text = _text(_PROC / "self/statm")
    return None if text is None else int(text.split()[1]) * os.sysconf("SC_PAGESIZE")


def catches(pid: int, signal: int) -> bool | None:
    """Whether a process has a handler for a signal, so that the signal does not end it; None where the system does not say."""
    text = _text(_PROC / str(pid) / "status")
    found = None if text is None else re.search(r"^SigCgt:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return None if found is None else bool(int(found[1], 16) >> (signal - 1) & 1)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
