"""Three estimators of KL(pi || ref) per sampled token, from log-probabilities alone.

With d = ref - theta (nats): k1 = -d is unbiased and signed, k2 = d²/2 is biased with the right gradient, k3 = e^d - d - 1 is
unbiased and never negative. As metrics between `old` and `theta` they say how far an update moved the policy.
For log pi = -1, log ref = -1.5: k1 .5, k2 .125, k3 .106531.   Source: Schulman 2020, "Approximating KL divergence".
"""

from __future__ import annotations

import torch
from torch import Tensor

from phronesis.losses.inputs import log_ratio


def kl_k1(logp_N: Tensor, logp_ref_N: Tensor) -> Tensor:
    """``log pi - log ref`` per token `[N]`; unbiased under samples of pi. As a loss its expected gradient is 0."""
    return -log_ratio(logp_ref_N, logp_N)


def kl_k2(logp_N: Tensor, logp_ref_N: Tensor) -> Tensor:
    """``(log pi - log ref)² / 2`` per token `[N]`; as a loss its expected gradient is that of KL(pi || ref)."""
    return 0.5 * log_ratio(logp_ref_N, logp_N).square()


def kl_k3(logp_N: Tensor, logp_ref_N: Tensor) -> Tensor:
    """``exp(d) - d - 1`` with d = log ref - log pi, per token `[N]`; never negative.

    As a loss its expected gradient is that of the *forward* KL(ref || pi).   Source: GRPO, arXiv 2402.03300 eq. 4.
    """
    d_N = log_ratio(logp_ref_N, logp_N)
    return torch.expm1(d_N) - d_N
