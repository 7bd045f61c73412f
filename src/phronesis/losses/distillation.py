"""Distillation from a teacher's log-probability of the tokens the student sampled.

Only one number per token is needed of the teacher, so it may be any decoder with the same vocabulary. The teacher's stream
carries no gradient. Losses on whole distributions are in `jsd.py`.

Shapes: N tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from phronesis.losses.inputs import log_ratio


class MaskedDistillation(NamedTuple):
    """`opd_masked`'s outcome."""

    loss_N: Tensor
    """Loss of each token, not yet aggregated."""
    keep_N: Tensor
    """bool: False where the policy-gradient term is dropped."""


class GatedDistillation(NamedTuple):
    """`sdar`'s outcome."""

    loss_N: Tensor
    """Loss of each token, not yet aggregated."""
    gate_N: Tensor
    """In (0, 1), without gradient."""


def teacher_advantage(logp_theta_N: Tensor, logp_teacher_N: Tensor) -> Tensor:
    """``sg(log teacher - log pi)`` per token `[N]`: the negative of the single-sample estimate of KL(pi || teacher).

    [-.5] against [-1]: -.5.   Source: formula [opd]; as used by `opd_masked` and `xstage`.
    """
    return (logp_teacher_N - logp_theta_N).detach()


def opd_masked(
    logp_theta_N: Tensor, logp_infer_N: Tensor, logp_teacher_N: Tensor, *, delta: float = 0.2, kappa: float = 1e-3
) -> MaskedDistillation:
    """``-keep * sg(teacher - theta) * r + kappa (log r)²`` with r = pi_theta / pi_infer, per token `[N]`.

    A token whose probability has already fallen by more than `delta` since it was sampled is dropped from the first term;
    the second one acts on all tokens. theta, infer, teacher = -.7, -.5, -.3: -.327452; -2, -.5, -.3: dropped, .00225.

    Args:
        logp_theta_N: nats, carries the gradient.
        logp_infer_N: nats, as the sampler recorded them.
        logp_teacher_N: nats.
        delta: largest fall in probability, in (0, 1].
        kappa: strength of the pull towards the sampler.

    Source: prime-rl; formula [opd-masked]. The log-ratio is clamped before `exp`.
    """
    moved_N = log_ratio(logp_theta_N, logp_infer_N)
    keep_N = ~(logp_theta_N.detach().exp() - logp_infer_N.exp() < -delta)
    first_N = -teacher_advantage(logp_theta_N, logp_teacher_N) * moved_N.exp()
    return MaskedDistillation(torch.where(keep_N, first_N, 0.0) + kappa * moved_N.square(), keep_N)


def sdar(logp_theta_N: Tensor, logp_teacher_N: Tensor, *, beta: float = 5.0, coef: float = 0.1) -> GatedDistillation:
    """``coef * sg(sigma(beta gap)) * gap`` with gap = log teacher - log pi, per token `[N]`.

    The gate is nearly 1 where the teacher (the same model shown a skill, say) finds the token likelier than the student
    does, nearly 0 where it does not, so that the student learns what the teacher adds and is not pushed away elsewhere.
    gap .2: gate .731059, loss .014621; gap -.1: gate .377541, loss -.003775.

    Args:
        logp_theta_N: nats, carries the gradient.
        logp_teacher_N: nats.
        beta: steepness of the gate.
        coef: weight of the loss; the authors' examples also use .01.

    Source: SDAR, arXiv 2605.15155; formula [sdar].
    """
    gap_N = logp_teacher_N.detach() - logp_theta_N
    gate_N = torch.sigmoid(beta * gap_N.detach())
    return GatedDistillation(coef * gate_N * gap_N, gate_N)
