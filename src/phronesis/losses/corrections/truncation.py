"""Importance weights with a bound: truncated (TIS), masked (MIS, IcePop), per token or per sequence.

log rho = [.3, -.1, .5]: product 2.013753, which a cap of 2 truncates to 2.
"""

from __future__ import annotations

from math import log
from typing import ClassVar

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.corrections.base import Correction, Numerator, leave_out, log_weight
from phronesis.losses.inputs import MAX_LOG_RATIO, TIE, LossInputs, Scope
from phronesis.losses.sequences import sequence_sum, spread


def truncated(log_weight_N: Tensor, cap: float) -> Tensor:
    """``min(rho, cap)`` from log rho (nats), any shape."""
    return log_weight_N.exp().clamp_max(cap)


def inside(log_weight_N: Tensor, low: float, high: float) -> Tensor:
    """bool: ``low <= rho <= high`` from log rho (nats), a closed interval; within 1e-9 nats of a bound counts as on it.

    Bounds .5 and 2: rho .49, .5, 1, 2, 2.01 give False, True, True, True, False.
    """
    return (log_weight_N >= log(low) - TIE) & (log_weight_N <= log(high) + TIE)


def masked(log_weight_N: Tensor, low: float, high: float) -> Tensor:
    """``rho`` where ``low <= rho <= high``, else 0, from log rho (nats).   Formula [pop] with bounds 1/beta and beta."""
    return torch.where(inside(log_weight_N, low, high), log_weight_N.exp(), 0.0)


def sequence_log_weight(log_weight_N: Tensor, inputs: LossInputs) -> Tensor:
    """Log of the product of a sequence's ratios, clamped, nats `[S]`.

    A product grows with length: 1.05 ten times is 1.63, a hundred times 131.5, so long sequences leave any interval. A mean
    of logs does not, but misses single bad tokens.   Formula [length-trap].
    """
    return sequence_sum(log_weight_N, inputs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


class TokenTIS(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tis_token"):
    """Truncated importance weight of each token: ``min(rho, cap)``.   Formula [tis-token]."""

    cap: float = 2.0
    """Largest weight, above 0."""
    of: Numerator = "old"
    """Numerator of rho."""

    def __post_init__(self) -> None:
        _above("tis_token cap", self.cap)

    def correct(self, inputs: LossInputs) -> Correction:
        """Weights."""
        log_N = log_weight(inputs, self.of)
        return Correction(weight_N=truncated(log_N, self.cap), shares={"truncated_tis_token": log_N > log(self.cap)})


class SequenceTIS(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tis_seq"):
    """Truncated product of a sequence's ratios, on all its tokens: ``min(prod rho, cap)``.   Formula [tis-seq]."""

    cap: float = 2.0
    """Largest weight, above 0."""
    of: Numerator = "old"
    """Numerator of rho."""

    scope: ClassVar[Scope] = "sequence"
    """A token's loss depends on its sequence."""

    def __post_init__(self) -> None:
        _above("tis_seq cap", self.cap)

    def correct(self, inputs: LossInputs) -> Correction:
        """Weights."""
        log_N = spread(sequence_log_weight(log_weight(inputs, self.of), inputs), inputs)
        return Correction(weight_N=truncated(log_N, self.cap), shares={"truncated_tis_seq": log_N > log(self.cap)})


class SequenceMIS(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tis_seq_mask"):
    """Product of a sequence's ratios where it is at most `cap`, else 0; no lower bound.   TRL's default; [tis-seq-mask]."""

    cap: float = 3.0
    """Largest product that counts, above 0."""
    of: Numerator = "old"
    """Numerator of rho."""

    scope: ClassVar[Scope] = "sequence"
    """A token's loss depends on its sequence."""

    def __post_init__(self) -> None:
        _above("tis_seq_mask cap", self.cap)

    def correct(self, inputs: LossInputs) -> Correction:
        """Weights; a dropped sequence stays in the denominators."""
        log_N = spread(sequence_log_weight(log_weight(inputs, self.of), inputs), inputs)
        weight_N = masked(log_N, _SMALLEST, self.cap)
        return Correction(weight_N=weight_N, shares={"zeroed_tis_seq_mask": weight_N == 0})


class TokenMIS(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mis"):
    """Masked importance weight of each token: rho where ``low <= rho <= high``, else it is left out.   Formula [mis]."""

    low: float = 0.5
    """Smallest ratio that counts, above 0."""
    high: float = 2.0
    """Largest ratio that counts, at least `low`; verl 5, TRL and GLM-5 2."""
    of: Numerator = "old"
    """Numerator of rho."""
    reject: bool = False
    """Take left-out tokens out of the denominators too. False, as in IcePop, keeps them there."""

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= self.high:
            raise ConfigError(f"mis needs 0 < low <= high, got {self.low!r} and {self.high!r}")

    @property
    def scope(self) -> Scope:
        """Denominators that shrink are those of the whole step."""
        return "step" if self.reject else "token"

    def correct(self, inputs: LossInputs) -> Correction:
        """Weights, and exclusions where they reject."""
        log_N = log_weight(inputs, self.of)
        found = leave_out(inside(log_N, self.low, self.high), "mis", reject=self.reject)
        return found._replace(weight_N=masked(log_N, self.low, self.high))


class IcePop(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="icepop"):
    """`TokenMIS` on [1 / beta, beta]; popped tokens stay in the denominators.

    beta 2: rho .49, .5, 1, 2, 2.01 weigh 0, .5, 1, 2, 0. Over clipped PPO it is the loss of GLM-5's reasoning stage.

    Source: GLM-5, arXiv 2602.15763; formulas [pop], [icepop].
    """

    beta: float = 2.0
    """Bound of the ratio and of its inverse, at least 1."""

    def __post_init__(self) -> None:
        if not self.beta >= 1.0:
            raise ConfigError(f"icepop beta {self.beta!r} must be at least 1")

    def correct(self, inputs: LossInputs) -> Correction:
        """Weights."""
        weight_N = masked(log_weight(inputs, "old"), 1.0 / self.beta, self.beta)
        return Correction(weight_N=weight_N, shares={"zeroed_icepop": weight_N == 0})


_SMALLEST = 1e-12
"""Below exp(-20), where every log-ratio is clamped: no lower bound."""


def _above(what: str, value: float) -> None:
    if not value > 0.0:
        raise ConfigError(f"{what} {value!r} must be above 0")
