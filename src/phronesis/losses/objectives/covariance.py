"""Clip-Cov and KL-Cov: restrain the few tokens whose likelihood and advantage covary most, which drive entropy down."""

from __future__ import annotations

from typing import ClassVar

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.inputs import LossInputs, Scope, log_ratio
from phronesis.losses.objectives.clipping import check_eps
from phronesis.losses.objectives.policy_gradient import TokenTerms, ppo_clip


def covariance(logp_theta_N: Tensor, advantages_N: Tensor, mask_N: Tensor | None = None) -> Tensor:
    """``(A - mean A) (log pi - mean log pi)`` per token `[N]`, without gradient; 0 outside the mask.

    Means are over the step. log pi [-.1, -2, -.7, -1.2, -.3], A [1, -1, .5, .5, -1]: [.76, 1.14, .08, -.17, -.56].

    Source: arXiv 2505.22617 eq. 11; formula [kl-cov].
    """
    kept_N = torch.ones_like(advantages_N, dtype=torch.bool) if mask_N is None else mask_N
    n = kept_N.sum().clamp_min(1)

    def centred(x_N: Tensor) -> Tensor:
        x_N = torch.where(kept_N, x_N.detach(), 0.0)
        return torch.where(kept_N, x_N - x_N.sum() / n, 0.0)

    return centred(logp_theta_N) * centred(advantages_N)


def largest(values_N: Tensor, count: int, allowed_N: Tensor | None = None) -> Tensor:
    """bool `[N]`: the `count` largest among the allowed (fewer where there are fewer); of equal ones the lower index first."""
    if allowed_N is not None:
        values_N = torch.where(allowed_N, values_N, -torch.inf)
    chosen_N = torch.zeros_like(values_N, dtype=torch.bool)
    chosen_N[torch.argsort(values_N, descending=True, stable=True)[:count]] = True
    return chosen_N if allowed_N is None else chosen_N & allowed_N


def chosen_count(inputs: LossInputs, fraction: float) -> int:
    """``max(1, floor(fraction N))`` of the N tokens present."""
    n = inputs.sequence_N.shape[0] if inputs.mask_N is None else int(inputs.mask_N.sum())
    return max(1, int(n * fraction))


class ClipCovLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="clip_cov"):
    """Clipped PPO that takes the gradient from a small share of tokens with covariance inside a band.

    Only tokens PPO has not clipped are candidates. The authors draw them at random from the band; here those with the
    largest covariance in it are taken (ours), so that the loss is a function of its inputs. Token losses stay in the sum.

    Source: arXiv 2505.22617 eq. 12; formula [clip-cov].
    """

    fraction: float = 2e-4
    """Share of the step's tokens that lose their gradient, in (0, 1]; at least one token."""
    low: float = 1.0
    """Covariance above which a token is a candidate."""
    high: float = 5.0
    """Covariance below which it is; above `low`."""
    eps_low: float = 0.2
    """As in clipped PPO, in (0, 1)."""
    eps_high: float = 0.2
    """As in clipped PPO, above 0."""

    scope: ClassVar[Scope] = "step"
    """A token's loss depends on the whole step."""

    def __post_init__(self) -> None:
        check_eps("clip_cov", self.eps_low, self.eps_high)
        if not (0.0 < self.fraction <= 1.0 and self.low < self.high):
            raise ConfigError(f"clip_cov needs fraction in (0, 1] and low < high, got {self!r}")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `ppo_clip` and detaches the chosen tokens."""
        theta_N, advantages_N = inputs.logp_theta_N, inputs.advantages_N
        terms = ppo_clip(theta_N, inputs.logp_old_N, advantages_N, eps_low=self.eps_low, eps_high=self.eps_high)
        covariance_N = covariance(theta_N, advantages_N, inputs.mask_N)
        allowed_N = (covariance_N > self.low) & (covariance_N < self.high)
        for clipped_N in terms.shares.values():
            allowed_N = allowed_N & ~clipped_N
        chosen_N = largest(covariance_N, chosen_count(inputs, self.fraction), allowed_N)
        loss_N = torch.where(chosen_N, terms.loss_N.detach(), terms.loss_N)
        return TokenTerms(loss_N, {**terms.shares, "clip_cov": chosen_N})


class KLCovLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="kl_cov"):
    """``-A r``, plus ``coef |log r|`` for the tokens with the largest covariance of the step.

    log pi [-.1, -2, -.7, -1.2, -.3], A [1, -1, .5, .5, -1], r [1.1, .9, 1, 1.3, .8], fraction .4: tokens 0 and 1 are chosen,
    losses [-1.004690, 1.005361, -.5, -.65, .8].   Source: arXiv 2505.22617 eq. 14; formula [kl-cov].
    """

    fraction: float = 2e-4
    """Share of the step's tokens that are penalised, in (0, 1]; at least one token."""
    coef: float = 1.0
    """Strength of the penalty, at least 0."""

    scope: ClassVar[Scope] = "step"
    """A token's loss depends on the whole step."""

    def __post_init__(self) -> None:
        if not (0.0 < self.fraction <= 1.0 and self.coef >= 0.0):
            raise ConfigError(f"kl_cov needs fraction in (0, 1] and coef >= 0, got {self!r}")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """The plain surrogate with the penalty."""
        moved_N = log_ratio(inputs.logp_theta_N, inputs.logp_old_N)
        covariance_N = covariance(inputs.logp_theta_N, inputs.advantages_N, inputs.mask_N)
        chosen_N = largest(covariance_N, chosen_count(inputs, self.fraction), inputs.mask_N)
        penalty_N = torch.where(chosen_N, self.coef * moved_N.abs(), 0.0)
        return TokenTerms(-inputs.advantages_N * moved_N.exp() + penalty_N, {"penalised_cov": chosen_N})
