"""Several losses at once, each divided by its own number of tokens.

So a stream of supervised tokens (cross-entropy on observations, say) does not dilute the policy gradient, and an empty
stream adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from phronesis.losses.inputs import masked_sum


class Stream(NamedTuple):
    """One loss."""

    loss_N: Tensor
    """Loss of each token; not read where the weight is 0."""
    weight_N: Tensor
    """Factor of each token; 0 where the token does not belong to the stream."""
    tokens: int | None = None
    """Tokens of the whole step with a weight that is not 0: the denominator. None means those given are all."""


def composite(streams: Iterable[Stream]) -> Tensor:
    """``sum_k sum_t w_kt l_kt / N_k``, N_k the tokens of stream k with a weight that is not 0; an empty one adds 0.

    rl losses [.5, -1] (weights 1), ce losses [3, .5] (weights .1): -.25 + .175 = -.075.   Formula [composite].

    Raises:
        ValueError: there is no stream.
    """
    found: list[Tensor] = []
    for stream in streams:
        used_N = stream.weight_N != 0
        tokens = int(used_N.sum()) if stream.tokens is None else stream.tokens
        found.append(masked_sum(torch.where(used_N, stream.loss_N, 0.0) * stream.weight_N, used_N) / max(tokens, 1))
    if not found:
        raise ValueError("composite needs at least one stream")
    return torch.stack(found).sum()
