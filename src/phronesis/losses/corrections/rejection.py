"""Tokens and sequences whose sampler and learner disagree too much to be learned from, and two other selections.

Every rule leaves out by rejection or by weight 0 (see `corrections`). Means over a sequence are over its trained tokens;
strict comparisons: a value on the bound stays.
"""

from __future__ import annotations

from math import ceil, log
from typing import ClassVar, Literal

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.corrections.base import Correction, Numerator, leave_out, log_weight
from phronesis.losses.corrections.truncation import inside
from phronesis.losses.inputs import TIE, LossInputs, Scope
from phronesis.losses.objectives.covariance import largest
from phronesis.losses.sequences import sequence_mean, sequence_sum, spread


def k2_of(log_weight_N: Tensor) -> Tensor:
    """``log² rho / 2``."""
    return 0.5 * log_weight_N.square()


def k3_of(log_weight_N: Tensor) -> Tensor:
    """``rho - 1 - log rho``; log rho = [.3, -.1, .5] has mean .067806."""
    return torch.expm1(log_weight_N) - log_weight_N


class GeometricReject(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="geo_reject"):
    """Keeps a sequence where ``low <= exp(mean log rho) <= high``: independent of length, blind to single tokens.

    log rho = [.002, -.001, .0015]: 1.000834, kept by [.999, 1.001]. Combine it with `Veto`.   Formula [geo-reject].
    """

    low: float = 0.999
    """Smallest geometric mean, above 0; slime .9999."""
    high: float = 1.001
    """Largest geometric mean, at least `low`; slime 1.0001."""
    of: Numerator = "old"
    """Numerator of rho."""
    reject: bool = True
    """Take left-out sequences out of the denominators too."""

    scope: ClassVar[Scope] = "step"
    """A token's loss depends on the whole step."""

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= self.high:
            raise ConfigError(f"geo_reject needs 0 < low <= high, got {self.low!r} and {self.high!r}")

    def correct(self, inputs: LossInputs) -> Correction:
        """Exclusions."""
        mean_S = sequence_mean(log_weight(inputs, self.of), inputs)
        return leave_out(spread(inside(mean_S, self.low, self.high), inputs), "geo_reject", reject=self.reject)


class Veto(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="veto"):
    """Drops a sequence in which any token has rho below `threshold`.   As in verl and slime; formula [veto]."""

    threshold: float = 1e-4
    """Smallest ratio a token may have, above 0."""
    of: Numerator = "old"
    """Numerator of rho."""
    reject: bool = True
    """Take left-out sequences out of the denominators too."""

    scope: ClassVar[Scope] = "step"
    """A token's loss depends on the whole step."""

    def __post_init__(self) -> None:
        if not self.threshold > 0.0:
            raise ConfigError(f"veto threshold {self.threshold!r} must be above 0")

    def correct(self, inputs: LossInputs) -> Correction:
        """Exclusions."""
        bad_N = log_weight(inputs, self.of) < log(self.threshold) - TIE
        bad_S = sequence_sum(bad_N.to(torch.int64), inputs)
        return leave_out(spread(bad_S == 0, inputs), "veto", reject=self.reject)


class K3Reject(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="k3_reject"):
    """Drops a sequence whose mean ``rho - 1 - log rho`` is above `threshold`.   As in verl; formula [k3-reject]."""

    threshold: float = 1e-3
    """Nats, at least 0; verl suggests .001 to .01."""
    of: Numerator = "old"
    """Numerator of rho."""
    reject: bool = True
    """Take left-out sequences out of the denominators too."""

    scope: ClassVar[Scope] = "step"
    """A token's loss depends on the whole step."""

    def __post_init__(self) -> None:
        if not self.threshold >= 0.0:
            raise ConfigError(f"k3_reject threshold {self.threshold!r} must be at least 0")

    def correct(self, inputs: LossInputs) -> Correction:
        """Exclusions."""
        mean_S = sequence_mean(k3_of(log_weight(inputs, self.of)), inputs)
        return leave_out(spread(~(mean_S > self.threshold + TIE), inputs), "k3_reject", reject=self.reject)


