"""Ragged rows of a case as what a loss reads, and a loss's numbers as rows again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from phronesis.conformance.case import Inputs, Params
from phronesis.losses import (
    Aggregation,
    ConstantNorm,
    LossInputs,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    TokenMean,
    TokenTerms,
    totals_of,
)

Rows = Sequence[Sequence[float]]
"""Numbers per sequence and token."""


class HasTerms(Protocol):
    """An objective."""

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Per-token losses."""
        ...


def vector(values: Sequence[float]) -> Tensor:
    """float64 `[N]`."""
    return torch.tensor(list(values), dtype=torch.float64)


def step(
    theta: Rows,
    *,
    old: Rows | None = None,
    infer: Rows | None = None,
    adv: Sequence[float] | Rows | None = None,
    mask: Sequence[Sequence[bool]] | None = None,
    parts: Sequence[Sequence[int]] | None = None,
) -> LossInputs:
    """A whole step. Streams that are not given are 0; `adv` is one number per sequence or one per token.

    Args:
        theta: log-probabilities.
        old: likewise.
        infer: likewise.
        adv: credit.
        mask: which positions count; None means all.
        parts: number of the sub-trace (and turn) of each token; None means that there is one per sequence.
    """
    lengths = [len(row) for row in theta]
    sequence_N = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))
    zero = [[0.0] * n for n in lengths]
    mask_N = None if mask is None else torch.tensor([m for row in mask for m in row], dtype=torch.bool)
    credit = [row if isinstance(row, Sequence) else [row] * n for row, n in zip(adv or zero, lengths, strict=True)]
    part_N = torch.tensor([p for row in parts or [[0] * n for n in lengths] for p in row], dtype=torch.int64)

    def flat(rows: Rows) -> Tensor:
        return vector([x for row in rows for x in row])

    return LossInputs(
        logp_theta_N=flat(theta),
        logp_old_N=flat(old or zero),
        logp_infer_N=flat(infer or zero),
        advantages_N=flat(credit),
        sequence_N=sequence_N,
        turn_N=part_N,
        totals=totals_of(sequence_N, len(lengths), mask_N, part_N),
        mask_N=mask_N,
        trace_N=part_N,
    )


def rows_of(fields: Inputs, name: str) -> list[list[float]]:
    """The field as rows; a flat list is one row."""
    value = fields.get(name)
    nested = isinstance(value, Sequence) and any(isinstance(v, Sequence) for v in value)
    return fields.rows(name) if nested else [fields.numbers(name)]


def masks_of(fields: Inputs) -> list[list[bool]] | None:
    """The mask as rows; None when there is none."""
    if "mask" not in fields:
        return None
    value = fields.get("mask")
    nested = isinstance(value, Sequence) and any(isinstance(v, Sequence) for v in value)
    return fields.masks("mask") if nested else [fields.flags("mask")]


def is_flat(fields: Inputs, name: str) -> bool:
    """Whether the field is a list of numbers rather than of rows."""
    value = fields.get(name)
    return not (isinstance(value, Sequence) and any(isinstance(v, Sequence) for v in value))


def per_row(values_N: Tensor, inputs: LossInputs) -> list[list[float]]:
    """Numbers per token as rows."""
    lengths = cast("list[int]", torch.bincount(inputs.sequence_N, minlength=inputs.totals.tokens_S.shape[0]).tolist())  # pyright: ignore[reportUnknownMemberType]
    found, start = list[list[float]](), 0
    for n in lengths:
        found.append(cast("list[float]", values_N[start : start + n].tolist()))  # pyright: ignore[reportUnknownMemberType]
        start += n
    return found


def logs(rows: Rows) -> list[list[float]]:
    """Natural logarithms; 0 gives -inf."""
    return [cast("list[float]", vector(row).log().tolist()) for row in rows]  # pyright: ignore[reportUnknownMemberType]


def aggregation(params: Params, name: str = "aggregation", default: str = "token-mean") -> Aggregation:
    """The aggregation of that name, as verl and TRL call them."""
    mode = params.text(name, default)
    if mode == "seq-mean-token-sum-norm":
        return ConstantNorm(horizon=params.integer("horizon"))
    return {
        "token-mean": TokenMean(),
        "seq-mean-token-mean": SequenceMeanTokenMean(),
        "seq-mean-token-sum": SequenceMeanTokenSum(),
    }[mode]


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    """Derivative of a number in a leaf; 0 where it does not depend on it."""
    return torch.autograd.grad(loss, leaf, allow_unused=True, materialize_grads=True)[0]
