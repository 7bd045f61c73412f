"""A loss as configured: one token objective, one aggregation, an optional entropy bonus.

A new loss is a frozen Struct with `terms`; adding it to `AnyObjective` makes it a config value. Losses that need more than
per-token terms implement `Loss` directly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.aggregation import Aggregation, TokenMean, aggregate
from phronesis.losses.dft import DFTLoss
from phronesis.losses.inputs import LossInputs, LossOutput, log_ratio, masked_sum
from phronesis.losses.kl import kl_k1, kl_k2, kl_k3
from phronesis.losses.policy_gradient import PPOClipLoss, ReinforceLoss
from phronesis.losses.supervised import SupervisedLoss

Loss = Callable[[LossInputs], LossOutput]
"""A pure function of tensors."""

AnyObjective = ReinforceLoss | PPOClipLoss | SupervisedLoss | DFTLoss
"""The built-in objectives, told apart by their tag in configs."""


class LossConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which loss to minimise."""

    objective: AnyObjective = ReinforceLoss()
    """Loss of one token."""
    aggregation: Aggregation = TokenMean()
    """How tokens are weighed."""
    entropy_bonus: float = 0.0
    """Added as ``-entropy_bonus * mean entropy`` (nats, exact entropy of trained tokens); 0 means none."""

    def __post_init__(self) -> None:
        if self.entropy_bonus < 0:
            raise ConfigError(f"entropy_bonus {self.entropy_bonus!r} must not be negative")

    def build(self) -> Loss:
        """The pure function this describes."""

        def loss(inputs: LossInputs) -> LossOutput:
            return evaluate(self, inputs)

        return loss


def evaluate(config: LossConfig, inputs: LossInputs) -> LossOutput:
    """The configured loss of some or all tokens of a step, with the metrics every loss has.

    Returns:
        `sums` holds `kl_k1`, `kl_k2`, `kl_k3` (from old to theta, nats), the objective's shares, and `entropy` when it was
        computed; each divided by the step's trained tokens (left-out episodes do not dilute them).
        `maxima` holds `ratio`, the largest pi_theta / pi_old.

    Raises:
        ConfigError: an entropy bonus without `inputs.entropy_N`.
    """
    inputs = inputs.cleaned()
    terms = config.objective.terms(inputs)
    loss_N = terms.loss_N
    if config.entropy_bonus:
        if inputs.entropy_N is None:
            raise ConfigError("an entropy bonus needs the exact entropy of each token; set `entropy = true` for the learner")
        loss_N = loss_N - config.entropy_bonus * inputs.entropy_N
    largest = log_ratio(inputs.logp_theta_N.detach(), inputs.logp_old_N)
    if inputs.mask_N is not None:
        largest = torch.where(inputs.mask_N, largest, -torch.inf)
    maxima = {"ratio": largest.max().exp()} if largest.numel() else {}
    return LossOutput(aggregate(loss_N, inputs, config.aggregation), _sums(inputs, terms.shares), maxima)


def _sums(inputs: LossInputs, shares: dict[str, Tensor]) -> dict[str, Tensor]:
    theta_N, old_N = inputs.logp_theta_N.detach(), inputs.logp_old_N
    values_N = dict(shares)
    # The divergence of old from theta under samples of old: pi is old, the reference is theta.
    values_N |= {"kl_k1": kl_k1(old_N, theta_N), "kl_k2": kl_k2(old_N, theta_N), "kl_k3": kl_k3(old_N, theta_N)}
    if inputs.entropy_N is not None:
        values_N["entropy"] = inputs.entropy_N.detach()
    tokens = inputs.totals.tokens_S.sum().clamp_min(1)
    return {name: masked_sum(x_N.to(theta_N.dtype), inputs.mask_N) / tokens for name, x_N in values_N.items()}
