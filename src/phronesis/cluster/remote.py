"""What the crew asks of whatever starts processes elsewhere. `phronesis.cluster.ray` answers with Ray actors."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray


class WorkerGone(Exception):
    """A worker died, or was killed, before it answered. Nothing it did counts."""


class Facts(Struct, frozen=True, kw_only=True):
    """What a worker says of itself when it is ready."""

    pid: int
    """Process id on its node."""
    node: str
    """Name of the node."""
    arithmetic: str
    """How its engine computes; the last bits of results belong to it."""


class Pulse(Struct, frozen=True, kw_only=True):
    """What a worker says whenever it is looked at."""

    version: int
    """Weights it samples with."""
    waiting: dict[str, str] = {}
    """Episode id -> what it awaits."""


class Remote(Protocol):
    """A rollout worker. Every call raises `WorkerGone` when it dies before it has answered."""

    async def ready(self) -> Facts:
        """Waits until it can be asked."""
        ...

    async def take(self, weights: object, version: int) -> int:
        """Gives it weights that `Backend.put` holds; the version it has then, which is newer where others came first."""
        ...

    async def play(self, order: bytes) -> bytes:
        """Plays a `phronesis.cluster.orders.Order`; the answer is a `Played` of one episode."""
        ...

    async def judge(self, group: bytes, seconds: float) -> bytes:
        """Scores the episodes of a `Played`, for which the rubric has so many seconds; the answer is a `Played`."""
        ...

    async def pulse(self) -> Pulse:
        """How it is."""
        ...

    def kill(self) -> None:
        """Ends it at once; one that has ended is left alone."""
        ...


class Backend(Protocol):
    """Where workers come from."""

    def start(self, index: int) -> Remote:
        """Begins to start a rollout worker; returns at once."""
        ...

    def put(self, bucket: NDArray[np.uint8]) -> object:
        """Puts packed weights where every worker can read them; they stay while somebody holds what is returned."""
        ...

    def ask_room(self, workers: int) -> None:
        """Tells an autoscaler, where there is one, that so many rollout workers need a place."""
        ...

    def room(self) -> str:
        """What is free, in words, for a worker that does not start."""
        ...
