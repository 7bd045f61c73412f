"""VCPO: a step as large as the effective number of sequences allows, and the baseline of least variance.

With importance weights far from uniform a batch of B sequences is worth only ESS of them; the learning rate is scaled with
the square root of their ratio. Scaling the loss instead would do nothing under Adam.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phronesis.losses.inputs import MAX_LOG_RATIO, log_ratio
from phronesis.train.packed import Packed


def effective_size(weights_B: Tensor) -> Tensor:
    """``(sum w)² / sum w²`` of non-negative weights; 0 when all are 0 or there are none.

    [2, 1, .5, .5]: 2.909091.   Source: VCPO, arXiv 2602.17616; formula [vcpo].
    """
    squares = weights_B.square().sum()
    return torch.where(squares > 0, weights_B.sum().square() / torch.where(squares > 0, squares, 1.0), 0.0)


def lr_factor(weights_B: Tensor) -> Tensor:
    """``sqrt(ESS / B)``, in [0, 1]; 1 when there are no weights.   [2, 1, .5, .5]: .852803."""
    if not weights_B.numel():
        return weights_B.new_ones(())
    return (effective_size(weights_B) / weights_B.numel()).sqrt()


def variance_baseline(weights_B: Tensor, grad_norm_sq_B: Tensor, rewards_B: Tensor) -> Tensor:
    """``sum w² g² R / sum w² g²``, the baseline that minimises ``sum w² g² (R - b)²``; 0 when all factors are 0.

    g² is the squared norm of the gradient of each sequence's log-probability.   Source: VCPO; formula [vcpo].
    """
    factors_B = weights_B.square() * grad_norm_sq_B
    total = factors_B.sum()
    return torch.where(total > 0, (factors_B * rewards_B).sum() / torch.where(total > 0, total, 1.0), 0.0)


def moved(logp_K: Tensor, part: Packed) -> Tensor:
    """Log of each sequence's ratio theta / sampler over a part's sampled tokens, nats `[S]`."""
    zeros_S = logp_K.new_zeros(part.totals.tokens_S.shape[0])
    moved_K = log_ratio(logp_K, part.logp_infer_K)
    if part.sampled_K is not None:
        moved_K = torch.where(part.sampled_K, moved_K, 0.0)
    return zeros_S.index_add(0, part.sequence_K, moved_K)


def sequence_weights(log_ratio_S: Tensor) -> Tensor:
    """Products of ratios from sums of log-ratios `[S]` (nats, clamped to ±20)."""
    return log_ratio_S.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
