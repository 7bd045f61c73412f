"""What losses over pairs read: how far the policy has moved from a frozen reference on each side of each pair.

Shapes: N tokens, P pairs. Sequence ``2p`` is the chosen side of pair p and ``2p + 1`` the rejected one.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from phronesis.losses.inputs import masked_sum


class Pairs(NamedTuple):
    """P pairs, each side as one number."""

    chosen_P: Tensor
    """Nats, sum over the chosen side's tokens of ``log pi - log ref``; carries the gradient."""
    rejected_P: Tensor
    """The same for the rejected side."""
    chosen_values_P: Tensor
    """Value of the state the chosen side leads to; 0 where there is none."""
    rejected_values_P: Tensor
    """The same for the rejected side."""


class PairObjective(Protocol):
    """A loss of single pairs."""

    def losses(self, pairs: Pairs) -> Tensor:
        """`[P]`, not yet averaged."""
        ...


def sequence_log_ratio(logp_theta_N: Tensor, logp_ref_N: Tensor, sequence_N: Tensor, sequences: int) -> Tensor:
    """``sum over tokens of log pi - log ref`` for each of `sequences` sequences; a sequence without tokens has 0.

    Sums, not means: a pair of different lengths is compared as the probabilities of whole answers. The tokens' order does
    not matter.

    >>> sequence_log_ratio(torch.tensor([-1.0, -0.5]), torch.tensor([-1.25, -1.0]), torch.tensor([0, 0]), 2)
    tensor([0.7500, 0.0000])
    """
    sums = torch.zeros(sequences, dtype=logp_theta_N.dtype, device=logp_theta_N.device)
    return sums.index_add(0, sequence_N, logp_theta_N - logp_ref_N)


def answer_log_ratio(logp_theta_T: Tensor, logp_ref_T: Tensor, mask_T: Tensor | None = None) -> Tensor:
    """`sequence_log_ratio` of one answer: a scalar. Tokens outside the mask are not read."""
    return masked_sum(logp_theta_T - logp_ref_T, mask_T)
