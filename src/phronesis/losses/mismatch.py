"""How far the learner's log-probabilities are from those the sampler recorded for the same tokens and weights.

rho = exp(old - infer) should be 1. Small differences are numerics, larger ones mean the learner is not scoring what was
sampled (other ids, other temperature, other weights) and every update would push in a wrong direction.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from phronesis.losses.inputs import log_ratio


class Mismatch(NamedTuple):
    """Sums over trained tokens; parts of a step combine by `merge`, the statistics are properties."""

    tokens: float
    """How many tokens."""
    log_sum: float
    """Sum of log rho, nats."""
    abs_sum: float
    """Sum of |log rho|, nats."""
    k3_sum: float
    """Sum of rho - 1 - log rho, nats."""
    rho_sum: float
    """Sum of rho."""
    rho_squared_sum: float
    """Sum of rho²."""
    max_abs: float
    """Largest |log rho|, nats."""
    above: float
    """Tokens with |log rho| above the bound."""

    @property
    def k1(self) -> float:
        """Mean of -log rho, nats: the estimate of KL(sampler || learner) that may be negative."""
        return -self.log_sum / max(self.tokens, 1.0)

    @property
    def k3(self) -> float:
        """Mean of rho - 1 - log rho, nats: the estimate of KL(sampler || learner) that is never negative."""
        return self.k3_sum / max(self.tokens, 1.0)

    @property
    def mean_abs(self) -> float:
        """Mean of |log rho|, nats."""
        return self.abs_sum / max(self.tokens, 1.0)

    @property
    def chi2(self) -> float:
        """Mean of rho², minus 1."""
        return self.rho_squared_sum / self.tokens - 1.0 if self.tokens else 0.0

    @property
    def ess(self) -> float:
        """Effective number of tokens, (sum rho)² / sum rho²; equals the number of tokens when rho is constant."""
        return self.rho_sum**2 / self.rho_squared_sum if self.rho_squared_sum > 0 else 0.0

    @property
    def ess_share(self) -> float:
        """`ess` over the number of tokens; 1 when there is none."""
        return self.ess / self.tokens if self.tokens else 1.0

    @property
    def above_share(self) -> float:
        """Share of tokens with |log rho| above the bound."""
        return self.above / max(self.tokens, 1.0)

    def merge(self, other: Mismatch) -> Mismatch:
        """The statistics of both parts together."""
        a, b = self, other
        return Mismatch(
            a.tokens + b.tokens,
            a.log_sum + b.log_sum,
            a.abs_sum + b.abs_sum,
            a.k3_sum + b.k3_sum,
            a.rho_sum + b.rho_sum,
            a.rho_squared_sum + b.rho_squared_sum,
            max(a.max_abs, b.max_abs),
            a.above + b.above,
        )


NO_MISMATCH = Mismatch(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Of no tokens; the neutral element of `merge`."""


def measure_mismatch(
    logp_old_N: Tensor, logp_infer_N: Tensor, mask_N: Tensor | None = None, *, bound: float = 0.05
) -> Mismatch:
    """Compares learner and sampler over the mask (before anything is rejected).   Formula [mismatch-metrics].

    rho = [.5, 1, 2]: ess 2.333333, chi2 .75. log rho = [.05, -.2, .4, 0]: k1 -.0625, k3 .027957, largest .4.

    Args:
        logp_old_N: nats `[N]`, the learner with the weights that sampled.
        logp_infer_N: nats `[N]`, as recorded.
        mask_N: bool `[N]`; None means all True.
        bound: nats; tokens above it are counted.

    NaN in the mask makes `max_abs` infinite rather than vanish.
    """
    if mask_N is not None:
        logp_old_N, logp_infer_N = logp_old_N[mask_N], logp_infer_N[mask_N]
    if logp_old_N.numel() == 0:
        return NO_MISMATCH
    raw_N = (logp_old_N - logp_infer_N).detach().double()
    log_N = log_ratio(raw_N, torch.zeros_like(raw_N))
    rho_N = log_N.exp()
    sizes_N = raw_N.abs()
    parts = torch.stack(
        (
            log_N.sum(),
            sizes_N.sum(),
            (torch.expm1(log_N) - log_N).sum(),
            rho_N.sum(),
            rho_N.square().sum(),
            sizes_N.nan_to_num(nan=torch.inf, posinf=torch.inf).max(),
            (~(sizes_N <= bound)).sum().double(),
        )
    )
    log_sum, abs_sum, k3_sum, rho_sum, rho_squared_sum, max_abs, above = cast("list[float]", parts.tolist())  # pyright: ignore[reportUnknownMemberType]
    return Mismatch(float(raw_N.numel()), log_sum, abs_sum, k3_sum, rho_sum, rho_squared_sum, max_abs, above)


def perplexity_ratio(logp_old_N: Tensor, logp_infer_N: Tensor, sequence_N: Tensor, sequences: int) -> Tensor:
    """``exp(mean infer - mean old)`` of each sequence `[S]`: the learner's perplexity over the sampler's; NaN without tokens.

    infer [-1, -2], old [-1.1, -2.1]: 1.105171.   Formula [ppl-ratio], where the metric is the mean over sequences.
    """
    gap_N = logp_infer_N - logp_old_N
    sums_S = gap_N.new_zeros(sequences).index_add(0, sequence_N, gap_N)
    return (sums_S / torch.bincount(sequence_N, minlength=sequences)).exp()
