"""VCPO's baseline of least variance, in place of one among siblings: credit of one optimiser step minus what makes the gradient
vary least under the weights theta / sampler.

Source: arXiv 2602.17616; formula [vcpo]. Ours: the baseline is that of the optimiser step, not of a group; a sequence's reward
is the mean credit of its tokens; of a sequence cut over micro-batches the squared norms of the parts add up. The baseline
contains the sequence it is subtracted from, so it is biased in a finite batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phronesis.models.causal import LanguageModel
from phronesis.train.packed import Packed
from phronesis.train.scoring import Precision, score
from phronesis.train.step_size import moved, sequence_weights, variance_baseline


class Centred(NamedTuple):
    """A step whose credit was compared with the baseline."""

    parts: list[Packed]
    """The micro-batches, with the baseline taken from the credit of every sampled token."""
    baseline: float
    """What was taken, in the unit of the credit."""


def squared_norms(logp_K: Tensor, part: Packed, parameters: Sequence[Tensor]) -> Tensor:
    """Per sequence `[S]`, the squared norm of the gradient of its summed log-probability; 0 where it has no token here.

    Args:
        logp_K: scores of the part, with their graph, which is kept.
        part: whose tokens they are.
        parameters: what the gradient is taken in.
    """
    norms_S = logp_K.new_zeros(part.totals.tokens_S.shape[0])
    sequence_K = part.sequence_K if part.sampled_K is None else torch.where(part.sampled_K, part.sequence_K, -1)
    for s in sequence_K.unique().tolist():  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if s >= 0:
            own = logp_K[sequence_K == s].sum()
            grads = torch.autograd.grad(own, list(parameters), retain_graph=True, allow_unused=True)
            norms_S[s] = sum(float(g.square().sum()) for g in grads)
    return norms_S


def centred(
    decoder: LanguageModel, parts: Sequence[Packed], parameters: Sequence[Tensor], *, precision: Precision = "fp32"
) -> Centred:
    """Subtracts ``sum w² g² R / sum w² g²`` from the credit of a step; see `variance_baseline`.

    Rewards 1 and 0 of two sequences with weights 1 and gradients of norm 2 and 1: the baseline is .8, the credit .2 and -.8.
    Costs one more forward pass of the step and one backward pass per sequence.

    Args:
        decoder: the policy about to be updated.
        parts: the micro-batches of one optimiser step, whose credit has no baseline yet.
        parameters: what is trained.
        precision: of matrix products.
    """
    zeros_S = parts[0].advantages_K.new_zeros(parts[0].totals.tokens_S.shape[0])
    log_S, squares_S, credit_S, tokens_S = (zeros_S.clone() for _ in range(4))
    for part in parts:
        logp_K = score(decoder, part, precision=precision).logp_K
        squares_S += squared_norms(logp_K, part, parameters)
        log_S += moved(logp_K.detach(), part)
        credit_S.index_add_(0, part.sequence_K, part.advantages_K)
        tokens_S.index_add_(0, part.sequence_K, _sampled(part).to(credit_S.dtype))
    live_S = tokens_S > 0
    rewards_B = credit_S[live_S] / tokens_S[live_S]
    baseline = float(variance_baseline(sequence_weights(log_S[live_S]), squares_S[live_S], rewards_B))
    taken = [p._replace(advantages_K=torch.where(_sampled(p), p.advantages_K - baseline, p.advantages_K)) for p in parts]
    return Centred(taken, baseline)


def _sampled(part: Packed) -> Tensor:
    return torch.ones_like(part.advantages_K, dtype=torch.bool) if part.sampled_K is None else part.sampled_K
