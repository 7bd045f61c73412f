"""Corrections of the difference between the policy that sampled and the one that learns: weights, and tokens left out.

A correction never carries a gradient. It gives a weight per token, or says which tokens do not count; several multiply and
exclude together, each judged on all trained tokens before any is left out. Two ways to leave out, and they differ:
*zero weight* keeps the tokens in the denominators, so the step becomes smaller; *rejection* takes them out of numerator and
denominators, so the rest is scaled up. Every correction that leaves tokens out has a field `reject`, whose default is its
source's rule.

The ratio is rho = old / infer (`of` = "old"), or theta / infer without gradient (`of` = "theta", for REINFORCE without an
`old` of its own). Where the learner takes the sampler's log-probabilities for `old`, rho is 1 and does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from phronesis.losses.inputs import LossInputs, distinct, log_ratio
from phronesis.losses.sequences import sequence_sum

Numerator = Literal["old", "theta"]
"""Which policy the sampler is compared with."""


class Correction(NamedTuple):
    """What a correction says; None where it says nothing."""

    weight_N: Tensor | None = None
    """Factor of each token's loss `[N]`."""
    keep_N: Tensor | None = None
    """bool `[N]`: False where the token leaves numerator and denominators."""
    shares: dict[str, Tensor] | None = None
    """By name: `[N]`, bool; its mean over trained tokens becomes a metric. None means none."""


class CorrectionRule(Protocol):
    """A correction as configured."""

    def correct(self, inputs: LossInputs) -> Correction:
        """Weights and exclusions for cleaned inputs."""
        ...


def log_weight(inputs: LossInputs, of: Numerator) -> Tensor:
    """Clamped log of the ratio that is corrected, nats `[N]`, without gradient."""
    numerator_N = inputs.logp_old_N if of == "old" else inputs.logp_theta_N
    return log_ratio(numerator_N.detach(), inputs.logp_infer_N)


def leave_out(keep_N: Tensor, name: str, *, reject: bool) -> Correction:
    """Leaves out the tokens where `keep_N` is False: by rejection, or by weight 0."""
    shares = {f"{'rejected' if reject else 'zeroed'}_{name}": ~keep_N}
    return Correction(keep_N=keep_N, shares=shares) if reject else Correction(weight_N=keep_N, shares=shares)


def combine(rules: Sequence[CorrectionRule], inputs: LossInputs, *, normalise: bool = False) -> Correction:
    """All corrections together: weights multiply, exclusions unite.

    Args:
        rules: in any order.
        inputs: cleaned.
        normalise: divide the weights by their mean over the tokens that stay, after all truncation and masking.
            rho = [.5, 1, 2] under no effective cap: [.428571, .857143, 1.714286].
    """
    weight_N, keep_N, shares = None, None, dict[str, Tensor]()
    for rule in rules:
        found = rule.correct(inputs)
        shares |= found.shares or {}
        if found.weight_N is not None:
            own_N = found.weight_N.to(inputs.logp_theta_N.dtype)
            weight_N = own_N if weight_N is None else weight_N * own_N
        if found.keep_N is not None:
            keep_N = found.keep_N if keep_N is None else keep_N & found.keep_N
    if weight_N is not None and normalise:
        weight_N = normalised(weight_N, _staying(inputs, keep_N))
    if weight_N is not None:
        shares["weight"] = weight_N
    return Correction(weight_N, keep_N, shares)


def normalised(weight_N: Tensor, mask_N: Tensor | None = None) -> Tensor:
    """``w / mean(w)`` over the mask; unchanged where the mean is 0."""
    kept_N = weight_N if mask_N is None else torch.where(mask_N, weight_N, 0.0)
    n = weight_N.shape[0] if mask_N is None else mask_N.sum()
    mean = kept_N.sum() / max(int(n), 1)
    return torch.where(mean > 0, weight_N / torch.where(mean > 0, mean, 1.0), weight_N)


def rejected(inputs: LossInputs, keep_N: Tensor) -> LossInputs:
    """The inputs without the tokens where `keep_N` is False: masked, and no longer counted in any denominator.

    A sequence or turn that loses its last token is not counted either. Right where all tokens of the step are present, since
    the denominators are the whole step's. A token of weight 0 stays in the mean, one left out does not: formula
    [zero-vs-reject].
    """
    mask_N = torch.ones_like(keep_N) if inputs.mask_N is None else inputs.mask_N
    left_N, gone_N = mask_N & keep_N, mask_N & ~keep_N
    totals = inputs.totals
    tokens_S = totals.tokens_S - sequence_sum(torch.ones_like(inputs.sequence_N), inputs._replace(mask_N=gone_N))
    emptied = int(((tokens_S == 0) & (totals.tokens_S > 0)).sum())
    turns = totals.turns - (_units(inputs, mask_N) - _units(inputs, left_N))
    tokens = totals.tokens - int(gone_N.sum())
    fewer = totals._replace(tokens=tokens, sequences=totals.sequences - emptied, tokens_S=tokens_S, turns=turns)
    return inputs._replace(mask_N=left_N, totals=fewer)


def _staying(inputs: LossInputs, keep_N: Tensor | None) -> Tensor | None:
    if keep_N is None:
        return inputs.mask_N
    return keep_N if inputs.mask_N is None else keep_N & inputs.mask_N


def _units(inputs: LossInputs, mask_N: Tensor) -> int:
    """How many turns have a token in the mask."""
    return distinct(inputs.sequence_N[mask_N], inputs.turn_N[mask_N])[0].shape[0]
