"""Cases of distillation and preference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

import torch
from torch import Tensor

from phronesis.conformance.case import Case, Expected, Inputs, Params
from phronesis.conformance.fields import Json
from phronesis.conformance.steps import aggregation, gradient, is_flat, masks_of, per_row, rows_of, step, vector
from phronesis.credit.judged.teacher import opd_advantages
from phronesis.losses import DFTLoss, IcePop, LossConfig, LossInputs, SupervisedLoss, TokenTerms, evaluate
from phronesis.losses.distillation.distributions import jensen_shannon, sdpo
from phronesis.losses.distillation.rlag import rlag_loss
from phronesis.losses.distillation.sampled import CrossStageLoss, opd_masked, sdar, teacher_advantage
from phronesis.losses.preference.dpo import dpo_loss
from phronesis.losses.preference.ipo import ipo_loss
from phronesis.losses.preference.pairs import answer_log_ratio
from phronesis.losses.preference.step_apo import step_apo_loss, step_apo_margin


def _like(fields: Inputs, name: str, rows: Sequence[Sequence[object]]) -> object:
    """Rows, or a single list where the case gave one."""
    return rows[0] if is_flat(fields, name) else rows


def _sft(inputs: Inputs, params: Params) -> Expected:
    case = step(rows_of(inputs, "logp"), mask=masks_of(inputs))
    return {"loss": evaluate(LossConfig(objective=SupervisedLoss(), aggregation=aggregation(params)), case).loss}


def _dft(inputs: Inputs, params: Params) -> Expected:
    case = step(rows_of(inputs, "logp"), mask=masks_of(inputs)).cleaned()
    leaf = case.logp_theta_N.requires_grad_()
    objective = DFTLoss()

    def terms(given: LossInputs) -> TokenTerms:
        return objective.terms(given.cleaned())

    token_N = terms(case._replace(logp_theta_N=leaf)).loss_N
    coef_N = -gradient(token_N.sum(), leaf)
    if case.mask_N is not None:
        token_N, coef_N = (torch.where(case.mask_N, x, 0.0) for x in (token_N, coef_N))
    return {
        "token_loss": _like(inputs, "logp", per_row(token_N.detach(), case)),
        "coef": _like(inputs, "logp", per_row(coef_N, case)),
        "loss": evaluate(LossConfig(objective=objective, aggregation=aggregation(params)), case).loss.detach(),
    }


def _moved(inputs: Inputs, name: str) -> Tensor:
    """A side's log-ratio to the reference `[1]`; a single number is a sum already. NaN pads."""
    policy, reference = inputs.get(name), inputs.get(f"{name}_ref")
    logp, ref = _numbers(policy), _numbers(reference if reference is not None else [0.0] * len(_numbers(policy)))
    kept = [not (isnan(p) or isnan(r)) for p, r in zip(logp, ref, strict=True)]
    marks = inputs.flags(f"{name}_mask", kept)
    return answer_log_ratio(vector(logp), vector(ref), torch.tensor(marks, dtype=torch.bool))[None]


def _numbers(value: Json) -> list[float]:
    single = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return Inputs({"": single}).numbers("")


def _dpo(inputs: Inputs, params: Params) -> Expected:
    chosen, rejected = _moved(inputs, "chosen"), _moved(inputs, "rejected")
    loss = dpo_loss(chosen, rejected, beta=params.number("beta", 0.1))
    return {"delta_w": chosen[0], "delta_l": rejected[0], "loss": loss[0]}


def _ipo(inputs: Inputs, params: Params) -> Expected:
    chosen, rejected = _moved(inputs, "chosen"), _moved(inputs, "rejected")
    loss = ipo_loss(chosen, rejected, beta=params.number("beta", 0.1))
    return {"delta_w": chosen[0], "delta_l": rejected[0], "loss": loss[0]}


def _opd(inputs: Inputs, params: Params) -> Expected:
    theta, teacher = rows_of(inputs, "theta"), rows_of(inputs, "teacher")
    coef = params.number("coef", 1.0)
    rows = [opd_advantages(s, t, coef=coef) for s, t in zip(theta, teacher, strict=True)]
    return {"adv": _like(inputs, "theta", rows)}


