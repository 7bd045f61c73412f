"""Objectives with one ratio per sequence: GSPO, LUSPO, GMPO and VESPO.

Each is written per token, so that it works with every aggregation and with credit that differs between tokens. With the mean
over sequences of the token mean, and one advantage per sequence, it is the published objective in value and gradient.
They need whole sequences; masked tokens never enter a sequence's ratio.
"""

from __future__ import annotations

from math import log
from typing import ClassVar

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.inputs import MAX_LOG_RATIO, LossInputs, Scope, log_ratio
from phronesis.losses.objectives.clipping import check_eps
from phronesis.losses.objectives.policy_gradient import TokenTerms, reinforce
from phronesis.losses.sequences import counts, sequence_mean, sequence_sum, spread

MAX_LOG_MEAN = 10.0
"""Largest log of GSPO's sequence ratio; beyond it no gradient flows."""

MIN_LOG_PRODUCT = log(1e-8)
"""Smallest log of VESPO's product of ratios."""


def geometric_ratio(inputs: LossInputs) -> Tensor:
    """``s_t = sg(s) pi / sg(pi)`` per token `[N]`, s = exp(min(mean log r, 10)) of the token's sequence, r = theta / old.

    log r = [.1, -.2, .3]: s 1.068939 (the product would be 1.221403).   Source: GSPO, arXiv 2507.18071 eq. 7 and 14.
    """
    moved_N = log_ratio(inputs.logp_theta_N, inputs.logp_old_N)
    mean_N = spread(sequence_mean(moved_N.detach(), inputs), inputs)
    return (mean_N + (moved_N - moved_N.detach())).clamp_max(MAX_LOG_MEAN).exp()


def gspo(inputs: LossInputs, *, eps_low: float, eps_high: float) -> TokenTerms:
    """``-min(s A, clip(s, 1 - eps_low, 1 + eps_high) A)`` per token `[N]`, s the sequence's geometric ratio.

    log r = [.1, -.2, .3], A = 1, eps 3e-4 / 4e-4: s is clipped to 1.0004, no gradient.

    Source: GSPO, arXiv 2507.18071 eq. 5; formula [gspo].
    """
    ratio_N, advantages_N = geometric_ratio(inputs), inputs.advantages_N
    clipped_N = ratio_N.clamp(1.0 - eps_low, 1.0 + eps_high)
    shares = {
        "clip_high": (advantages_N > 0) & (ratio_N > 1.0 + eps_high),
        "clip_low": (advantages_N < 0) & (ratio_N < 1.0 - eps_low),
    }
    return TokenTerms(-torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N), shares)


def gmpo(inputs: LossInputs, *, clip: float) -> TokenTerms:
    """``-A exp(mean clipped log r)`` per token `[N]`; log r is at most `clip` where A > 0, at least ``-clip`` where A < 0.

    A > 0, log r = [.1, -.2, .9], clip .4: 1.105171 (unclipped 1.305605). A clipped token has no gradient.

    Source: GMPO, arXiv 2507.20673; formula [gmpo].
    """
    moved_N, advantages_N = log_ratio(inputs.logp_theta_N, inputs.logp_old_N), inputs.advantages_N
    high_N, low_N = (advantages_N > 0) & (moved_N > clip), (advantages_N < 0) & (moved_N < -clip)
    clipped_N = torch.where(high_N, clip, torch.where(low_N, -clip, moved_N))
    ratio_N = spread(sequence_mean(clipped_N.detach(), inputs), inputs).exp()
    return TokenTerms(
        -advantages_N * ratio_N * (clipped_N - clipped_N.detach()).exp(), {"clip_high": high_N, "clip_low": low_N}
    )


