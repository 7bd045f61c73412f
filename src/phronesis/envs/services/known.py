"""What a run knows of one service: how it is doing, how much of it is taken, who waits for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from phronesis.envs.services.wire import Registration


class State(StrEnum):
    """How a service is doing."""

    alive = "alive"
    """It beats, and gets episodes."""
    suspected = "suspected"
    """It missed heartbeats or broke a connection: no new episodes until it is heard again."""
    draining = "draining"
    """It is leaving: no new episodes, those it plays are finished."""
    gone = "gone"
    """It left, or was silent for too long."""


class Flight(NamedTuple):
    """A call that waits for a service."""

    loop: asyncio.AbstractEventLoop
    """Where it waits."""
    deadline: asyncio.Timeout
    """Ends it."""


@dataclass(eq=False, kw_only=True)
class Service:
    """One service, as this run knows it."""

    id: str
    """Given by the directory."""
    about: Registration
    """What it told of itself."""
    fixed: bool
    """Named by the configuration: it sends no heartbeats and is never removed."""
    heard: float
    """When it was last heard, on the directory's clock."""
    state: State = State.alive
    """How it is doing."""
    why: str = ""
    """Why it is suspected or gone, for people."""
    load: int = 0
    """Episodes it plays, as it last reported; of other runs, too."""
    placed: int = 0
    """Episodes of this run that have a place there."""
    failed: int = 0
    """Times in a row that an episode could not begin, or go on, there."""
    trouble: str = ""
    """What the last of them was; empty after an episode began."""
    full_until: float = 0.0
    """Not asked before then: it said that it is full, or failed."""
    flights: set[Flight] = field(default_factory=set[Flight])
    """Calls that wait for it."""


class World(NamedTuple):
    """What waits: episodes of one environment with one set of arguments."""

    name: str
    """Of the environment."""
    digest: str
    """Of its identity."""
