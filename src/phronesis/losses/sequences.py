"""Sums and means over the tokens of a sequence, given back to each of its tokens.

Masked tokens never count. Sequences are those of `LossInputs.sequence_N`; a loss that uses these functions has scope
``sequence``, because it is only right where all tokens of a sequence are present.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from phronesis.losses.inputs import LossInputs, distinct


def counts(inputs: LossInputs) -> Tensor:
    """int64 `[S]`: tokens present of each sequence."""
    return sequence_sum(torch.ones_like(inputs.sequence_N), inputs)


def sequence_sum(x_N: Tensor, inputs: LossInputs) -> Tensor:
    """`[S]`: sum of `x_N` over each sequence; 0 for one without tokens."""
    if inputs.mask_N is not None:
        x_N = torch.where(inputs.mask_N, x_N, torch.zeros((), dtype=x_N.dtype, device=x_N.device))
    return x_N.new_zeros(inputs.totals.tokens_S.shape[0]).index_add(0, inputs.sequence_N, x_N)


def sequence_mean(x_N: Tensor, inputs: LossInputs) -> Tensor:
    """`[S]`: mean of `x_N` over each sequence; 0 for one without tokens.

    x [.1, -.2, .3] of one sequence: .066667.
    """
    return sequence_sum(x_N, inputs) / counts(inputs).clamp_min(1)


def spread(x_S: Tensor, inputs: LossInputs) -> Tensor:
    """`[N]`: each token gets the number of its sequence."""
    return x_S[inputs.sequence_N]


def to_go(x_N: Tensor, inputs: LossInputs, gamma: float) -> Tensor:
    """`[N]`: ``x_t + gamma x_(t+1) + gamma² x_(t+2) + ...`` over the later tokens of the same sequence, in the order given.

    gamma counts unmasked tokens only. x [1, 1, 1], gamma .5: [1.75, 1.5, 1]; gamma 0 gives x itself.
    """
    if gamma == 0.0 or not x_N.numel():
        return x_N
    kept = torch.ones_like(inputs.sequence_N, dtype=torch.bool) if inputs.mask_N is None else inputs.mask_N
    index_K = torch.nonzero(kept)[:, 0]
    order_K = index_K[torch.argsort(inputs.sequence_N[index_K], stable=True)]
    counted = cast("list[int]", torch.bincount(inputs.sequence_N[order_K]).tolist())  # pyright: ignore[reportUnknownMemberType]
    lengths = [n for n in counted if n]
    out_N = torch.zeros_like(x_N)
    if not lengths:
        return out_N
    rows_BL = torch.nn.utils.rnn.pad_sequence(list(torch.split(x_N[order_K], lengths)), batch_first=True)
    running, columns = torch.zeros_like(rows_BL[:, 0]), list[Tensor]()
    for x_B in reversed(rows_BL.unbind(1)):
        running = x_B + gamma * running
        columns.append(running)
    found_BL = torch.stack(columns[::-1], 1)
    out_N[order_K] = torch.cat([row[:n] for row, n in zip(found_BL.unbind(0), lengths, strict=True)])
    return out_N


class Units(NamedTuple):
    """Parts of sequences, such as turns."""

    tokens_N: Tensor
    """int64 `[N]`: tokens of the unit each token belongs to; at least 1."""
    units_S: Tensor
    """int64 `[S]`: units of each sequence that have a token."""


def units(inputs: LossInputs, part_N: Tensor) -> Units:
    """Counts the units that a sequence falls into by `part_N` (int64), e.g. its turns.

    Sequence [0, 0, 0, 1], parts [0, 0, 2, 0]: tokens [2, 2, 1, 1], units [2, 1]. Negative parts belong to nobody's turn; such
    tokens must be masked, and count nowhere.
    """
    part_N = part_N.clamp_min(0)
    kept_N = torch.ones_like(part_N, dtype=torch.bool) if inputs.mask_N is None else inputs.mask_N
    sequence_U, unit_N = distinct(inputs.sequence_N, part_N)
    tokens_U = torch.zeros_like(sequence_U).index_add(0, unit_N, kept_N.to(torch.int64))
    units_S = torch.zeros_like(inputs.totals.tokens_S).index_add(0, sequence_U, (tokens_U > 0).to(torch.int64))
    return Units(tokens_U[unit_N].clamp_min(1), units_S)
