"""M2PO: drop the few tokens that make the second moment of the log-ratio large, and nothing else."""

from __future__ import annotations

from typing import ClassVar

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.inputs import TIE, LossInputs, Scope, log_ratio
from phronesis.losses.objectives.policy_gradient import TokenTerms


def second_moment(log_ratio_N: Tensor, keep_N: Tensor) -> Tensor:
    """Mean of (log r)² over the kept tokens; 0 when there are none.

    [.05, -.1, .3, -.5, .02]: .07058.
    """
    return torch.where(keep_N, log_ratio_N, 0.0).square().sum() / keep_N.sum().clamp_min(1)


def m2_keep(log_ratio_N: Tensor, tau: float, mask_N: Tensor | None = None) -> Tensor:
    """bool `[N]`: the tokens that remain when the largest |log r| are dropped until the mean of (log r)² is at most `tau`.

    [.05, -.1, .3, -.5, .02], tau .04: -.5 is dropped, which leaves .025725. Of equal ones the lower index goes first; all
    may go. Computed by sorting: means of the smallest k grow with k.

    Args:
        log_ratio_N: nats.
        tau: at least 0.
        mask_N: bool; False tokens neither count nor remain. None means all True.

    Source: M2PO, arXiv 2510.01161; formula [m2po]. The second moment, because in the mean of log r signs cancel.
    """
    sizes_N = log_ratio_N.detach().square()
    if mask_N is not None:
        sizes_N = torch.where(mask_N, sizes_N, torch.inf)
    order_N = torch.argsort(sizes_N.flip(0), stable=True)
    order_N = sizes_N.shape[0] - 1 - order_N  # equal ones: higher index first
    ascending_N = sizes_N[order_N]
    ranks_N = torch.arange(1, sizes_N.shape[0] + 1, dtype=sizes_N.dtype, device=sizes_N.device)
    keep_N = torch.zeros_like(sizes_N, dtype=torch.bool)
    keep_N[order_N] = ascending_N.cumsum(0) / ranks_N <= tau + TIE
    return keep_N


class M2POLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="m2po"):
    """``-keep r A`` per token without an epsilon clip; dropped tokens stay in the denominator (the source leaves it open).

    All tokens are judged, harmful or not, on theta / old; set the learner's ``old = "sampler"`` for theta / behaviour.
    See `m2_keep`.
    """

    tau: float = 0.04
    """Largest mean of (log r)² of a step, above 0."""

    scope: ClassVar[Scope] = "step"
    """A token's loss depends on the whole step."""

    def __post_init__(self) -> None:
        if not self.tau > 0.0:
            raise ConfigError(f"m2po tau {self.tau!r} must be above 0")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Drops tokens of the step, the rest is the plain surrogate."""
        moved_N = log_ratio(inputs.logp_theta_N, inputs.logp_old_N)
        keep_N = m2_keep(moved_N, self.tau, inputs.mask_N)
        return TokenTerms(torch.where(keep_N, -moved_N.exp() * inputs.advantages_N, 0.0), {"clip_m2": ~keep_N})
