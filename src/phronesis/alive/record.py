"""``status.json``: what a process last said about itself. Replaced whole, so that a reader never sees half of it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from phronesis.alive.process import Identity
from phronesis.alive.stacks import Frame, Place, ThreadStack

STATUS = "status.json"
"""What the process last said about itself, in the run folder."""
STACKS = "stacks.txt"
"""Where it writes its stacks when it is sent the signal, also while C code keeps every Python thread from running."""


class Wait(Struct, frozen=True, kw_only=True):
    """Something the process is about."""

    name: str
    """What, e.g. ``play``, ``batch``, ``update``, ``checkpoint``."""
    seconds: float
    """For how long."""
    reason: str = ""
    """What it waits for; '' where it computes."""
    computes: bool = False
    """True where a thread is at work until it is over."""
    idle: float | None = None
    """Seconds since that thread last used the processor; None where the system does not say, or it awaits others."""
    at: Frame | None = None
    """Where that thread stands."""


class LoopState(Struct, frozen=True, kw_only=True):
    """The event loop."""

    lag: float
    """Seconds by which it was last late for an appointment."""
    worst: float
    """The largest lag of the last half minute or so."""
    blocked: float
    """Seconds for which it has been late for the present one; 0 while it keeps up."""
    idle: float | None = None
    """Seconds since its thread last used the processor; None where the system does not say."""
    at: Frame | None = None
    """Where its thread stands, while it is blocked."""


class Status(Struct, frozen=True, kw_only=True):
    """What a process last said about itself."""

    format: int = 1
    """Version of this layout."""
    command: str
    """``train`` or ``eval``."""
    process: Identity
    """Who writes this."""
    began: str
    """UTC ISO stamp of when it began to."""
    time: str
    """UTC ISO stamp of when this was written."""
    every: float
    """Seconds between two of these."""
    signal: int | None = None
    """The signal on which it writes its stacks to ``stacks.txt``; None where it does not."""
    phase: str = ""
    """What it last reported progress of: ``prime``, ``train``, ``heldout_before``, …"""
    done: int = 0
    """Finished units of the phase: steps, or episodes of an evaluation."""
    total: int = 0
    """Units of the phase; 0 when not known."""
    last: str | None = None
    """UTC ISO stamp of the last unit's end; None before the first."""
    unit_seconds: float | None = None
    """Mean seconds of the last few units; None before the second."""
    quiet: float = 0.0
    """Seconds since the last sign of life: a unit, a call of an episode, or another state of what is waited for."""
    waits: tuple[Wait, ...] = ()
    """What it is about, in the order it began; the last is the innermost."""
    sources: dict[str, dict[str, int]] = {}
    """By source of tasks, how many of its groups, or episodes, do what."""
    loop: LoopState | None = None
    """The event loop; None while there is none."""
    memory: int | None = None
    """Bytes held; None where the system does not say."""
    tasks: int = 0
    """Tasks of the event loop when the stacks were taken."""
    places: tuple[Place, ...] = ()
    """Where they awaited."""
    threads: tuple[ThreadStack, ...] = ()
    """Where the threads stood."""
    stacks_time: str | None = None
    """UTC ISO stamp of when the stacks were taken; None before the first time."""
    ended: str | None = None
    """How it ended: ``finished``, ``failed`` or ``interrupted``; None while it runs, or when it was killed."""
    error: str | None = None
    """The error it ended with."""


def stamp(moment: float) -> str:
    """Seconds since 1970 as an ISO stamp with milliseconds, in UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def moment(text: str) -> float:
    """The seconds since 1970 of a stamp."""
    return datetime.fromisoformat(text).timestamp()


def write(folder: Path, status: Status) -> None:
    """Replaces what the folder says. A power cut may undo it: nobody needs it then.

    Raises:
        OSError: the disk is full or failing; what was there is still whole.
    """
    draft = folder / f".{STATUS}.tmp"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(status), indent=1) + b"\n")
    os.replace(draft, folder / STATUS)


def read(folder: Path) -> Status | None:
    """What the folder says; None when it says nothing, or nothing that this version can read."""
    try:
        return msgspec.json.decode((folder / STATUS).read_bytes(), type=Status)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
