"""Lessons against what else is set."""

from __future__ import annotations

from phronesis.losses import LossConfig
from phronesis.train.config import RunConfig
from phronesis.train.lessons.pairs import PairsLesson
from phronesis.train.lint_rules.kinds import tag_of

ABOUT_LOSS = frozenset(
    (
        "clipping-inert", "unclipped-stale", "anchor-drifts", "double-weight", "correction-inert", "sapo-decoupled",
        "sequence-product", "kl-reward-lost", "kl-k3", "scaled-shaping", "teacher-unread", "learns-from-failures",
        "step-grows-with-length", "sequence-objective", "silent-dropped", "denominator-moves", "observations-unheard",
        "credit-unplayed",
    )
)  # fmt: skip
"""Rules, by id, about a loss or credit that a lesson with a loss of its own does not read."""


def own_loss(run: RunConfig) -> bool:
    """Whether the run's lesson reads neither `learner.loss` nor credit."""
    return isinstance(run.lesson, PairsLesson)


def loss_unread(run: RunConfig) -> str | None:
    """What is set there does nothing."""
    if own_loss(run) and run.learner.loss != LossConfig():
        return f"lesson {tag_of(run.lesson)!r} has a loss of its own: learner.loss is not read"
    return None


def pairs_alone(run: RunConfig) -> str | None:
    """An attempt is paired with another attempt at the same task."""
    if isinstance(run.lesson, PairsLesson) and run.group_size == 1:
        return "group_size 1 under lesson 'pairs': a lone attempt has none to be paired with"
    return None
