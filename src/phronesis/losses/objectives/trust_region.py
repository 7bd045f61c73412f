"""Trust regions in probability instead of ratio: DPPO-TV and its symmetric form; and DRO's quadratic penalty."""

from __future__ import annotations

from typing import Literal

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.inputs import TIE, LossInputs, log_ratio
from phronesis.losses.objectives.policy_gradient import TokenTerms, reinforce


def tv_keep(logp_theta_N: Tensor, logp_infer_N: Tensor, advantages_N: Tensor, *, delta_low: float, delta_high: float) -> Tensor:
    """bool `[N]`: False where A > 0 and the probability rose by more than `delta_high`, or A < 0 and it fell by more than
    `delta_low`.

    .25 to .5 with A > 0 and bounds .2: dropped; .001 to .01 (ratio 10): kept. A ratio clip would over-punish rare tokens and
    under-punish common ones.   Source: DPPO, arXiv 2602.04879; formula [dppo-tv].
    """
    rise_N = logp_theta_N.detach().exp() - logp_infer_N.exp()
    return ~(((advantages_N > 0) & (rise_N > delta_high + TIE)) | ((advantages_N < 0) & (rise_N < -delta_low - TIE)))


def tv_keep_symmetric(logp_theta_N: Tensor, logp_infer_N: Tensor, *, delta: float) -> Tensor:
    """bool `[N]`: False where the probability moved by more than `delta` either way, whatever the advantage.

    .5 to .35 with delta .1: dropped.   Source: prime-rl, where the loss is called ``ipo``; formula [tv-sym].
    """
    return ~((logp_theta_N.detach().exp() - logp_infer_N.exp()).abs() > delta + TIE)


def tv_loss(
    logp_theta_N: Tensor,
    logp_infer_N: Tensor,
    advantages_N: Tensor,
    keep_N: Tensor,
    *,
    kappa: float,
    detached: bool = False,
) -> TokenTerms:
    """``-keep A r_d + kappa (log r_d)²`` per token `[N]`, r_d = pi_theta / pi_infer; kappa's term acts on all tokens.

    .02 to .3 with A = -1, kept, kappa .001: 15.007334.

    Args:
        logp_theta_N: nats, carries the gradient.
        logp_infer_N: nats.
        advantages_N: credit.
        keep_N: bool.
        kappa: at least 0.
        detached: the first term as ``-sg(min(r_d, 20)) keep A log pi``.
    """
    moved_N = log_ratio(logp_theta_N, logp_infer_N)
    if detached:
        first_N = moved_N.detach().exp().clamp_max(20.0) * reinforce(logp_theta_N, advantages_N)
    else:
        first_N = -advantages_N * moved_N.exp()
    return TokenTerms(torch.where(keep_N, first_N, 0.0) + kappa * moved_N.square(), {"clip_tv": ~keep_N})


def dro(logp_theta_N: Tensor, logp_infer_N: Tensor, advantages_N: Tensor, *, beta: float) -> Tensor:
    """``-(A log pi - beta / 2 (log pi - log pi_infer)²)`` per token `[N]`: off-policy, no ratio.

    theta -1, infer -1.2, A 1, beta .1: 1.002.   Source: DRO, arXiv 2405.19107; formula [dro].
    """
    return reinforce(logp_theta_N, advantages_N) + 0.5 * beta * log_ratio(logp_theta_N, logp_infer_N).square()


class DPPOLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dppo_tv"):
    """Policy gradient on the direct ratio, dropping tokens whose probability has moved far.   See `tv_keep`, `tv_loss`."""

    delta_low: float = 0.2
    """Largest fall in probability for negative advantages, in (0, 1]."""
    delta_high: float = 0.2
    """Largest rise in probability for positive advantages, in (0, 1]."""
    kappa: float = 1e-3
    """Strength of the pull towards the sampler, on all tokens; at least 0."""
    form: Literal["ratio", "detached"] = "ratio"
    """Differentiate the ratio, or log pi weighted with the detached ratio (at most 20)."""

    def __post_init__(self) -> None:
        if not (0.0 < self.delta_low <= 1.0 and 0.0 < self.delta_high <= 1.0 and self.kappa >= 0.0):
            raise ConfigError(f"dppo_tv needs deltas in (0, 1] and kappa >= 0, got {self!r}")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `tv_loss` to theta against the sampler."""
        theta_N, infer_N, advantages_N = inputs.logp_theta_N, inputs.logp_infer_N, inputs.advantages_N
        keep_N = tv_keep(theta_N, infer_N, advantages_N, delta_low=self.delta_low, delta_high=self.delta_high)
        return tv_loss(theta_N, infer_N, advantages_N, keep_N, kappa=self.kappa, detached=self.form == "detached")


class SymmetricTVLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tv_symmetric"):
    """The same, dropping tokens that moved far in either direction.   See `tv_keep_symmetric`."""

    delta: float = 0.1
    """Largest move in probability, in (0, 1]."""
    kappa: float = 1e-3
    """Strength of the pull towards the sampler, on all tokens; at least 0."""

    def __post_init__(self) -> None:
        if not (0.0 < self.delta <= 1.0 and self.kappa >= 0.0):
            raise ConfigError(f"tv_symmetric needs delta in (0, 1] and kappa >= 0, got {self!r}")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `tv_loss` to theta against the sampler."""
        theta_N, infer_N = inputs.logp_theta_N, inputs.logp_infer_N
        keep_N = tv_keep_symmetric(theta_N, infer_N, delta=self.delta)
        return tv_loss(theta_N, infer_N, inputs.advantages_N, keep_N, kappa=self.kappa)


class DROLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dro"):
    """REINFORCE with a quadratic pull towards the sampler.   See `dro`."""

    beta: float
    """Strength of the pull, at least 0. The source gives no value."""

    def __post_init__(self) -> None:
        if not self.beta >= 0.0:
            raise ConfigError(f"dro beta {self.beta!r} must be at least 0")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `dro` to theta against the sampler."""
        return TokenTerms(dro(inputs.logp_theta_N, inputs.logp_infer_N, inputs.advantages_N, beta=self.beta), {})
