"""Lessons against what else is set."""

from __future__ import annotations

from phronesis.losses import DFTLoss, LossConfig, ReadsDistributions, SupervisedLoss
from phronesis.train.config import RunConfig
from phronesis.train.lessons.distil import DistilLesson
from phronesis.train.lessons.pairs import PairsLesson
from phronesis.train.lessons.rationalise import RationaliseLesson
from phronesis.train.lessons.rlag import RLAGLesson
from phronesis.train.lessons.self_distil import SelfDistilLesson
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
    return isinstance(run.lesson, PairsLesson | RLAGLesson)


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


def lesson_objective(run: RunConfig) -> str | None:
    """A teacher's distributions need an objective that reads them, and such an objective a teacher; hints need one that
    imitates."""
    objective, lesson = run.learner.loss.objective, run.lesson
    taught, reads = isinstance(lesson, DistilLesson | SelfDistilLesson), isinstance(objective, ReadsDistributions)
    if taught and not reads:
        return f"lesson {tag_of(lesson)!r} gives whole distributions, which objective {tag_of(objective)!r} does not read"
    if reads and not taught and not own_loss(run):
        return f"objective {tag_of(objective)!r} compares whole distributions, and nobody gives it a teacher's"
    if isinstance(lesson, RationaliseLesson) and not isinstance(objective, SupervisedLoss | DFTLoss):
        return f"lesson 'rationalise' gives attempts without credit, from which objective {tag_of(objective)!r} learns nothing"
    return None


def hints_alone(run: RunConfig) -> str | None:
    """A sibling's success is a hint; a lone attempt has feedback at most."""
    lesson = run.lesson
    if isinstance(lesson, SelfDistilLesson) and run.group_size == 1 and not lesson.feedback:
        return "group_size 1 under lesson 'self_distil' without feedback: a lone attempt has no sibling to learn from"
    return None