def vespo_weight(
    log_product_N: Tensor, advantages_N: Tensor, *, k_pos: float, lam_pos: float, k_neg: float, lam_neg: float
) -> Tensor:
    """``phi = W^k exp(lam (1 - W))`` `[N]`, log W clamped to [ln 1e-8, 20]; (k_pos, lam_pos) where A >= 0.

    W 1.5, A > 0, (2, 3): .502043; phi is 1 at W = 1.   Source: VESPO, arXiv 2602.10693; formula [vespo].
    """
    log_product_N = log_product_N.clamp(MIN_LOG_PRODUCT, MAX_LOG_RATIO)
    positive_N = advantages_N >= 0
    given = log_product_N.new_tensor  # two plain numbers would meet in float32
    k_N = torch.where(positive_N, given(k_pos), given(k_neg))
    lam_N = torch.where(positive_N, given(lam_pos), given(lam_neg))
    return (k_N * log_product_N + lam_N * (1.0 - log_product_N.exp())).exp()


def vespo(inputs: LossInputs, *, k_pos: float, lam_pos: float, k_neg: float, lam_neg: float) -> TokenTerms:
    """``-sg(phi(W)) A log pi`` per token `[N]`, W the product of the sequence's ratios theta / old.   See `vespo_weight`."""
    moved_N = log_ratio(inputs.logp_theta_N.detach(), inputs.logp_old_N)
    product_N = spread(sequence_sum(moved_N, inputs), inputs)
    weight_N = vespo_weight(product_N, inputs.advantages_N, k_pos=k_pos, lam_pos=lam_pos, k_neg=k_neg, lam_neg=lam_neg)
    return TokenTerms(weight_N * reinforce(inputs.logp_theta_N, inputs.advantages_N), {"sequence_weight": weight_N})


class GSPOLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="gspo"):
    """Clipped sequence ratio, for the mean over sequences of the token mean.   See `gspo`."""

    eps_low: float = 3e-4
    """How far the sequence ratio may fall below 1, in (0, 1)."""
    eps_high: float = 4e-4
    """How far it may rise above 1, above 0."""

    scope: ClassVar[Scope] = "sequence"
    """A token's loss depends on its sequence."""

    def __post_init__(self) -> None:
        check_eps("gspo", self.eps_low, self.eps_high)

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `gspo`."""
        return gspo(inputs, eps_low=self.eps_low, eps_high=self.eps_high)


class LUSPOLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="luspo"):
    """GSPO times the sequence's length, which removes its length bias under the mean over sequences of the token mean.

    The same as `GSPOLoss` under the mean over sequences of the token sum.   Source: LUSPO, arXiv 2602.05261; formula [luspo].
    """

    eps_low: float = 3e-4
    """How far the sequence ratio may fall below 1, in (0, 1)."""
    eps_high: float = 4e-4
    """How far it may rise above 1, above 0."""

    scope: ClassVar[Scope] = "sequence"
    """A token's loss depends on its sequence."""

    def __post_init__(self) -> None:
        check_eps("luspo", self.eps_low, self.eps_high)

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `gspo` and multiplies with the trained tokens of the sequence."""
        terms = gspo(inputs, eps_low=self.eps_low, eps_high=self.eps_high)
        return TokenTerms(terms.loss_N * spread(counts(inputs), inputs), terms.shares)


class GMPOLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="gmpo"):
    """Geometric mean of clipped ratios, for the mean over sequences of the token mean.   See `gmpo`."""

    clip: float = 0.4
    """Largest |log r| that counts, nats, above 0."""

    scope: ClassVar[Scope] = "sequence"
    """A token's loss depends on its sequence."""

    def __post_init__(self) -> None:
        if not self.clip > 0.0:
            raise ConfigError(f"gmpo clip {self.clip!r} must be above 0")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `gmpo`."""
        return gmpo(inputs, clip=self.clip)


class VESPOLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="vespo"):
    """REINFORCE weighted with a smooth function of the sequence's product of ratios, for the token mean.   See `vespo`."""

    k_pos: float = 2.0
    """Power of W for advantages of at least 0."""
    lam_pos: float = 3.0
    """Decay in W for advantages of at least 0."""
    k_neg: float = 3.0
    """Power of W for negative advantages."""
    lam_neg: float = 2.0
    """Decay in W for negative advantages."""

    scope: ClassVar[Scope] = "sequence"
    """A token's loss depends on its sequence."""

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `vespo`."""
        return vespo(inputs, k_pos=self.k_pos, lam_pos=self.lam_pos, k_neg=self.k_neg, lam_neg=self.lam_neg)
