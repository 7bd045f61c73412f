"""What a lesson is: a step's scored groups in, new weights out.

Without a lesson a run learns from credit. A lesson takes the place of that update: it may compare attempts (pairs), ask a
teacher for whole distributions, or play once more with a hint. The rule this module keeps: whatever a lesson leaves out is
counted among its metrics, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from phronesis.records import Credit, Episode, EpisodeGroup
from phronesis.rollout.play import Stage
from phronesis.train.batching import BatchConfig
from phronesis.train.learner import Learner
from phronesis.train.results import UpdateMetrics


class Learned(NamedTuple):
    """A step's update and what the lesson has to say of it."""

    update: UpdateMetrics
    """What the weights did."""
    metrics: dict[str, float]
    """By metric key."""


class Lesson(Protocol):
    """Learns from one step's groups."""

    async def learn(self, step: int, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> Learned:
        """Changes the weights once.

        Args:
            step: of the run, from 0.
            groups: finished, scored groups.
            credits: what the credit rule says of each, in the same order.

        Raises:
            TrainingError: numbers the learner cannot trust.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What lessons work with."""

    stage: Stage
    """Where the attempts were played; a lesson may play there too."""
    learner: Learner
    """Shares its weights with the stage's policy."""
    batch: BatchConfig
    """What of attempts is learned from."""
    seed: int
    """Of the run."""
    concurrency: int
    """Most episodes in flight."""
    store: Callable[[Episode, str], None]
    """Keeps an episode a lesson played, under a kind."""
    success: float = 1.0
    """The reward from which credit `verified` learns from an attempt; 1 where the run has another credit."""


def counts(area: str, left_out: Mapping[str, int]) -> dict[str, float]:
    """What was left out, by reason, as metrics ``area/left_out_REASON``."""
    return {f"{area}/left_out_{reason}": float(n) for reason, n in left_out.items() if n}
