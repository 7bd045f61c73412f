"""The divergence from a frozen reference: as a term of the loss, or inside the reward.

Which estimator is right depends on the place. In the reward its detached value multiplies grad log pi, so the unbiased k1 is
right. In the loss it is differentiated itself: then k1 has gradient 0 in expectation and k3 that of the other direction,
KL(ref || pi); k2, k3plus and (off-policy) unbiased have the right one. Only those three can be chosen for the loss, and
k3 under its own name as what the original GRPO does.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.divergence.kl import adapt_kl, kl_k1, kl_k2, kl_k3, kl_k3plus, kl_unbiased
from phronesis.losses.inputs import LossInputs, Scope
from phronesis.losses.sequences import to_go


class KLTarget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Moves the coefficient so that the divergence approaches a target.   See `adapt_kl`."""

    target: float
    """Nats per token, above 0."""
    horizon: float = 10000.0
    """Sequences over which the coefficient may change by `clip`, above 0."""
    clip: float = 0.2
    """Largest relative error that counts, above 0."""

    def __post_init__(self) -> None:
        if not (self.target > 0.0 and self.horizon > 0.0 and self.clip > 0.0):
            raise ConfigError(f"kl target, horizon and clip must be above 0, got {self!r}")

    def adapt(self, coef: float, seen: float, sequences: int) -> float:
        """The coefficient after a step with mean divergence `seen` (nats per token) over that many sequences."""
        return adapt_kl(coef, seen, sequences, target=self.target, horizon=self.horizon, clip=self.clip)


class KLInLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="loss"):
    """Adds ``coef * KL`` per trained token to the loss, aggregated like the loss over all trained tokens of the step."""

    coef: float
    """Strength, above 0."""
    estimator: Literal["k2", "k3plus", "unbiased", "k3"] = "k3plus"
    """k2 and k3plus: gradient of KL(pi || ref) on samples of the current policy. unbiased: the same on samples of `old`.
    k3: gradient of KL(ref || pi), as in the original GRPO (arXiv 2402.03300 eq. 4)."""
    adaptive: KLTarget | None = None
    """Moves `coef` during the run; None keeps it."""

    scope: ClassVar[Scope] = "token"
    """A token's loss depends on itself."""

    def __post_init__(self) -> None:
        _positive(self.coef)

    def values(self, inputs: LossInputs, ref_N: Tensor) -> Tensor:
        """The estimate per token `[N]`, nats, with its gradient."""
        theta_N = inputs.logp_theta_N
        if self.estimator == "unbiased":
            return kl_unbiased(theta_N, inputs.logp_old_N, ref_N)
        return {"k2": kl_k2, "k3plus": kl_k3plus, "k3": kl_k3}[self.estimator](theta_N, ref_N)


class KLInReward(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="reward"):
    """Subtracts ``coef * k1`` from every token's reward: the credit of a token falls by coef times the k1 to come.

    k1 = log old - log ref: the policy that acted, so a constant of the update. With gamma 1 the added policy gradient is, in
    expectation, that of the sequence's KL(pi || ref); with gamma 0 each token answers for its own term only (less variance,
    myopic). Tokens of a forked episode are taken in the order of the batch. No baseline is subtracted and nothing is
    normalised afterwards.
    """

    coef: float
    """Strength, above 0."""
    gamma: float = 1.0
    """Discount per trained token of the k1 to come, in [0, 1]."""
    adaptive: KLTarget | None = None
    """Moves `coef` during the run; None keeps it."""

    def __post_init__(self) -> None:
        _positive(self.coef)
        if not 0.0 <= self.gamma <= 1.0:
            raise ConfigError(f"kl gamma {self.gamma!r} must be in [0, 1]")

    @property
    def scope(self) -> Scope:
        """Whole sequences, unless each token answers for itself."""
        return "sequence" if self.gamma else "token"

    def values(self, inputs: LossInputs, ref_N: Tensor) -> Tensor:
        """k1 per token `[N]`, nats, without gradient."""
        return kl_k1(inputs.logp_old_N, ref_N)

    def charge(self, values_N: Tensor, inputs: LossInputs) -> Tensor:
        """What the penalty takes from each token's credit, before `coef`, `[N]`."""
        return to_go(values_N, inputs, self.gamma)


KLPenalty = KLInLoss | KLInReward
"""Where the divergence from the reference enters, told apart by its tag in configs."""


def _positive(coef: float) -> None:
    if not coef > 0.0:
        raise ConfigError(f"kl coef {coef!r} must be above 0; leave kl out for none")
