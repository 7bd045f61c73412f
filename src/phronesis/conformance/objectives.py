"""Cases of objectives, divergences and aggregation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from typing import cast

import torch
from torch import Tensor

from phronesis.conformance.case import Case, Expected, Inputs, Params
from phronesis.conformance.steps import HasTerms, aggregation, gradient, logs, masks_of, rows_of, step, vector
from phronesis.losses import (
    CISPOLoss,
    DecoupledPPOLoss,
    DISLoss,
    DPPOLoss,
    DROLoss,
    GMPOLoss,
    GPPOLoss,
    GSPOLoss,
    KLCovLoss,
    LossConfig,
    LossInputs,
    LUSPOLoss,
    PPOClipLoss,
    ReinforceLoss,
    SAPOLoss,
    SequenceMeanTokenMean,
    SequenceMeanTraceMean,
    Stream,
    SymmetricTVLoss,
    TokenMean,
    TokenTIS,
    TwoSidedLoss,
    aggregate,
    approximate_prox,
    composite,
    covariance,
    entropy,
    log_ratio,
    m2_keep,
    prox_share,
    second_moment,
    vespo_weight,
)
from phronesis.losses.objectives.covariance import chosen_count, largest
from phronesis.losses.objectives.sequence_level import geometric_ratio
from phronesis.losses.sequences import sequence_mean
from phronesis.train.asynchrony import capacity
from phronesis.train.step_size import effective_size, lr_factor, variance_baseline

Eps = tuple[float, float]


def _eps(params: Params, low: float = 0.2, high: float = 0.28) -> Eps:
    both = params.number("eps") if "eps" in params else None
    return params.number("eps_low", both if both is not None else low), params.number(
        "eps_high", both if both is not None else high
    )


def coefficients(objective: HasTerms, inputs: Inputs) -> list[float]:
    """c of ``dL/d log pi = -c A`` at each ratio. Where A is 0 the side that leaves the ratio as it is, if there is one."""
    ratios, credit = inputs.numbers("ratio"), inputs.numbers("adv")
    mask = masks_of(inputs)

    def at(signs: Sequence[float]) -> Tensor:
        case = step(logs([ratios]), adv=[signs], mask=mask).cleaned()
        leaf = case.logp_theta_N.requires_grad_()
        return gradient(objective.terms(case._replace(logp_theta_N=leaf)).loss_N.sum(), leaf) / -vector(signs)

    above, below = at([a or 1.0 for a in credit]), at([a or -1.0 for a in credit])
    ratio_N, zero_N = vector(ratios), vector(credit) == 0
    nearer_N = (above - ratio_N).abs() < (below - ratio_N).abs()
    use_below = zero_N & (torch.full_like(zero_N, isinstance(objective, SAPOLoss)) | ~nearer_N)
    return cast("list[float]", torch.where(use_below, below, above).tolist())  # pyright: ignore[reportUnknownMemberType]


def _coef(make: Callable[[Params], HasTerms]) -> Case:
    return lambda inputs, params: {"coef": coefficients(make(params), inputs)}


def _ppo(params: Params, dual: float | None = None) -> PPOClipLoss:
    low, high = _eps(params)
    return PPOClipLoss(eps_low=low, eps_high=high, dual=dual)


def _gppo(params: Params) -> GPPOLoss:
    low, high = _eps(params)
    return GPPOLoss(eps_low=low, eps_high=high, dual=params.number("dual") if "dual" in params else None)


def _sapo(params: Params) -> SAPOLoss:
    return SAPOLoss(tau_pos=params.number("tau_pos", 1.0), tau_neg=params.number("tau_neg", 1.05))


def _dis(params: Params) -> DISLoss:
    return DISLoss(eps_low=params.number("eps_low", 0.3), eps_high=params.number("eps_high", 5.0))


def _two_sided(inputs: Inputs, params: Params) -> Expected:
    low, high = _eps(params, 0.2, 0.2)
    objective = TwoSidedLoss(eps_low=low, eps_high=high, delta=params.number("delta", 4.0))
    case = step(logs([inputs.numbers("ratio")]), adv=[inputs.numbers("adv")], mask=masks_of(inputs)).cleaned()
    return {"objective": -objective.terms(case).loss_N}


def _sequences(inputs: Inputs) -> LossInputs:
    return step(inputs.rows("log_ratio"), adv=inputs.numbers("adv"), mask=masks_of(inputs))


def _mean_loss(objective: GSPOLoss | GMPOLoss | LUSPOLoss, case: LossInputs) -> Tensor:
    return LossConfig(objective=objective, aggregation=SequenceMeanTokenMean()).build()(case).loss


def _gspo(inputs: Inputs, params: Params) -> Expected:
    low, high = _eps(params, 3e-4, 4e-4)
    objective, case = GSPOLoss(eps_low=low, eps_high=high), _sequences(inputs)
    signs = [a or 1.0 for a in inputs.numbers("adv")]
    probe = step(inputs.rows("log_ratio"), adv=signs, mask=masks_of(inputs))
    leaf = probe.logp_theta_N.requires_grad_()
    pull_N = gradient(_mean_loss(objective, probe._replace(logp_theta_N=leaf)), leaf)
    pull_S = torch.zeros(len(signs), dtype=torch.float64).index_add(0, probe.sequence_N, pull_N)
    return {
        "s": sequence_mean(geometric_ratio(case.cleaned()), case),
        "loss": _mean_loss(objective, case),
        "seq_coef": -pull_S * max(case.totals.sequences, 1) / vector(signs),
    }


def _gmpo(inputs: Inputs, params: Params) -> Expected:
    objective, case = GMPOLoss(clip=params.number("clip", 0.4)), _sequences(inputs)
    signs = [a or 1.0 for a in inputs.numbers("adv")]
    probe = step(inputs.rows("log_ratio"), adv=signs, mask=masks_of(inputs)).cleaned()
    ratio_S = sequence_mean(objective.terms(probe).loss_N, probe) / -vector(signs)
    return {"ratio": ratio_S, "loss": _mean_loss(objective, case)}


def _luspo(inputs: Inputs, params: Params) -> Expected:
    low, high = _eps(params, 3e-4, 4e-4)
    return {"loss": _mean_loss(LUSPOLoss(eps_low=low, eps_high=high), _sequences(inputs))}


def _vespo(inputs: Inputs, params: Params) -> Expected:
    defaults = {"k_pos": 2.0, "lam_pos": 3.0, "k_neg": 3.0, "lam_neg": 2.0}
    shape = {name: params.number(name, value) for name, value in defaults.items()}
    return {"phi": vespo_weight(vector(inputs.numbers("W")).log(), vector(inputs.numbers("adv")), **shape)}


def _numbers(inputs: Inputs, name: str) -> list[float]:
    return inputs.numbers(name) if isinstance(inputs.get(name), Sequence) else [inputs.number(name)]


def _shaped(inputs: Inputs, name: str, value_N: Tensor) -> object:
    """A number where the case gave a number."""
    return value_N if isinstance(inputs.get(name), Sequence) else value_N[0]


def _decoupled(inputs: Inputs, params: Params) -> Expected:
    behav, prox, theta, adv = (_numbers(inputs, name) for name in ("behav", "prox", "theta", "adv"))
    low, high = _eps(params, 0.2, 0.2)
    case = step([theta], old=[prox], infer=[behav], adv=[adv])
    found = {
        "weight": log_ratio(case.logp_old_N, case.logp_infer_N).exp(),
        "ratio": log_ratio(case.logp_theta_N, case.logp_old_N).exp(),
        "objective": -DecoupledPPOLoss(eps_low=low, eps_high=high).terms(case).loss_N,
    }
    return {name: _shaped(inputs, "theta", value) for name, value in found.items()}


def _prox(inputs: Inputs, params: Params) -> Expected:
    share = prox_share(inputs.number("v_prox"), inputs.number("v_behav"), inputs.number("v_theta"))
    theta_N, behav_N = vector(_numbers(inputs, "theta")), vector(_numbers(inputs, "behav"))
    return {"alpha": share, "logp_prox": _shaped(inputs, "theta", approximate_prox(theta_N, behav_N, share))}


def _capacity(inputs: Inputs, params: Params) -> Expected:
    names = ("batch", "eta", "version", "accepted", "running", "max_concurrent")
    return {"capacity": capacity(**{name: inputs.integer(name) for name in names})}


def _m2po(inputs: Inputs, params: Params) -> Expected:
    case = step([inputs.numbers("log_ratio")], mask=masks_of(inputs)).cleaned()
    moved_N = log_ratio(case.logp_theta_N, case.logp_old_N)
    mask_N = torch.ones_like(moved_N, dtype=torch.bool) if case.mask_N is None else case.mask_N
    keep_N = m2_keep(moved_N, params.number("tau", 0.04), case.mask_N)
    kept = torch.nonzero(keep_N)[:, 0]
    return {"kept": kept, "m2_before": second_moment(moved_N, mask_N), "m2_after": second_moment(moved_N, keep_N)}


def _tv_case(inputs: Inputs) -> LossInputs:
    theta, infer = logs([inputs.numbers("p_theta")]), logs([inputs.numbers("p_infer")])
    return step(theta, infer=infer, adv=[inputs.numbers("adv")], mask=masks_of(inputs)).cleaned()


def _dppo(inputs: Inputs, params: Params) -> Expected:
    low, high = params.number("delta_low", 0.2), params.number("delta_high", 0.2)
    terms = DPPOLoss(delta_low=low, delta_high=high, kappa=params.number("kappa", 1e-3)).terms(_tv_case(inputs))
    return {"keep": ~terms.shares["clip_tv"].bool(), "token_loss": terms.loss_N}


def _tv_sym(inputs: Inputs, params: Params) -> Expected:
    objective = SymmetricTVLoss(delta=params.number("delta", 0.1), kappa=params.number("kappa", 1e-3))
    terms = objective.terms(_tv_case(inputs))
    return {"keep": ~terms.shares["clip_tv"].bool(), "token_loss": terms.loss_N}


def _kl_cov(inputs: Inputs, params: Params) -> Expected:
    logp, ratio = vector(inputs.numbers("logp")), vector(inputs.numbers("ratio"))
    old = cast("list[float]", (logp - ratio.log()).tolist())  # pyright: ignore[reportUnknownMemberType]
    mask = masks_of(inputs)
    case = step([inputs.numbers("logp")], old=[old], adv=[inputs.numbers("adv")], mask=mask).cleaned()
    fraction = params.number("fraction", 2e-4)
    covariance_N = covariance(case.logp_theta_N, case.advantages_N, case.mask_N)
    chosen_N = largest(covariance_N, chosen_count(case, fraction), case.mask_N)
    terms = KLCovLoss(fraction=fraction, coef=params.number("coef", 1.0)).terms(case)
    return {"cov": covariance_N, "selected": torch.nonzero(chosen_N)[:, 0], "token_loss": terms.loss_N}


def _entropy(inputs: Inputs, params: Params) -> Expected:
    return {"H": entropy(vector(inputs.numbers("p")).log())}


def _dro(inputs: Inputs, params: Params) -> Expected:
    case = step([inputs.numbers("theta")], infer=[inputs.numbers("behav")], adv=[inputs.numbers("adv")], mask=masks_of(inputs))
    return {"token_loss": DROLoss(beta=params.number("beta")).terms(case.cleaned()).loss_N}


def _vcpo(inputs: Inputs, params: Params) -> Expected:
    weights, norms, rewards = (vector(inputs.numbers(name)) for name in ("weights", "grad_norm_sq", "rewards"))
    baseline = variance_baseline(weights, norms, rewards)
    return {"ess": effective_size(weights), "lr_factor": lr_factor(weights), "baseline": baseline}


def _composite(inputs: Inputs, params: Params) -> Expected:
    kept = torch.tensor(inputs.flags("mask")) if "mask" in inputs else torch.tensor(True)
    streams = [inputs.fields(name) for name in inputs.values if name != "mask"]
    weights = [torch.where(kept, vector(s.numbers("weight")), 0.0) for s in streams]
    return {"loss": composite([Stream(vector(s.numbers("token_loss")), w) for s, w in zip(streams, weights, strict=True)])}


def _bandit(inputs: Inputs) -> tuple[Tensor, Tensor, Sequence[Sequence[int]]]:
    """Logits as a leaf, log-probabilities of the actions, and which tokens belong to which sequence and are not masked."""
    rows = inputs.rows("logits")
    sequences = [[int(i) for i in row] for row in inputs.rows("sequences", [[float(i) for i in range(len(rows))]])]
    kept = [True] * len(rows)
    if _nested(inputs.get("mask")):
        for row, marks in zip(sequences, inputs.masks("mask"), strict=True):
            for i, mark in zip(row, marks, strict=True):
                kept[i] = mark
    else:
        kept = inputs.flags("mask", kept)
    real = [row if k else [0.0] * len(row) for row, k in zip(rows, kept, strict=True)]
    logits_NV = torch.tensor(real, dtype=torch.float64, requires_grad=True)
    actions_N = torch.tensor([a if k else 0 for a, k in zip(inputs.integers("actions"), kept, strict=True)])
    logp_N = logits_NV.log_softmax(-1).gather(1, actions_N[:, None])[:, 0]
    return logits_NV, logp_N, [[i for i in row if kept[i]] for row in sequences]


def _nested(value: object) -> bool:
    """Whether it is a list of lists."""
    return isinstance(value, Sequence) and any(isinstance(v, Sequence) for v in cast("Sequence[object]", value))


def _bandit_loss(config: LossConfig, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Loss, and its gradient in the logits."""
    logits_NV, logp_N, sequences = _bandit(inputs)
    owner = {i: s for s, row in enumerate(sequences) for i in row}
    order = torch.tensor([i for row in sequences for i in row], dtype=torch.int64)
    behaviour, credit = inputs.numbers("behav"), inputs.numbers("adv")
    rows = [[behaviour[i] for i in row] for row in sequences]
    case = step(rows, old=rows, infer=rows, adv=[[credit[i] for i in row] for row in sequences])
    loss = config.build()(case._replace(logp_theta_N=logp_N[order])).loss if owner else logits_NV.sum() * 0.0
    return loss, gradient(loss, logits_NV)


