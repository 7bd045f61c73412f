"""Credit against group size, critic and objective."""

from __future__ import annotations

from phronesis.credit import (
    GroupStandard,
    IGPOCredit,
    OPDCredit,
    PotentialCredit,
    SELAURCredit,
    TurnReturnCredit,
    VerifiedCredit,
)
from phronesis.credit.rule import NeedsValues
from phronesis.losses import CrossStageLoss, DFTLoss, OPDMaskedLoss, SDARLoss, SupervisedLoss
from phronesis.train.config import RunConfig, needs_siblings
from phronesis.train.lint_rules.kinds import tag_of

SHAPED = (PotentialCredit, IGPOCredit, SELAURCredit, TurnReturnCredit)
"""Rules whose rewards hold more than the outcome."""


def lone_group(run: RunConfig) -> str | None:
    """Nothing to compare with."""
    if run.group_size == 1 and needs_siblings(run.credit):
        return f"group_size 1 under credit {tag_of(run.credit)!r}: an episode has no siblings to be compared with"
    return None


def critic_missing(run: RunConfig) -> str | None:
    """Nobody to ask."""
    if run.critic is None and isinstance(run.credit, NeedsValues):
        return f"credit {tag_of(run.credit)!r} asks a critic for values, and the run has none"
    return None


def critic_idle(run: RunConfig) -> str | None:
    """Nobody asks. A rule named by import path is looked at when the run is checked."""
    if run.critic is not None and not isinstance(run.credit, str | NeedsValues):
        return f"the run has a critic, but credit {tag_of(run.credit)!r} never asks for values"
    return None


def scaled_shaping(run: RunConfig) -> str | None:
    """Where all outcomes are equal, the deviation is that of the shaping alone."""
    credit = run.credit
    if isinstance(credit, SHAPED) and isinstance(credit.baseline, GroupStandard):
        return (
            f"credit {tag_of(credit)!r} divides shaped rewards by their deviation in the group: where the outcomes are equal, "
            "small differences of shaping become as large as success"
        )
    return None


def teacher_unread(run: RunConfig) -> str | None:
    """These objectives take the credit for log teacher minus log sampler."""
    objective, credit = run.learner.loss.objective, run.credit
    if not isinstance(objective, OPDMaskedLoss | SDARLoss | CrossStageLoss) or isinstance(credit, str):
        return None
    if isinstance(credit, OPDCredit) and credit.coef == 1.0:
        return None
    return f"objective {tag_of(objective)!r} reads the teacher out of the credit, and credit is {tag_of(credit)!r}"


def learns_from_failures(run: RunConfig) -> str | None:
    """Cross-entropy makes every token likelier, whatever came of it."""
    objective = run.learner.loss.objective
    if isinstance(objective, SupervisedLoss | DFTLoss) and not isinstance(run.credit, str | VerifiedCredit):
        return (
            f"objective {tag_of(objective)!r} reads no advantages: under credit {tag_of(run.credit)!r} failures become "
            "likelier just as successes do"
        )
    return None


UNPLAYED = {"earl": "forced routes", "arpo": "branches where the entropy rose", "plan": "several attempts that share a plan"}
"""Credit rules, by tag, and the episodes they are made for."""


def unplayed(run: RunConfig) -> str | None:
    """The rule has nothing to compare."""
    name = tag_of(run.credit)
    if name not in UNPLAYED:
        return None
    return f"credit {name!r} is made for {UNPLAYED[name]}, which the trainer's own agent does not play"
