"""Lessons against what else is set."""

from __future__ import annotations

from phronesis.credit import OPDCredit
from phronesis.credit.rule import NeedsUtterances, NeedsValues
from phronesis.losses import DFTLoss, LossConfig, ReadsDistributions, SupervisedLoss
from phronesis.train.config import RunConfig
from phronesis.train.lessons.distil import DistilLesson
from phronesis.train.lessons.pairs import PairsLesson
from phronesis.train.lessons.rationalise import RationaliseLesson
from phronesis.train.lessons.rlag import RLAGLesson
from phronesis.train.lessons.self_distil import SelfDistilLesson
from phronesis.train.lint_rules.kinds import numerator, tag_of, updates, weights

ABOUT_LOSS = frozenset(
    (
        "clipping-inert", "unclipped-stale", "anchor-drifts", "double-weight", "correction-inert", "sapo-decoupled",
        "sequence-product", "kl-reward-lost", "kl-k3", "scaled-shaping", "teacher-unread", "learns-from-failures",
        "step-grows-with-length", "sequence-objective", "silent-dropped", "denominator-moves", "observations-unheard",
        "credit-unplayed",
    )
)  # fmt: skip
"""Rules, by id, about a loss or credit that a lesson with a loss of its own does not read."""
PLAYS_ON = frozenset(("counterfactual", "vineppo", "spo_chain", "vsrm", "spae", "remax"))
"""Credit rules, by tag, that play on from inside episodes, or play once more."""
ASKS = frozenset(("hindsight", "hca", "self_distilled", "igpo", "shapley"))
"""Credit rules, by tag, that ask the policy or a judge about every episode."""


def own_loss(run: RunConfig) -> bool:
    """Whether the run's lesson reads neither `learner.loss` nor credit."""
    return isinstance(run.lesson, PairsLesson | RLAGLesson)


def loss_unread(run: RunConfig) -> str | None:
    """What is set there does nothing."""
    if own_loss(run) and run.learner.loss != LossConfig():
        return f"lesson {tag_of(run.lesson)!r} has a loss of its own: learner.loss is not read"
    return None


def unread(run: RunConfig) -> frozenset[str]:
    """Rules, by id, that have nothing to say under the run's lesson."""
    if own_loss(run):
        return ABOUT_LOSS
    return frozenset(("silent-dropped",)) if isinstance(run.lesson, DistilLesson | SelfDistilLesson) else frozenset()


def credit_unread(run: RunConfig) -> str | None:
    """It is computed and paid for all the same."""
    credit, lesson = run.credit, run.lesson
    if lesson is None or isinstance(lesson, RationaliseLesson) or isinstance(credit, str):
        return None
    name = tag_of(credit)
    if name in PLAYS_ON:
        cost = "plays episodes once more"
    elif name in ASKS:
        cost = "asks the policy or a judge about every episode"
    elif isinstance(credit, NeedsValues | NeedsUtterances):
        cost = "trains and asks a critic"
    elif isinstance(credit, OPDCredit):
        cost = "asks a teacher about every token"
    else:
        return None
    return f"credit {name!r} {cost}, and lesson {tag_of(lesson)!r} reads no credit"


def step_size_unsampled(run: RunConfig) -> str | None:
    """The recorded log-probabilities of its texts are not a sampler's."""
    if run.learner.step_size == "effective" and own_loss(run):
        return (
            'learner.step_size="effective" measures how far the policy is from the sampler, and the texts of lesson '
            f"{tag_of(run.lesson)!r} come without the sampler's log-probabilities"
        )
    return None


def learner_unread(run: RunConfig) -> str | None:
    """What belongs to an update from a batch of attempts."""
    if not own_loss(run):
        return None
    learner, batch = run.learner, run.batch
    found = [
        name
        for name, there in (
            ("learner.old", learner.old != "learner"),
            ("learner.entropy", learner.entropy),
            ("learner.reset", learner.reset),
            ("learner.restart", learner.restart),
            ("learner.average", learner.average is not None),
            ("batch.drop_truncated", batch.drop_truncated),
            ("batch.repair", batch.repair),
            ("batch.observations", batch.observations),
        )
        if there
    ]
    if not found:
        return None
    does = "does" if len(found) == 1 else "do"
    return f"{' and '.join(found)} {does} nothing under lesson {tag_of(run.lesson)!r}, which makes batches of its own"


def distil_stale(run: RunConfig) -> str | None:
    """From the second update on, the attempts are another policy's."""
    loss, lesson = run.learner.loss, run.lesson
    if not isinstance(lesson, DistilLesson | SelfDistilLesson) or not isinstance(loss.objective, ReadsDistributions):
        return None
    if updates(run) == 1 or any(numerator(c) == "theta" for c in weights(run)):
        return None
    return (
        f"objective {tag_of(loss.objective)!r} learns from each batch {updates(run)} times without a weight; from the second "
        "update on the attempts are no longer the policy's own"
    )


def rlag_attempts(run: RunConfig) -> str | None:
    """The others are played for nothing but the curves."""
    if isinstance(run.lesson, RLAGLesson) and run.group_size > 1:
        return f"lesson 'rlag' learns from the first of a task's attempts, and group_size is {run.group_size!r}"
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