def _reinforce(inputs: Inputs, params: Params) -> Expected:
    loss, grad = _bandit_loss(LossConfig(objective=ReinforceLoss(), aggregation=aggregation(params)), inputs)
    return {"loss": loss, "grad_logits": grad}


def _stop_grad(inputs: Inputs, params: Params) -> Expected:
    config = LossConfig(objective=CISPOLoss(cap=1e9), aggregation=aggregation(params))
    _, right = _bandit_loss(config, inputs)
    logits_NV, logp_N, sequences = _bandit(inputs)
    order = torch.tensor([i for row in sequences for i in row], dtype=torch.int64)
    case = step([[0.0] * len(row) for row in sequences])._replace(logp_theta_N=logp_N[order])
    ratio_N = (logp_N[order] - vector(inputs.numbers("behav"))[order]).exp()
    forgotten_N = -(ratio_N * vector(inputs.numbers("adv"))[order] * logp_N[order])  # what no function here computes
    wrong = gradient(aggregate(forgotten_N, case, aggregation(params)), logits_NV)
    return {"correct_grad": right, "wrong_grad": wrong}


def _coef_table(inputs: Inputs, params: Params) -> Expected:
    low, high = _eps(params)
    bounds = params.numbers("dis", [0.3, 5.0])
    behaviour = logs([[inputs.number("behav_prob")]])
    configs = {
        "ppo": LossConfig(objective=PPOClipLoss(eps_low=low, eps_high=high)),
        "gppo": LossConfig(objective=GPPOLoss(eps_low=low, eps_high=high)),
        "cispo": LossConfig(objective=CISPOLoss(cap=params.number("cispo_cap", 1.28))),
        "tis2": LossConfig(corrections=(TokenTIS(cap=params.number("tis_cap", 2.0), of="theta"),)),
        "dis": LossConfig(objective=DISLoss(eps_low=bounds[0], eps_high=bounds[1])),
    }
    case = step(behaviour, old=behaviour, infer=behaviour, adv=[inputs.number("adv")])
    found: dict[str, Tensor] = {}
    ratio = torch.zeros(())
    for name, config in configs.items():
        logits_V = vector(inputs.numbers("logits")).requires_grad_()
        logp_N = logits_V.log_softmax(-1)[inputs.integer("action")][None]
        ratio = log_ratio(logp_N.detach(), case.logp_old_N).exp()[0]
        found[name] = -gradient(config.build()(case._replace(logp_theta_N=logp_N)).loss, logits_V)
    return {"ratio": ratio, "dJ_dz": found}