class K2Reject(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="k2_reject"):
    """Drops a token whose ``log² rho / 2`` is above `threshold`, or a sequence whose mean is.

    log rho = [.5, -2.2, 1.9], threshold 2: k2 [.125, 2.42, 1.805], the second is dropped.   As in verl; formula [k2-reject].
    """

    threshold: float = 2.0
    """Nats², at least 0; verl suggests 1.5 to 3."""
    level: Literal["token", "sequence"] = "token"
    """What is judged and dropped."""
    of: Numerator = "old"
    """Numerator of rho."""
    reject: bool = True
    """Take what is left out out of the denominators too."""

    scope: ClassVar[Scope] = "step"
    """A token's loss depends on the whole step."""

    def __post_init__(self) -> None:
        if not self.threshold >= 0.0:
            raise ConfigError(f"k2_reject threshold {self.threshold!r} must be at least 0")

    def correct(self, inputs: LossInputs) -> Correction:
        """Exclusions."""
        k2_N = k2_of(log_weight(inputs, self.of))
        if self.level == "sequence":
            k2_N = spread(sequence_mean(k2_N, inputs), inputs)
        return leave_out(~(k2_N > self.threshold + TIE), "k2_reject", reject=self.reject)


class OffPolicySequenceMask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="opsm"):
    """Drops a sequence with negative advantage whose tokens have become less likely by more than `delta` on average.

    The mean over its tokens of old - theta, nats; with credit per token, the sign of its mean counts.
    old [-1, -1], theta [-1.2, -1.4], delta .1: dropped for A = -1, kept for A = 1.

    Source: DeepSeek-V3.2, arXiv 2512.02556; formula [opsm].
    """

    delta: float = 1e-4
    """Nats per token, at least 0; slime 1e-4, TRL suggests .5."""
    of: Literal["old", "infer"] = "old"
    """What theta is compared with; TRL takes the sampler."""
    reject: bool = False
    """Take left-out sequences out of the denominators too. False, as in the sources, keeps them there."""

    def __post_init__(self) -> None:
        if not self.delta >= 0.0:
            raise ConfigError(f"opsm delta {self.delta!r} must be at least 0")

    @property
    def scope(self) -> Scope:
        """Denominators that shrink are those of the whole step."""
        return "step" if self.reject else "sequence"

    def correct(self, inputs: LossInputs) -> Correction:
        """Exclusions."""
        before_N = inputs.logp_old_N if self.of == "old" else inputs.logp_infer_N
        fall_S = sequence_mean(before_N - inputs.logp_theta_N.detach(), inputs)
        worse_S = sequence_mean(inputs.advantages_N, inputs) < 0
        return leave_out(spread(~(worse_S & (fall_S > self.delta + TIE)), inputs), "opsm", reject=self.reject)


class TopEntropy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="ent_top"):
    """Learns only from the tokens of highest entropy of the step: ``ceil(share * N)`` of them, ties to the lower index.

    Needs the exact entropy of the current policy (the learner's ``entropy = true``). How many tokens a share is, is our
    choice; dropped tokens stay in the denominators, as in the source.   Source: arXiv 2506.01939; formula [ent-top].
    """

    share: float = 0.2
    """Share of the step's trained tokens that learn, in (0, 1]."""
    reject: bool = False
    """Take left-out tokens out of the denominators too."""

    scope: ClassVar[Scope] = "step"
    """A token's loss depends on the whole step."""

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ConfigError(f"ent_top share {self.share!r} must be in (0, 1]")

    def correct(self, inputs: LossInputs) -> Correction:
        """Exclusions."""
        if inputs.entropy_N is None:
            raise ConfigError("ent_top needs the entropy of each token; set `entropy = true` for the learner")
        n = inputs.sequence_N.shape[0] if inputs.mask_N is None else int(inputs.mask_N.sum())
        keep_N = largest(inputs.entropy_N.detach(), ceil(round(self.share * n, 9)), inputs.mask_N)
        return leave_out(keep_N, "ent_top", reject=self.reject)