def _opd_masked(inputs: Inputs, params: Params) -> Expected:
    delta, kappa = params.number("delta", 0.2), params.number("kappa", 1e-3)
    streams = [rows_of(inputs, name) for name in ("theta", "infer", "ref")]
    found = [opd_masked(*map(vector, row), delta=delta, kappa=kappa) for row in zip(*streams, strict=True)]
    keep = [list(map(bool, f.keep_N)) for f in found]
    return {
        "keep": _like(inputs, "theta", keep),
        "token_loss": _like(inputs, "theta", [list(map(float, f.loss_N)) for f in found]),
    }


def _xstage(inputs: Inputs, params: Params) -> Expected:
    theta, teacher, infer = (rows_of(inputs, name) for name in ("theta", "teacher", "infer"))
    credit = [opd_advantages(s, t) for s, t in zip(infer, teacher, strict=True)]
    case = step(theta, old=rows_of(inputs, "old"), infer=infer, adv=credit, mask=masks_of(inputs))
    config = LossConfig(
        objective=CrossStageLoss(eps_low=params.number("eps_low", 0.2), eps_high=params.number("eps_high", 0.28)),
        corrections=(IcePop(beta=params.number("beta", 2.0)),),
        aggregation=aggregation(params, default="seq-mean-token-mean"),
    )
    advantages = [list(map(float, teacher_advantage(vector(s), vector(t)))) for s, t in zip(theta, teacher, strict=True)]
    return {"adv": _like(inputs, "theta", advantages), "loss": evaluate(config, case).loss}


def _logs(inputs: Inputs, name: str) -> Tensor:
    return vector(inputs.numbers(name)).log()


def _jsd(inputs: Inputs, params: Params) -> Expected:
    return {"loss": jensen_shannon(_logs(inputs, "student"), _logs(inputs, "teacher"), beta=params.number("beta", 0.5))}


def _sdpo(inputs: Inputs, params: Params) -> Expected:
    return {"loss": sdpo(_logs(inputs, "student"), _logs(inputs, "teacher"), alpha=params.number("alpha", 0.5))}


def _sdar(inputs: Inputs, params: Params) -> Expected:
    rows = rows_of(inputs, "delta")
    beta, coef = params.number("beta", 5.0), params.number("coef", 0.1)
    found = [sdar(torch.zeros(len(row), dtype=torch.float64), vector(row), beta=beta, coef=coef) for row in rows]
    return {
        "gate": _like(inputs, "delta", [list(map(float, f.gate_N)) for f in found]),
        "token_loss": _like(inputs, "delta", [list(map(float, f.loss_N)) for f in found]),
    }


def _rlag(inputs: Inputs, params: Params) -> Expected:
    knowledge, augmented, plain = (
        vector([inputs.number(name)]) for name in ("lp_knowledge", "lp_answer_aug", "lp_answer_plain")
    )
    found = rlag_loss(
        knowledge,
        augmented,
        plain,
        beta_d=params.number("beta_d", 0.2),
        beta_a=params.number("beta_a", 0.5),
        gamma=params.number("gamma", 8.0),
    )
    return {"argument": found.argument_B[0], "loss": found.loss_B[0]}


def _step_apo(inputs: Inputs, params: Params) -> Expected:
    pair = [vector([inputs.number(n)]) for n in ("logratio_w", "logratio_l", "v_w", "v_l")]
    beta = params.number("beta", 0.1)
    return {"argument": step_apo_margin(*pair, beta=beta)[0], "loss": step_apo_loss(*pair, beta=beta)[0]}


TABLE: Mapping[str, Case] = {
    "sft": _sft,
    "dft": _dft,
    "dpo": _dpo,
    "step-dpo": _dpo,
    "ipo": _ipo,
    "opd": _opd,
    "opd-masked": _opd_masked,
    "xstage": _xstage,
    "jsd": _jsd,
    "sdpo": _sdpo,
    "sdar": _sdar,
    "rlag": _rlag,
    "step-apo": _step_apo,
}
"""Formula ids of this area."""