def _agg(inputs: Inputs, params: Params) -> Expected:
    rows = rows_of(inputs, "token_loss") if inputs.get("token_loss") else []
    case = step(rows, mask=masks_of(inputs))
    return {"loss": aggregate(case.logp_theta_N, case, aggregation(params, "mode"))}


def _agg_global(inputs: Inputs, params: Params) -> Expected:
    whole = step(inputs.rows("token_loss"), mask=masks_of(inputs))
    found: dict[str, list[Tensor]] = {"token_mean": [], "seq_mean_token_mean": []}
    for part in inputs.rows("micro_batches"):
        index = torch.isin(whole.sequence_N, torch.tensor([int(s) for s in part], dtype=torch.int64))
        mask_N = index if whole.mask_N is None else index & whole.mask_N
        micro = whole._replace(mask_N=mask_N)
        for name, rule in (("token_mean", TokenMean()), ("seq_mean_token_mean", SequenceMeanTokenMean())):
            found[name].append(aggregate(micro.logp_theta_N, micro, rule))
    return {name: torch.stack(values) if values else [] for name, values in found.items()}


def _agg_trajectory(inputs: Inputs, params: Params) -> Expected:
    rollouts = inputs.cube("rollouts")
    mask = None
    if "mask" not in inputs and any(isnan(x) for rollout in rollouts for trace in rollout for x in trace):
        mask = [[not isnan(x) for trace in rollout for x in trace] for rollout in rollouts]
    if "mask" in inputs:
        mask = [[bool(m) for trace in rollout for m in trace] for rollout in inputs.cube("mask")]
    parts = [[i for i, trace in enumerate(rollout) for _ in trace] for rollout in rollouts]
    case = step([[x for trace in rollout for x in trace] for rollout in rollouts], mask=mask, parts=parts)
    return {"loss": aggregate(case.logp_theta_N, case, SequenceMeanTraceMean())}


TABLE: Mapping[str, Case] = {
    "ppo": _coef(_ppo),
    "dual-clip": _coef(lambda params: _ppo(params, params.number("dual", 3.0))),
    "gppo": _coef(_gppo),
    "sapo": _coef(_sapo),
    "cispo": _coef(lambda params: CISPOLoss(cap=params.number("cap", 1.28))),
    "dis": _coef(_dis),
    "two-sided": _two_sided,
    "gspo": _gspo,
    "gmpo": _gmpo,
    "luspo": _luspo,
    "vespo": _vespo,
    "decoupled": _decoupled,
    "prox-approx": _prox,
    "capacity": _capacity,
    "m2po": _m2po,
    "dppo-tv": _dppo,
    "tv-sym": _tv_sym,
    "kl-cov": _kl_cov,
    "entropy": _entropy,
    "dro": _dro,
    "vcpo": _vcpo,
    "composite": _composite,
    "reinforce": _reinforce,
    "stop-grad": _stop_grad,
    "coef-table": _coef_table,
    "agg": _agg,
    "agg-global": _agg_global,
    "agg-trajectory": _agg_trajectory,
}
"""Formula ids of this area."""
