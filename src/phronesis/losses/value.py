"""Value losses: how a critic learns to expect returns. Shapes: N tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phronesis.losses.inputs import masked_sum


class ValueTerms(NamedTuple):
    """Half squared errors."""

    loss_N: Tensor
    """Per token; 0 outside the mask."""
    clipped_N: Tensor
    """bool: the clipped value decided, so that the token moves no weight."""


def value_clip(
    values_N: Tensor, old_N: Tensor, returns_N: Tensor, *, clip: float | None = 0.2, mask_N: Tensor | None = None
) -> ValueTerms:
    """``½ max((v - R)², (v_c - R)²)`` with ``v_c = clip(v, old ± clip)``: a value that already moved far from `old` in this
    step is pulled no further the same way.

    Source: the PPO reference code; formula [value-clip]. v 1.5, old 1, R 2, clip .2: .32.

    Args:
        values_N: current values; carry the gradient.
        old_N: values before the step.
        returns_N: what is to be expected.
        clip: at least 0; None means plain ``½ (v - R)²``.
        mask_N: bool; what stands elsewhere is not read. None means all.
    """
    if mask_N is not None:
        zero = torch.zeros((), dtype=values_N.dtype, device=values_N.device)
        values_N, old_N, returns_N = (torch.where(mask_N, x, zero) for x in (values_N, old_N, returns_N))
    plain_N = (values_N - returns_N).square()
    if clip is None:
        return ValueTerms(0.5 * plain_N, torch.zeros_like(plain_N, dtype=torch.bool))
    near_N = (old_N + (values_N - old_N).clamp(-clip, clip) - returns_N).square()
    return ValueTerms(0.5 * torch.maximum(plain_N, near_N), near_N > plain_N)


def value_loss(terms: ValueTerms, tokens: int | None = None, mask_N: Tensor | None = None) -> Tensor:
    """Token mean of value losses; nothing gives 0.

    Args:
        terms: of some or all tokens of a step.
        tokens: how many the whole step has, so that micro-batches add up; None means these are all.
        mask_N: bool, as for `value_clip`.
    """
    if tokens is None:
        tokens = terms.loss_N.numel() if mask_N is None else int(mask_N.sum())
    return masked_sum(terms.loss_N, mask_N) / max(tokens, 1)


def explained_variance(values_N: Tensor, returns_N: Tensor) -> float | None:
    """``1 - Var(R - V) / Var(R)``: 1 for a perfect critic, 0 for one that says a constant, below 0 for a misleading one.

    None when the returns do not vary. Values (0, 1), returns (0, 2): .75.
    """
    if returns_N.numel() < 2:
        return None
    spread = float(returns_N.double().var(correction=0))
    if spread <= 1e-12:
        return None
    return 1.0 - float((returns_N.double() - values_N.double()).var(correction=0)) / spread
