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
    """``log pi - log ref`` per token `[N]`; unbiased under samples of pi. As a loss its expected gradient is 0. Clamped to
    ±20 nats, as every log-ratio is.

    Formulas [kl-k], [kl-grad].
    """
    return -log_ratio(logp_ref_N, logp_N)


def kl_k2(logp_N: Tensor, logp_ref_N: Tensor) -> Tensor:
    """``(log pi - log ref)² / 2`` per token `[N]`; as a loss its expected gradient is that of KL(pi || ref).
    The log-ratio is clamped to ±20 nats.

    Formulas [kl-k], [kl-grad].
    """
    return 0.5 * log_ratio(logp_ref_N, logp_N).square()


def kl_k3(logp_N: Tensor, logp_ref_N: Tensor) -> Tensor:
    """``exp(d) - d - 1`` with d = log ref - log pi, per token `[N]`; never negative.

    As a loss its expected gradient is that of the *forward* KL(ref || pi).   Source: GRPO, arXiv 2402.03300 eq. 4; formulas
    [kl-k], [kl-grad].
    """
    d_N = log_ratio(logp_ref_N, logp_N)
    return torch.expm1(d_N) - d_N


def kl_k3plus(logp_N: Tensor, logp_ref_N: Tensor) -> Tensor:
    """Value of `kl_k3`, gradient of `kl_k2`, per token `[N]`: d/d log pi = log pi - log ref, the gradient of KL(pi || ref).

    theta [-1.2, -.4], ref [-.9, -1]: values [.049859, .148812], derivatives [-.3, .6].   Formula [k3plus].
    """
    k2_N = kl_k2(logp_N, logp_ref_N)
    return k2_N + (kl_k3(logp_N, logp_ref_N) - k2_N).detach()


def kl_unbiased(logp_N: Tensor, logp_old_N: Tensor, logp_ref_N: Tensor) -> Tensor:
    """``(pi / pi_old) k3`` per token `[N]`: right in value and gradient for samples of `old`.

    theta -.5, old -.6, ref -.7: .020701.   Source: DeepSeek-V3.2, arXiv 2512.02556; formula [kl-unbiased].
    """
    return log_ratio(logp_N, logp_old_N).exp() * kl_k3(logp_N, logp_ref_N)


def expected(values_V: Tensor, logp_V: Tensor) -> Tensor:
    """Mean of `values_V` under p, over the last axis; terms with p = 0 are 0.

    p [.7, .3], q [.5, .5]: k1 .082283, k2 .078766 (biased), k3 .082283.   Formula [kl-expect].
    """
    p_V = logp_V.exp()
    return torch.where(p_V > 0, p_V * values_V, 0.0).sum(-1)


def adapt_kl(coef: float, kl: float, samples: int, *, target: float, horizon: float, clip: float = 0.2) -> float:
    """The coefficient after a step: times ``1 + clip(kl / target - 1, -clip, clip) * samples / horizon``.

    coef .2, kl .3, target .1, 64 samples, horizon 10000: .200256.   Source: arXiv 1909.08593; formula [adaptive-kl].
    """
    error = min(clip, max(-clip, kl / target - 1.0))
    return coef * (1.0 + error * samples / horizon)
