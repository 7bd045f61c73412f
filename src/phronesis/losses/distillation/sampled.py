"""Distillation from a teacher's log-probability of the tokens the student sampled.

Only one number per token is needed of the teacher, so it may be any decoder with the same vocabulary. The teacher's stream
carries no gradient. Losses on whole distributions are in `jsd.py`.

Configured as objectives these losses need the credit rule ``opd`` with coef 1, whose credit is ``log teacher - log infer``: the
teacher's stream is that plus the sampler's.

Shapes: N tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.losses.inputs import LossInputs, log_ratio
from phronesis.losses.objectives.policy_gradient import TokenTerms, ppo_clip


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


def cross_stage(
    logp_theta_N: Tensor, logp_old_N: Tensor, logp_teacher_N: Tensor, *, eps_low: float, eps_high: float
) -> TokenTerms:
    """Clipped PPO with the advantage `teacher_advantage`: the token loss of cross-stage distillation.

    With the IcePop correction and sequence means it is the whole loss; teachers are the final checkpoints of earlier stages,
    prompts their RL sets, one sample per prompt (batch 1024). theta, teacher -.8, -.2 at ratio 1.105: advantage .6, loss
    -.663103.

    Source: GLM-5, arXiv 2602.15763 section on cross-stage distillation; formula [xstage].
    """
    advantages_N = teacher_advantage(logp_theta_N, logp_teacher_N)
    return ppo_clip(logp_theta_N, logp_old_N, advantages_N, eps_low=eps_low, eps_high=eps_high)


def teacher_of(inputs: LossInputs) -> Tensor:
    """The teacher's log-probabilities `[N]`, nats, where the credit is that of the rule ``opd`` with coef 1."""
    return inputs.advantages_N + inputs.logp_infer_N


class OPDMaskedLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="opd_masked"):
    """On-policy distillation that lets go of tokens already made rare; needs the credit rule ``opd``.   See `opd_masked`."""

    delta: float = 0.2
    """Largest fall in probability since sampling, in (0, 1]."""
    kappa: float = 1e-3
    """Strength of the pull towards the sampler, at least 0."""

    def __post_init__(self) -> None:
        if not 0.0 < self.delta <= 1.0 or not self.kappa >= 0.0:
            raise ConfigError(f"opd_masked needs delta in (0, 1] and kappa >= 0, got {self.delta!r} and {self.kappa!r}")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `opd_masked`."""
        teacher_N = teacher_of(inputs)
        found = opd_masked(inputs.logp_theta_N, inputs.logp_infer_N, teacher_N, delta=self.delta, kappa=self.kappa)
        return TokenTerms(found.loss_N, {"clip_low": ~found.keep_N})


class SDARLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sdar"):
    """Gated distillation; needs the credit rule ``opd``.   See `sdar`."""

    beta: float = 5.0
    """Steepness of the gate, at least 0."""
    coef: float = 0.1
    """Weight, above 0."""

    def __post_init__(self) -> None:
        if not self.beta >= 0.0 or not self.coef > 0.0:
            raise ConfigError(f"sdar needs beta >= 0 and coef > 0, got {self.beta!r} and {self.coef!r}")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `sdar`."""
        found = sdar(inputs.logp_theta_N, teacher_of(inputs), beta=self.beta, coef=self.coef)
        return TokenTerms(found.loss_N, {"gate": found.gate_N})


class CrossStageLoss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="xstage"):
    """Cross-stage distillation; needs the credit rule ``opd``, and the correction ``icepop``.   See `cross_stage`."""

    eps_low: float = 0.2
    """How far the ratio may fall below 1, in (0, 1)."""
    eps_high: float = 0.28
    """How far the ratio may rise above 1, above 0."""

    def __post_init__(self) -> None:
        if not 0.0 < self.eps_low < 1.0 or self.eps_high <= 0.0:
            raise ConfigError(f"xstage needs 0 < eps_low < 1 and eps_high > 0, got {self.eps_low!r} and {self.eps_high!r}")

    def terms(self, inputs: LossInputs) -> TokenTerms:
        """Applies `cross_stage`."""
        return cross_stage(
            inputs.logp_theta_N, inputs.logp_old_N, teacher_of(inputs), eps_low=self.eps_low, eps_high=self.eps_high
        )
