"""Distillation between whole distributions: the generalised Jensen-Shannon divergence of GKD, and SDPO's use of it.

Shapes: N tokens, V vocabulary (or any other partition of the probability), K kept ids.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl_divergence(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """KL(p || q) in nats per row `[N]`, both given as log-probabilities; an outcome p never has adds 0.

    p = [.7, .3], q = [.4, .6]: .183787; the other way round .192042.
    """
    gap_NV = torch.where(p_NV > -torch.inf, p_NV - q_NV, 0.0)
    return (p_NV.exp() * gap_NV).sum(-1)


def jensen_shannon(student_NV: Tensor, teacher_NV: Tensor, *, beta: float = 0.5) -> Tensor:
    """``beta KL(T || M) + (1 - beta) KL(S || M)`` with ``M = beta T + (1 - beta) S``, per token `[N]`.

    At the ends, where the formula itself gives 0 whatever the distributions, the ends stand for what the divergence
    approaches after scaling: beta 0 is the forward KL(T || S), beta 1 the reverse KL(S || T), as GKD's and SDPO's code have
    it. Student [.7, .3], teacher [.4, .6]: beta .5 gives .046201, 0 gives .192042, 1 gives .183787.

    Args:
        student_NV: log-probabilities, nats; carry the gradient.
        teacher_NV: log-probabilities, nats; no gradient flows into them.
        beta: in [0, 1].

    Source: GKD, arXiv 2306.13649; formula [jsd]. Its defaults: half of the data sampled by the student, beta .5.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta {beta!r} must lie in [0, 1]")
    teacher_NV = teacher_NV.detach()
    if beta == 0.0:
        return kl_divergence(teacher_NV, student_NV)
    if beta == 1.0:
        return kl_divergence(student_NV, teacher_NV)
    never_NV = (teacher_NV == -torch.inf) & (student_NV == -torch.inf)  # where logaddexp has no gradient
    teacher_share_NV = torch.where(never_NV, 0.0, teacher_NV) + math.log(beta)
    student_share_NV = torch.where(never_NV, 0.0, student_NV) + math.log1p(-beta)
    mixture_NV = torch.logaddexp(teacher_share_NV, student_share_NV)
    return beta * kl_divergence(teacher_NV, mixture_NV) + (1.0 - beta) * kl_divergence(student_NV, mixture_NV)


def sdpo(student_NV: Tensor, teacher_NV: Tensor, *, alpha: float = 0.5) -> Tensor:
    """`jensen_shannon` (beta = alpha) between a policy and itself shown feedback or a successful sibling, per token `[N]`.

    alpha 0 is the forward KL(T || S), alpha 1 the reverse KL(S || T). Student [.6, .3, .1], teacher [.2, .5, .3], alpha 0:
    .365274. The teacher reads the student's own tokens behind a prompt with the hint; a sample with neither feedback nor a
    successful sibling is masked, and its own success is no hint for itself. Large vocabularies go through `top_and_tail`.

    Source: SDPO, arXiv 2601.20802; formula [sdpo].
    """
    return jensen_shannon(student_NV, teacher_NV, beta=alpha)


def top_and_tail(logp_NV: Tensor, ids_NK: Tensor) -> Tensor:
    """Log-probabilities of some ids and of all others together, `[N, K + 1]`: a coarser distribution that sums to 1.

    [.5, .3, .15, .05] with ids (0, 2): [.5, .15, .35]. The divergence of two coarsened distributions never exceeds that of
    the whole ones. SDPO keeps the 100 most likely ids.

    Args:
        logp_NV: log-probabilities, nats.
        ids_NK: int64, different ids within a row; the same for student and teacher.
    """
    top_NK = logp_NV.gather(-1, ids_NK)
    others_NV = logp_NV.scatter(-1, ids_NK, -torch.inf)
    return torch.cat((top_NK, torch.logsumexp(others_NV, -1, keepdim=True)), -1)
