"""Relatives of clipped PPO: GPPO, which clips the value but not the gradient, and a cap on both sides."""

from __future__ import annotations

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.inputs import LossInputs, log_ratio
from phronesis.losses.objectives.policy_gradient import TokenTerms


def gppo(
    logp_theta_N: Tensor,
    logp_old_N: Tensor,
    advantages_N: Tensor,
    *,
    eps_low: float,
    eps_high: float,
    dual: float | None = None,
    keep_dual: bool = False,
) -> TokenTerms:
    """PPO's clipped objective whose clipped tokens keep a gradient with the bound as coefficient, per token `[N]`.

    The bound b is written ``b r / sg(r)``: its value is b, its gradient ``b grad log pi``. So a token with A > 0 and
    r > 1 + eps_high has coefficient 1 + eps_high (PPO: 0), one with A < 0 and r < 1 - eps_low has 1 - eps_low.
    With eps .2 / .28: (r, A) = (4, 1) value 1.28, coefficient 1.28; (.4, -1) value -.8, coefficient .8.

    Args:
        logp_theta_N: nats, carries the gradient.
        logp_old_N: nats.
        advantages_N: credit.
        eps_low: in (0, 1).
        eps_high: above 0.
        dual: for A < 0 the objective is at least ``dual A``; above 1, None means no such bound. As published, tokens beyond
            it lose their gradient: the hole that clipping without a gradient leaves open again.
        keep_dual: close that hole (ours): tokens beyond `dual` keep it as their coefficient.

    Source: Klear-Reasoner, arXiv 2508.07629 (beta 1 = beta 2 = 1); formula [gppo].
    """
    ratio_N = log_ratio(logp_theta_N, logp_old_N).exp()
    unit_N = (logp_theta_N - logp_theta_N.detach()).exp()
    high_N = (advantages_N > 0) & (ratio_N > 1.0 + eps_high)
    low_N = (advantages_N < 0) & (ratio_N < 1.0 - eps_low)
    factor_N = torch.where(high_N, (1.0 + eps_high) * unit_N, torch.where(low_N, (1.0 - eps_low) * unit_N, ratio_N))
    shares = {"capped_high": high_N, "capped_low": low_N}
    if dual is not None:
        beyond_N = (advantages_N < 0) & (ratio_N > dual)
        bound_N = dual * unit_N if keep_dual else torch.full_like(ratio_N, dual)
        factor_N = torch.where(beyond_N, bound_N, factor_N)
        shares["capped_dual" if keep_dual else "clip_dual"] = beyond_N
    return TokenTerms(-factor_N * advantages_N, shares)


def two_sided(
    logp_theta_N: Tensor, logp_old_N: Tensor, advantages_N: Tensor, *, eps_low: float, eps_high: float, delta: float
) -> TokenTerms:
    """``-min(min(r, delta) A, clip(r, 1 - eps_low, 1 + eps_high) A)`` per token `[N]`: r is bounded for A < 0 too.

    eps .2, delta 4: (r, A) = (5, -1) objective -4, (3, -1) -3, (1.5, 1) 1.2, (.5, -2) -1.6.

    Source: INTELLECT-2, arXiv 2505.07291; formula [two-sided].
    """
    ratio_N = log_ratio(logp_theta_N, logp_old_N).exp()
    clipped_N = ratio_N.clamp(1.0 - eps_low, 1.0 + eps_high)
    objective_N = torch.minimum(ratio_N.clamp_max(delta) * advantages_N, clipped_N * advantages_N)
    negative_N = advantages_N < 0
    shares = {
        "clip_high": (advantages_N > 0) & (ratio_N > 1.0 + eps_high),
        "clip_low": negative_N & (ratio_N < 1.0 - eps_low),
        "clip_delta": negative_N & (ratio_N > delta),
    }
    return TokenTerms(-objective_N, shares)


class GPPOLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="gppo"):
    """Clipped PPO that keeps the gradient of clipped tokens.   See `gppo`."""

    eps_low: float = 0.2
    """Coefficient of a token with negative advantage is at least 1 minus this, in (0, 1)."""
    eps_high: float = 0.28
    """Coefficient of a token with positive advantage is at most 1 plus this, above 0."""
    dual: float | None = None
    """Ratio beyond which tokens with negative advantage are bounded, above 1 (published: 3, recipes 10); None means never."""
    keep_dual: bool = False
    """Keep the gradient of tokens beyond `dual`, with `dual` as coefficient; False drops it, as published."""

    def __post_init__(self) -> None:
        check_eps("gppo", self.eps_low, self.eps_high)
        if self.dual is not None and self.dual <= 1.0:
            raise ConfigError(f"gppo dual {self.dual!r} must be above 1, or null for none")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `gppo` to theta against old."""
        return gppo(
            inputs.logp_theta_N,
            inputs.logp_old_N,
            inputs.advantages_N,
            eps_low=self.eps_low,
            eps_high=self.eps_high,
            dual=self.dual,
            keep_dual=self.keep_dual,
        )


class TwoSidedLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="two_sided"):
    """Clipped PPO with a cap on the ratio of every token.   See `two_sided`."""

    eps_low: float = 0.2
    """How far the ratio may fall below 1, in (0, 1)."""
    eps_high: float = 0.2
    """How far the ratio may rise above 1 for positive advantages, above 0."""
    delta: float = 4.0
    """Largest ratio for negative advantages, above 1 + eps_high."""

    def __post_init__(self) -> None:
        check_eps("two_sided", self.eps_low, self.eps_high)
        if self.delta <= 1.0 + self.eps_high:
            raise ConfigError(f"two_sided delta {self.delta!r} must be above 1 + eps_high = {1 + self.eps_high!r}")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `two_sided` to theta against old."""
        theta_N, old_N = inputs.logp_theta_N, inputs.logp_old_N
        return two_sided(theta_N, old_N, inputs.advantages_N, eps_low=self.eps_low, eps_high=self.eps_high, delta=self.delta)


def check_eps(name: str, eps_low: float, eps_high: float) -> None:
    """Raises ConfigError unless 0 < eps_low < 1 and eps_high > 0."""
    if not 0.0 < eps_low < 1.0 or not eps_high > 0.0:
        raise ConfigError(f"{name} needs 0 < eps_low < 1 and eps_high > 0, got {eps_low!r} and {eps_high!r}")
