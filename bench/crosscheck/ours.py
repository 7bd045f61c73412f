"""Phronesis' numbers, by the names of the peers'."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.crosscheck import inputs as shared
from bench.crosscheck.inputs import GROUP, LENGTH, Inputs, differentiate, last_token
from phronesis.credit import (
    Baseline,
    BestOnly,
    GroupMean,
    GroupStandard,
    LeaveOneOut,
    by_group,
    gae_skip,
    gdpo,
    gpg,
    lite_ppo,
    opo,
    otb,
    remax,
    whiten,
)
from phronesis.credit.baselines.batchwide import gdpo_tokens
from phronesis.credit.baselines.returns import reward_to_go
from phronesis.losses import (
    Aggregation,
    AnyCorrection,
    AnyObjective,
    CISPOLoss,
    ClipCovLoss,
    ConstantNorm,
    DPPOLoss,
    DROLoss,
    GeometricReject,
    GMPOLoss,
    GSPOLoss,
    K2Reject,
    K3Reject,
    KLCovLoss,
    KLInLoss,
    KLPenalty,
    LossConfig,
    LossInputs,
    LUSPOLoss,
    OffPolicySequenceMask,
    PPOClipLoss,
    SAPOLoss,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    SequenceMIS,
    SequenceTIS,
    TokenMean,
    TokenMIS,
    TokenTIS,
    TopEntropy,
    TwoSidedLoss,
    VESPOLoss,
    adapt_kl,
    dpo_loss,
    entropy,
    evaluate,
    ipo_loss,
    jensen_shannon,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_k3plus,
    sdpo,
    top_and_tail,
    totals_of,
    value_clip,
    value_loss,
)

Numbers = Callable[[Inputs], Tensor]
"""What one side computes from a draw."""

PPO = PPOClipLoss(**shared.PPO)
DUAL = PPOClipLoss(**shared.PPO, dual=shared.DUAL)
TOKENS, MEANS, SUMS = TokenMean(), SequenceMeanTokenMean(), SequenceMeanTokenSum()
HORIZON = ConstantNorm(horizon=LENGTH)


def loss(
    objective: AnyObjective = PPO,
    aggregation: Aggregation = TOKENS,
    *corrections: AnyCorrection,
    by_token: bool = False,
    kl: KLPenalty | None = None,
    normalise: bool = False,
) -> Numbers:
    """The configured loss and its gradient, over the tokens of the mask alone; `by_token` takes credit of single tokens."""
    config = LossConfig(
        objective=objective, aggregation=aggregation, corrections=corrections, kl=kl, normalise_weights=normalise
    )

    def numbers(given: Inputs) -> Tensor:
        theta, mask = given.theta.clone().requires_grad_(), given.mask
        rows = torch.arange(mask.shape[0])[:, None].expand_as(mask)[mask]
        credit = given.token_advantages if by_token else given.advantages[:, None].expand_as(theta)
        batch = LossInputs(
            logp_theta_N=theta[mask],
            logp_old_N=given.old[mask],
            logp_infer_N=given.infer[mask],
            advantages_N=credit[mask],
            sequence_N=rows,
            turn_N=torch.zeros_like(rows),
            totals=totals_of(rows, mask.shape[0]),
            entropy_N=given.entropies[mask],
            logp_ref_N=given.ref[mask],
        )
        return differentiate(evaluate(config, batch).loss, theta)

    return numbers


def per_sequence(function: Callable[[Inputs], Sequence[float]]) -> Numbers:
    """`[B]` numbers."""
    return lambda given: torch.tensor(list(function(given)), dtype=torch.float64)


def spread(function: Callable[[Inputs], Sequence[float]]) -> Numbers:
    """`[B]` numbers on all tokens of the mask."""
    return lambda given: per_sequence(function)(given)[:, None] * given.mask


def ragged(function: Callable[[Inputs], Sequence[Sequence[float]]]) -> Numbers:
    """One number per token of the mask."""

    def numbers(given: Inputs) -> Tensor:
        flat = [x for row in function(given) for x in row]
        return torch.zeros(given.mask.shape, dtype=torch.float64).masked_scatter(
            given.mask, torch.tensor(flat, dtype=torch.float64)
        )

    return numbers


def tokens(given: Inputs, x: Tensor) -> list[list[float]]:
    """`[B, T]` as ragged lists of the mask's numbers."""
    return [row[kept].tolist() for row, kept in zip(x, given.mask, strict=True)]


def compared(baseline: Baseline) -> Callable[[Inputs], Sequence[float]]:
    """A group baseline over the draw's rewards."""
    return lambda given: by_group(given.rewards.tolist(), given.groups, baseline)


def optimal_lengths(given: Inputs) -> list[float]:
    """OPO, group by group."""
    rewards, lengths = given.rewards.tolist(), given.mask.sum(1).tolist()
    found = [opo(rewards[i : i + GROUP], lengths[i : i + GROUP]) for i in range(0, len(rewards), GROUP)]
    return [a for group in found for a in group.advantages]


