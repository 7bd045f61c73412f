"""Ratios of policies: idle ones, missing ones, doubled ones, products of them; and the divergence in the loss."""

from __future__ import annotations

from phronesis.losses import (
    CrossStageLoss,
    DecoupledPPOLoss,
    DFTLoss,
    GeometricReject,
    K2Reject,
    K3Reject,
    KLCovLoss,
    KLInLoss,
    KLInReward,
    OffPolicySequenceMask,
    OPDMaskedLoss,
    ReinforceLoss,
    SAPOLoss,
    SDARLoss,
    SequenceMIS,
    SequenceTIS,
    SupervisedLoss,
    VESPOLoss,
    Veto,
)
from phronesis.train.config import RunConfig
from phronesis.train.lint_rules.kinds import (
    AGAINST_OLD,
    AGAINST_SAMPLER,
    WEIGHTS,
    episode_tokens,
    numerator,
    staleness,
    tag_of,
    updates,
    weights,
)

LONG = 256
"""Tokens beyond which a product of ratios says little: 1.02 a token is 159 after 256 of them (ours)."""
LOOSE = 1.0
"""Nats; a `mismatch_error` above it lets a token pass whose ratio to the sampler is off by e (ours)."""


def clipping_inert(run: RunConfig) -> str | None:
    """Old is what the only update starts from, so every ratio is exactly 1."""
    objective = run.learner.loss.objective
    if isinstance(objective, AGAINST_OLD) and run.learner.old == "learner" and updates(run) == 1:
        return f"objective {tag_of(objective)!r} sees a ratio of 1 throughout, since each batch makes one update"
    return None


def unclipped_stale(run: RunConfig) -> str | None:
    """From the second update on, episodes are another policy's, and nothing weighs them."""
    loss = run.learner.loss
    corrected = any(numerator(c) == "theta" for c in weights(run))
    if isinstance(loss.objective, ReinforceLoss) and updates(run) > 1 and not corrected:
        return (
            f"objective 'reinforce' learns from each batch {updates(run)} times without a ratio; from the second update on the "
            "episodes are no longer the policy's own"
        )
    if isinstance(loss.objective, ReinforceLoss) and staleness(run) and not weights(run):
        return f"objective 'reinforce' weighs nothing; asynchrony.staleness {staleness(run)} brings it what older weights did"
    return None


def kl_cov_unbound(run: RunConfig) -> str | None:
    """Its penalty is 0 where old and theta agree, and falls on a share of the tokens where they do not."""
    objective = run.learner.loss.objective
    if isinstance(objective, KLCovLoss) and updates(run) > 1:
        return (
            f"objective 'kl_cov' learns from each batch {updates(run)} times and clips no ratio: its penalty binds a share of "
            f"{objective.fraction:g} of the tokens"
        )
    return None


def opsm_inert(run: RunConfig) -> str | None:
    """Theta is old until the first update is done."""
    if run.learner.old != "learner" or updates(run) > 1:
        return None
    if not any(isinstance(c, OffPolicySequenceMask) and c.of == "old" for c in run.learner.loss.corrections):
        return None
    return (
        "correction 'opsm' looks for sequences that became less likely than under old, and each batch makes one update from it"
    )


def normalise_inert(run: RunConfig) -> str | None:
    """A mean of nothing."""
    loss = run.learner.loss
    weighs = weights(run) or any(getattr(c, "reject", None) is False for c in loss.corrections)
    if not loss.normalise_weights or weighs:
        return None
    found = ", ".join(tag_of(c) for c in loss.corrections) or "none"
    return f"learner.loss.normalise_weights divides weights by their mean, and no correction gives any (corrections: {found})"


def anchor_drifts(run: RunConfig) -> str | None:
    """Theta over old is 1 where old over sampler is not."""
    learner = run.learner
    if not isinstance(learner.loss.objective, AGAINST_OLD) or isinstance(learner.loss.objective, DecoupledPPOLoss):
        return None
    answered = any(isinstance(c, (*WEIGHTS, GeometricReject, Veto, K2Reject, K3Reject)) for c in learner.loss.corrections)
    if learner.old != "learner" or answered:
        return None
    if learner.precision != "fp32":
        why = f"learner.precision {learner.precision!r} differs from the sampler's"
    elif learner.mismatch_error > LOOSE:
        why = f"learner.mismatch_error {learner.mismatch_error!r} nats lets through tokens the sampler saw quite otherwise"
    elif staleness(run):
        why = f"asynchrony.staleness {staleness(run)} brings it what older weights did"
    else:
        return None
    return f"the ratio refers to recomputed log-probabilities, and {why}, which no correction answers for"


