"""Token objectives of the policy gradient: REINFORCE and clipped PPO.

Each objective is a frozen Struct (its configuration) whose `terms` is a pure function of the inputs. The coefficient c in
``dLoss/dtheta = -c * A * grad log pi`` is what they differ in; at ratio 1 it is 1 for all of them.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.inputs import LossInputs, log_ratio


class TokenTerms(NamedTuple):
    """Per-token losses and shares of tokens with some property."""

    loss_N: Tensor
    """Loss of each token, not yet aggregated."""
    shares: dict[str, Tensor]
    """By name: `[N]`, bool or float; its mean over trained tokens becomes a metric."""


class Objective(Protocol):
    """A loss of single tokens; sequences are seen through `LossInputs.sequence_N`."""

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Per-token losses of cleaned inputs (0 at masked positions)."""
        ...


def reinforce(logp_theta_N: Tensor, advantages_N: Tensor) -> Tensor:
    """``-A * log pi`` per token `[N]`.   Source: Williams 1992; formula [reinforce].

    >>> reinforce(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, -0.5]))
    tensor([ 1., -1.])
    """
    return -advantages_N * logp_theta_N


def ppo_clip(
    logp_theta_N: Tensor,
    logp_old_N: Tensor,
    advantages_N: Tensor,
    *,
    eps_low: float,
    eps_high: float,
    dual: float | None = None,
) -> TokenTerms:
    """``-min(r A, clip(r, 1 - eps_low, 1 + eps_high) A)`` per token `[N]`, with r = pi_theta / pi_old.

    With `dual` c > 1 the objective of tokens with A < 0 is at least ``c A``, which stops the gradient where r > c.
    With eps .2 / .28, (r, A) gives the objective: (1.5, 1) 1.28, (1.5, -1) -1.5, (.5, 1) .5, (.5, -1) -.8;
    with c = 3, (5, -1) -3 instead of -5.

    Source: PPO, arXiv 1707.06347 eq. 7; eps_high > eps_low is clip-higher, DAPO, arXiv 2503.14476 eq. 10; dual clip,
    arXiv 1912.09729 eq. 5; formulas [ppo], [dual-clip], [coef-table]. The clamp of the log-ratio precedes the clipping.
    """
    ratio_N = log_ratio(logp_theta_N, logp_old_N).exp()
    clipped_N = ratio_N.clamp(1.0 - eps_low, 1.0 + eps_high)
    objective_N = torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    high_N = (advantages_N > 0) & (ratio_N > 1.0 + eps_high)
    low_N = (advantages_N < 0) & (ratio_N < 1.0 - eps_low)
    shares = {"clip_high": high_N, "clip_low": low_N}
    if dual is not None:
        negative_N = advantages_N < 0
        objective_N = torch.where(negative_N, torch.maximum(objective_N, dual * advantages_N), objective_N)
        shares["clip_dual"] = negative_N & (ratio_N > dual)
    return TokenTerms(-objective_N, shares)


class ReinforceLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="reinforce"):
    """REINFORCE: exactly on-policy updates, one optimiser step per batch.   See `reinforce`."""

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `reinforce`."""
        return TokenTerms(reinforce(inputs.logp_theta_N, inputs.advantages_N), {})


class PPOClipLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ppo_clip"):
    """Clipped PPO; `eps_high` above `eps_low` is clip-higher.   See `ppo_clip`."""

    eps_low: float = 0.2
    """How far the ratio may fall below 1 before tokens with negative advantage stop learning, in (0, 1)."""
    eps_high: float = 0.28
    """How far the ratio may rise above 1 before tokens with positive advantage stop learning, above 0."""
    dual: float | None = None
    """Ratio above which tokens with negative advantage stop learning, above 1; None means never."""

    def __post_init__(self) -> None:
        if not 0.0 < self.eps_low < 1.0 or self.eps_high <= 0.0:
            raise ConfigError(f"ppo_clip needs 0 < eps_low < 1 and eps_high > 0, got {self.eps_low!r} and {self.eps_high!r}")
        if self.dual is not None and self.dual <= 1.0:
            raise ConfigError(f"ppo_clip dual {self.dual!r} must be above 1, or null for none")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `ppo_clip` to theta against old."""
        old_N, theta_N, advantages_N = inputs.logp_old_N, inputs.logp_theta_N, inputs.advantages_N
        return ppo_clip(theta_N, old_N, advantages_N, eps_low=self.eps_low, eps_high=self.eps_high, dual=self.dual)