def optimal_tokens(given: Inputs) -> list[list[float]]:
    """OTB, group by group."""
    rewards = tokens(given, last_token(given.mask, given.rewards))
    probabilities, squares = tokens(given, given.old.exp()), tokens(given, given.squares)
    found: list[list[float]] = []
    for i in range(0, len(rewards), GROUP):
        at = slice(i, i + GROUP)
        found += otb(rewards[at], probabilities[at], squares[at])
    return found


def with_their_alpha(given: Inputs) -> list[float]:
    """GPG with verl's factor in place of ours."""
    found = gpg(given.rewards.tolist(), given.groups)
    alpha = len(given.groups) / int(given.rewards.count_nonzero())
    return [a / found.alpha * alpha for a in found.advantages]


def whitened_returns(given: Inputs) -> list[list[float]]:
    """REINFORCE++ without a KL penalty."""
    rows = tokens(given, last_token(given.mask, given.rewards))
    return whiten([reward_to_go(row, shared.GAMMA, [True] * len(row)) for row in rows])


def whitened_baseline(given: Inputs) -> list[list[float]]:
    """REINFORCE++ with a baseline."""
    centred = compared(GroupMean())(given)
    return whiten([[a] * n for a, n in zip(centred, given.mask.sum(1).tolist(), strict=True)])


def two_rewards(given: Inputs) -> list[list[float]]:
    """The two kinds of reward."""
    return [given.rewards.tolist(), given.more.tolist()]


def gdpo_by_token(given: Inputs) -> list[list[float]]:
    """GDPO whitened over tokens."""
    return gdpo_tokens(gdpo(two_rewards(given), given.groups).summed, given.mask.sum(1).tolist())


def estimates(given: Inputs) -> Tensor:
    """GAE's advantages, whitened, and its returns."""
    rows = zip(given.values.tolist(), given.token_rewards.tolist(), given.mask.tolist(), strict=True)
    found = [gae_skip(v, r, m, gamma=shared.GAMMA, lam=shared.LAM) for v, r, m in rows]
    advantages = whiten([f.advantages for f in found], given.mask.tolist())
    return torch.tensor(advantages + [f.returns for f in found], dtype=torch.float64)


def penalty(estimator: Callable[[Tensor, Tensor], Tensor]) -> Numbers:
    """Sum of a KL estimate, and its gradient."""

    def numbers(given: Inputs) -> Tensor:
        theta = given.theta.clone().requires_grad_()
        return differentiate(estimator(theta[given.mask], given.ref[given.mask]).sum(), theta)

    return numbers


def critic(given: Inputs) -> Tensor:
    """The clipped value loss and its gradient."""
    values = given.new_values.clone().requires_grad_()
    mask = given.mask
    terms = value_clip(values[mask], given.values[mask], given.returns[mask], clip=shared.VALUE_CLIP)
    return differentiate(value_loss(terms), values)


def divergence(beta: float) -> Numbers:
    """Between the distributions of student and teacher."""
    return lambda given: jensen_shannon(given.student.log_softmax(-1), given.teacher.log_softmax(-1), beta=beta)


def coarse(given: Inputs) -> Tensor:
    """SDPO on the student's three likeliest ids and the rest."""
    student, teacher = (x.reshape(-1, shared.VOCABULARY).log_softmax(-1) for x in (given.student, given.teacher))
    ids = student.topk(3, -1).indices
    found = sdpo(top_and_tail(student, ids), top_and_tail(teacher, ids), alpha=shared.JSD_BETA)
    return found.reshape(given.mask.shape)


GSPO, LUSPO = GSPOLoss(**shared.GSPO), LUSPOLoss(**shared.GSPO)
GMPO = GMPOLoss(clip=shared.GMPO_CLIP)
LOW, HIGH = shared.MIS

