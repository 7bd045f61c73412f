"""How many rollout workers there should be: a function of the work there is."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from phronesis.train.workers import ScaleConfig


class Load(Struct, frozen=True, kw_only=True):
    """What a scaler sees."""

    workers: int
    """Rollout workers there are or that are starting."""
    ready: int
    """Those that play."""
    slots: int
    """Episodes the ready ones can play at once."""
    playing: int
    """Episodes they play."""
    queued: int
    """Episodes that wait for a place."""

    @property
    def idle(self) -> float:
        """Share of the slots that nobody uses, in [0, 1]; 0 without slots.

        >>> Load(workers=2, ready=2, slots=16, playing=4, queued=0).idle
        0.75
        """
        return max(0.0, 1 - self.playing / self.slots) if self.slots else 0.0


class Scaler(Protocol):
    """Decides how many rollout workers a run should have; asked again and again while it goes on."""

    def wanted(self, load: Load) -> int:
        """The number of workers there should be; at least 1 is kept whatever it says."""
        ...


class QueueScaler:
    """One more worker for every worker's worth of episodes that wait; one fewer after a calm while.

    >>> scaler = QueueScaler(ScaleConfig(least=1, most=3, idle=0.5, calm=2))
    >>> scaler.wanted(Load(workers=1, ready=1, slots=8, playing=8, queued=4))
    2
    >>> calm = Load(workers=2, ready=2, slots=16, playing=4, queued=0)
    >>> scaler.wanted(calm), scaler.wanted(calm)
    (2, 1)
    """

    def __init__(self, config: ScaleConfig):
        """Starts without a memory of calm."""
        self.config = config
        self._calm = 0

    def wanted(self, load: Load) -> int:
        """The number of workers there should be."""
        c = self.config
        spare = load.slots - load.playing - load.slots / max(load.ready, 1)
        calm = load.queued == 0 and load.idle >= c.idle and spare >= 0 and load.ready == load.workers
        self._calm = self._calm + 1 if calm else 0
        change = 0
        if load.queued:
            each = max(load.slots // max(load.ready, 1), 1)
            change = -(-load.queued // each) if load.ready == load.workers else 0
        elif self._calm >= c.calm:
            self._calm, change = 0, -1
        return min(max(load.workers + change, c.least), c.most)
