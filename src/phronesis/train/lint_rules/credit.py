"""Credit against group size, critic and objective."""

from __future__ import annotations

from phronesis.credit import (
    BestOnly,
    GiGPOCredit,
    GroupStandard,
    IGPOCredit,
    MaxRL,
    NoBaseline,
    OPDCredit,
    PotentialCredit,
    SELAURCredit,
    TurnReturnCredit,
    VerifiedCredit,
    VSRMCredit,
)
from phronesis.credit.rule import NeedsUtterances, NeedsValues
from phronesis.losses import CrossStageLoss, DFTLoss, OPDMaskedLoss, ReadsDistributions, SDARLoss, SupervisedLoss
from phronesis.reason.players.arpo import ARPOPlayer
from phronesis.reason.players.tree import TreePlayer
from phronesis.train.config import RunConfig, needs_siblings
from phronesis.train.lint_rules.kinds import tag_of
from phronesis.train.lint_rules.lessons import own_loss

SHAPED = (PotentialCredit, IGPOCredit, SELAURCredit, TurnReturnCredit, VSRMCredit)
"""Rules whose `baseline` compares rewards that hold more than the outcome."""
SIGNED = (PotentialCredit, IGPOCredit, VSRMCredit)
"""Rules that pay less than nothing for a turn, whatever the environment pays."""


def lone_group(run: RunConfig) -> str | None:
    """Nothing to compare with."""
    if run.group_size == 1 and needs_siblings(run.credit):
        return f"group_size 1 under credit {tag_of(run.credit)!r}: an episode has no siblings to be compared with"
    player, name = run.player, tag_of(run.credit)
    families = player.widths[0] if isinstance(player, TreePlayer) else player.initial if isinstance(player, ARPOPlayer) else 2
    if families == 1 and needs_siblings(run.credit) and name not in FORKING[tag_of(player)]:
        return (
            f"player {tag_of(player)!r} plays one attempt from the start, and all others branch off: one forked episode, which "
            f"has no siblings for credit {name!r}; credit 'tree' and 'arpo' compare branches"
        )
    return None


def critic_missing(run: RunConfig) -> str | None:
    """Nobody to ask."""
    if run.critic is None and isinstance(run.credit, NeedsValues | NeedsUtterances):
        return f"credit {tag_of(run.credit)!r} asks a critic for values, and the run has none"
    return None


def critic_idle(run: RunConfig) -> str | None:
    """Nobody asks. A rule named by import path is looked at when the run is checked."""
    if run.critic is not None and not isinstance(run.credit, str | NeedsValues | NeedsUtterances):
        return f"the run has a critic, but credit {tag_of(run.credit)!r} never asks for values"
    return None


def scaled_shaping(run: RunConfig) -> str | None:
    """Where all outcomes are equal, the deviation is that of the shaping alone."""
    credit = run.credit
    baseline = credit.baseline if isinstance(credit, SHAPED) else credit.step if isinstance(credit, GiGPOCredit) else None
    if not isinstance(baseline, GroupStandard | BestOnly):
        return None
    return (
        f"credit {tag_of(credit)!r} divides shaped rewards by their deviation in the group: where the outcomes are equal, "
        "small differences of shaping become as large as success"
    )


def maxrl_negative(run: RunConfig) -> str | None:
    """The mean it divides by may be near 0 or below."""
    credit = run.credit
    if isinstance(credit, SIGNED) and isinstance(credit.baseline, MaxRL):
        return (
            f"baseline 'maxrl' divides by the mean of the returns of credit {tag_of(credit)!r}, which may be negative: near 0 "
            "it blows credit up, and below it there is none"
        )
    return None


def baseline_twice(run: RunConfig) -> str | None:
    """It is made for the reward itself."""
    objective = run.learner.loss.objective
    if run.learner.baseline != "variance" or isinstance(run.credit, str):
        return None
    if own_loss(run):
        return f'learner.baseline="variance" changes advantages, of which lesson {tag_of(run.lesson)!r} reads none'
    if isinstance(objective, SupervisedLoss | DFTLoss | ReadsDistributions):
        return f'learner.baseline="variance" changes advantages, of which objective {tag_of(objective)!r} reads none'
    if isinstance(getattr(run.credit, "baseline", None), NoBaseline):
        return None
    return (
        f'learner.baseline="variance" is a baseline of its own, and credit {tag_of(run.credit)!r} has compared rewards before'
    )


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
PLAYED_BY = {"earl": "earl", "arpo": "arpo"}
"""Of these, the players that play such episodes."""


def unplayed(run: RunConfig) -> str | None:
    """The rule has nothing to compare."""
    name = tag_of(run.credit)
    if name not in UNPLAYED or isinstance(run.player, str) or tag_of(run.player) == PLAYED_BY.get(name):
        return None
    how = f" (player {PLAYED_BY[name]!r} does)" if name in PLAYED_BY else ""
    return f"credit {name!r} is made for {UNPLAYED[name]}, which player {tag_of(run.player)!r} does not play{how}"


FORKING = {"arpo": ("arpo", "tree"), "tree": ("tree", "arpo"), "earl": ("earl",)}
"""Players, by tag, and the credit rules that read what they play."""


def branches_unread(run: RunConfig) -> str | None:
    """Branches cost environment steps that another rule makes nothing of. What lessons make of them, `lesson_forks` says."""
    player, name = tag_of(run.player), tag_of(run.credit)
    if run.lesson is not None or player not in FORKING or isinstance(run.credit, str) or name in FORKING[player]:
        return None
    return (
        f"player {player!r} plays for credit {' or '.join(map(repr, FORKING[player]))}, and credit is {name!r}: it compares "
        "episodes as a whole, of which a forked one holds several attempts, or takes forced attempts for free ones"
    )