TRL: dict[str, Numbers] = {
    "grpo": per_sequence(compared(GroupStandard(eps=1e-4))),
    "drgrpo": per_sequence(compared(GroupMean())),
    "rloo": per_sequence(compared(LeaveOneOut())),
    "lite-ppo": per_sequence(lambda given: lite_ppo(given.rewards.tolist(), given.groups, eps=1e-4)),
    "gdpo": per_sequence(lambda given: gdpo(two_rewards(given), given.groups, eps=1e-4, batch_eps=1e-4).advantages),
    "ppo, sequence mean of token means": loss(PPO, MEANS),
    "ppo, token mean": loss(PPO),
    "ppo, token mean of the micro-batch": loss(PPO),
    "ppo, constant norm": loss(PPO, HORIZON),
    "two-sided": loss(TwoSidedLoss(**shared.PPO, delta=shared.DELTA)),
    "gspo": loss(GSPO, MEANS),
    "luspo": loss(LUSPO, MEANS),
    "gmpo": loss(GMPO, MEANS),
    "cispo": loss(CISPOLoss(cap=shared.CISPO_CAP)),
    "sapo": loss(SAPOLoss(**shared.SAPO), MEANS),
    "vespo": loss(VESPOLoss(**shared.VESPO)),
    "k3 in the loss": loss(kl=KLInLoss(coef=shared.KL_COEF, estimator="k3")),
    "unbiased KL in the loss": loss(kl=KLInLoss(coef=shared.KL_COEF, estimator="unbiased")),
    "opsm": loss(PPO, TOKENS, OffPolicySequenceMask(delta=shared.OPSM, of="infer")),
    "ent-top": loss(PPO, TOKENS, TopEntropy(share=shared.TOP_ENTROPY)),
    "tis-token": loss(PPO, TOKENS, TokenTIS(cap=shared.TIS_CAP)),
    "mis": loss(PPO, TOKENS, TokenMIS(low=LOW, high=HIGH)),
    "tis-seq": loss(PPO, TOKENS, SequenceTIS(cap=shared.SEQUENCE_CAP)),
    "tis-seq-mask": loss(PPO, TOKENS, SequenceMIS(cap=shared.SEQUENCE_MASK_CAP)),
    "dpo": lambda given: dpo_loss(given.chosen, given.rejected, beta=shared.BETA),
    "ipo": lambda given: ipo_loss(given.chosen, given.rejected, beta=shared.BETA),
    "jsd": divergence(shared.JSD_BETA),
    "jsd, beta 0": divergence(0.0),
    "jsd, beta 1": divergence(1.0),
    "sdpo": divergence(shared.JSD_BETA),
    "sdpo, top 3 and tail": coarse,
}
"""What is compared with TRL."""

VERL: dict[str, Numbers] = {
    "grpo": spread(compared(GroupStandard())),
    "drgrpo": spread(compared(GroupMean())),
    "rloo": spread(compared(LeaveOneOut())),
    "passk-adv": spread(compared(BestOnly())),
    "opo": spread(optimal_lengths),
    "rfpp-baseline": ragged(whitened_baseline),
    "rfpp": ragged(whitened_returns),
    "remax": spread(lambda given: remax(given.rewards.tolist(), given.greedy.tolist())),
    "gpg, verl's alpha": spread(with_their_alpha),
    "gdpo": ragged(gdpo_by_token),
    "otb, no holes": lambda given: ragged(optimal_tokens)(shared.without_holes(given)),
    "gae-skip": estimates,
    "whiten": lambda given: torch.tensor(whiten(given.values.tolist(), given.mask.tolist()), dtype=torch.float64),
    "ppo with dual clip, token-mean": loss(DUAL, by_token=True),
    "ppo with dual clip, seq-mean-token-mean": loss(DUAL, MEANS, by_token=True),
    "ppo with dual clip, seq-mean-token-sum": loss(DUAL, SUMS, by_token=True),
    "ppo with dual clip, seq-mean-token-sum-norm": loss(DUAL, HORIZON, by_token=True),
    "gspo": loss(GSPO, MEANS),
    "gmpo": loss(GMPO, MEANS),
    "cispo": loss(CISPOLoss(cap=shared.CISPO_CAP), by_token=True),
    "sapo": loss(SAPOLoss(**shared.SAPO), MEANS, by_token=True),
    "dppo-tv": loss(DPPOLoss(delta_low=shared.DPPO, delta_high=shared.DPPO, kappa=0.0, form="detached"), by_token=True),
    "dro": loss(DROLoss(beta=shared.DRO_BETA), by_token=True),
    "clip-cov, gradient": lambda given: loss(ClipCovLoss(fraction=1.0, **shared.COV, **shared.PPO), by_token=True)(given)[1:],
    "kl-cov": loss(KLCovLoss(**shared.KL_COV), by_token=True),
    "tis-token": loss(DUAL, TOKENS, TokenTIS(cap=shared.TIS_CAP), by_token=True),
    "tis-token, normalised": loss(DUAL, TOKENS, TokenTIS(cap=shared.TIS_CAP), by_token=True, normalise=True),
    "tis-seq": loss(DUAL, TOKENS, SequenceTIS(cap=shared.SEQUENCE_CAP), by_token=True),
    "mis": loss(DUAL, TOKENS, TokenMIS(low=LOW, high=HIGH), by_token=True),
    "geo-reject": loss(DUAL, TOKENS, GeometricReject(low=shared.GEOMETRIC[0], high=shared.GEOMETRIC[1]), by_token=True),
    "k2-reject": loss(DUAL, TOKENS, K2Reject(threshold=shared.K2), by_token=True),
    "k2-reject, sequence": loss(DUAL, TOKENS, K2Reject(threshold=shared.K2, level="sequence"), by_token=True),
    "k3-reject": loss(DUAL, TOKENS, K3Reject(threshold=shared.K3), by_token=True),
    "k1": penalty(kl_k1),
    "k2": penalty(kl_k2),
    "k3": penalty(kl_k3),
    "k3plus": penalty(kl_k3plus),
    "adaptive-kl": lambda given: torch.tensor([adapt_kl(0.2, 0.3, 64, target=0.1, horizon=10000.0)], dtype=torch.float64),
    "value-clip": critic,
    "entropy": lambda given: entropy(given.student.log_softmax(-1)),
}
"""What is compared with verl."""
