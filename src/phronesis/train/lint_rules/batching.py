"""What of a step counts, and by what it is divided."""

from __future__ import annotations

from phronesis.losses import (
    ConstantNorm,
    DPPOLoss,
    DROLoss,
    LUSPOLoss,
    OPDMaskedLoss,
    SAPOLoss,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    SymmetricTVLoss,
    TokenMean,
)
from phronesis.train.config import RunConfig
from phronesis.train.lint_rules.kinds import SEQUENCE_LEVEL, episode_tokens, tag_of

FAR = 4
"""A horizon off by more than this factor changes the step noticeably (ours)."""


def step_grows(run: RunConfig) -> str | None:
    """A sum over tokens scales the gradient with length; so does a constant that is not the length."""
    rule, tokens = run.learner.loss.aggregation, episode_tokens(run)
    if isinstance(rule, SequenceMeanTokenSum):
        return f"aggregation {tag_of(rule)!r} adds up to {tokens} tokens an episode: a gradient that much longer"
    if isinstance(run.learner.loss.objective, LUSPOLoss):
        return f"objective 'luspo' multiplies by the episode's tokens, up to {tokens}: the gradient is that much longer"
    if isinstance(rule, ConstantNorm) and not tokens / FAR <= rule.horizon <= tokens * FAR:
        return f"aggregation horizon {rule.horizon!r} is far from the {tokens} tokens an episode may have, which scales steps"
    return None


def sequence_objective(run: RunConfig) -> str | None:
    """Each of these has one number a sequence, which the token mean would weigh by length."""
    objective, rule = run.learner.loss.objective, run.learner.loss.aggregation
    if isinstance(objective, (*SEQUENCE_LEVEL, SAPOLoss)) and not isinstance(rule, SequenceMeanTokenMean):
        if isinstance(rule, SequenceMeanTokenSum) and tag_of(objective) == "gspo":
            return None  # which is LUSPO, and said so by another rule
        return f"objective {tag_of(objective)!r} under aggregation {tag_of(rule)!r} is another loss than the published one"
    return None


def silent_dropped(run: RunConfig) -> str | None:
    """Such terms then act on episodes with credit only."""
    loss = run.learner.loss
    if not run.batch.drop_silent:
        return None
    objective = loss.objective
    found = [
        name
        for name, there in (
            ("the entropy bonus", loss.entropy_gradient),
            ("the divergence from the reference", loss.kl is not None),
            ("the baseline of least variance", run.learner.baseline == "variance"),
            ("the observation stream", loss.observations > 0),
            (
                f"the pull of objective {tag_of(objective)!r} towards the sampler",
                (isinstance(objective, DPPOLoss | SymmetricTVLoss | OPDMaskedLoss) and objective.kappa > 0)
                or isinstance(objective, DROLoss),
            ),
        )
        if there
    ]
    if found:
        return f"batch.drop_silent leaves out episodes without credit, where {' and '.join(found)} should act too"
    return None


def denominator_moves(run: RunConfig) -> str | None:
    """How many tokens carry a signal changes from step to step."""
    if run.batch.drop_silent and not run.batch.count_silent:
        return "batch.count_silent is off: steps with few groups of signal give each of their tokens more weight"
    if run.dynamic is not None and isinstance(run.learner.loss.aggregation, TokenMean):
        return (
            "dynamic sampling fills a step with groups that have a signal, whose tokens the token mean counts: the weight of a "
            "token, and the mix of tasks, follow the pass rates (as in DAPO)"
        )
    return None


def observations_unheard(run: RunConfig) -> str | None:
    """There are none in the batch."""
    weight = run.learner.loss.observations
    if weight > 0 and not run.batch.observations:
        return f"learner.loss.observations {weight!r} weighs the environment's answers, which batch.observations leaves out"
    return None


SEES_MORE = frozenset(
    ("opd", "gdpo", "vineppo", "counterfactual", "spo_chain", "vsrm", "spae", "remax", "igpo", "potential", "verified")
)
"""Credit rules, by tag, under which episodes of equal reward may have different credit."""


def dynamic_blind(run: RunConfig) -> str | None:
    """Equal rewards are no lack of signal there."""
    name = tag_of(run.credit)
    if run.dynamic is None or not (name in SEES_MORE or run.critic is not None):
        return None
    what = f"credit {name!r}" if name in SEES_MORE else "a critic"
    return f"dynamic sampling replaces groups of equal rewards, but under {what} they carry a signal all the same"
