"""Entropy of a distribution, and a bonus coefficient that keeps it at a target."""

from __future__ import annotations

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError


def entropy(logp_V: Tensor) -> Tensor:
    """``-sum p log p`` over the last axis, nats; 0 log 0 is 0.

    [.7, .2, .1]: .801819.   Source: formula [entropy].

    Args:
        logp_V: nats `[..., V]`, normalised; -inf allowed.
    """
    return -(logp_V.exp() * logp_V.clamp_min(torch.finfo(logp_V.dtype).min)).sum(-1)


class EntropyTarget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Moves the coefficient of the entropy bonus so that the entropy stays above a target.

    After every optimiser step the coefficient rises by `step` when the mean entropy was at most the target, else it falls;
    it is not below 0 (ours). The bonus is applied only while the entropy last seen was at most the target.
    Target .2, step .005, coefficient .01: entropy .15 gives .015, applied; entropy .3 gives .005, not applied.

    Source: Skywork-OR1, arXiv 2505.22312.
    """

    target: float
    """Nats, above 0."""
    step: float = 0.005
    """Change of the coefficient per optimiser step, above 0."""

    def __post_init__(self) -> None:
        if not (self.target > 0.0 and self.step > 0.0):
            raise ConfigError(f"entropy target and step must be above 0, got {self.target!r} and {self.step!r}")

    def adapt(self, coef: float, seen: float) -> float:
        """The coefficient after a step with mean entropy `seen` (nats)."""
        return max(0.0, coef + self.step if self.applies(seen) else coef - self.step)

    def applies(self, seen: float) -> bool:
        """Whether the bonus is applied after a mean entropy of `seen` (nats)."""
        return seen <= self.target