def double_weight(run: RunConfig) -> str | None:
    """The same quotient twice."""
    objective, found = run.learner.loss.objective, [tag_of(c) for c in weights(run)]
    if len(found) > 1:
        return f"corrections {' and '.join(found)} each multiply by an importance weight, so it counts {len(found)} times"
    for correction in weights(run):
        of, name = numerator(correction), tag_of(correction)
        if isinstance(objective, AGAINST_SAMPLER):
            return f"correction {name!r} weighs by {of} over sampler, and objective {tag_of(objective)!r} by theta over sampler"
        if isinstance(objective, DecoupledPPOLoss):
            return f"correction {name!r} weighs by {of} over sampler, and objective 'decoupled_ppo' does so itself"
        if isinstance(objective, AGAINST_OLD) and of == "theta":
            return f"correction {name!r} weighs by theta over sampler, and objective {tag_of(objective)!r} by theta over old"
    return None


def correction_inert(run: RunConfig) -> str | None:
    """Rho is 1."""
    if run.learner.old != "sampler":
        return None
    idle = [tag_of(c) for c in run.learner.loss.corrections if getattr(c, "of", None) == "old" or tag_of(c) == "icepop"]
    idle = [name for name in idle if name != "opsm"]
    return f"correction {', '.join(idle)} compares old with the sampler, which are the same here" if idle else None


def sapo_decoupled(run: RunConfig) -> str | None:
    """The gate assumes that its ratio is the whole one."""
    found = [tag_of(c) for c in weights(run)]
    if isinstance(run.learner.loss.objective, SAPOLoss) and found:
        return f"correction {', '.join(found)} splits the ratio that SAPO's gate is made for (arXiv 2511.20347)"
    return None


def sequence_product(run: RunConfig) -> str | None:
    """A product grows or vanishes with length."""
    loss, tokens = run.learner.loss, episode_tokens(run)
    found = [tag_of(p) for p in (loss.objective, *loss.corrections) if isinstance(p, VESPOLoss | SequenceTIS | SequenceMIS)]
    if found and tokens > LONG:
        return (
            f"{', '.join(found)} multiplies ratios over whole episodes, which may have {tokens} tokens: 2 % a token would make "
            f"{1.02 ** min(tokens, 1000):.3g} of it"
        )
    return None


def kl_reward_lost(run: RunConfig) -> str | None:
    """A penalty in the reward reaches the objective through the credit, or not at all."""
    loss = run.learner.loss
    if not isinstance(loss.kl, KLInReward):
        return None
    name = tag_of(loss.objective)
    if isinstance(loss.objective, SupervisedLoss | DFTLoss):
        return f"a divergence in the reward changes credit, and objective {name!r} reads no credit, so it has no effect"
    if isinstance(loss.objective, SDARLoss | OPDMaskedLoss | CrossStageLoss):
        return f"a divergence in the reward changes credit, from which objective {name!r} reads the teacher"
    return None


def kl_k3(run: RunConfig) -> str | None:
    """The gradient is that of the other direction."""
    kl = run.learner.loss.kl
    if isinstance(kl, KLInLoss) and kl.estimator == "k3":
        return "k3 in the loss has the gradient of KL(ref || pi), not of the divergence KL(pi || ref) that its value estimates"
    return None


def kl_stale(run: RunConfig) -> str | None:
    """From the second update on, the samples are not theta's."""
    kl = run.learner.loss.kl
    if isinstance(kl, KLInLoss) and kl.estimator in ("k2", "k3plus") and updates(run) > 1:
        return (
            f"{kl.estimator} in the loss has the gradient of KL(pi || ref) on samples of the current policy, and each batch is "
            f"learned from {updates(run)} times"
        )
    return None
