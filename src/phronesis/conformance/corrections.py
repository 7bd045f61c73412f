"""Cases of what corrects and measures the difference between sampler and learner, and of divergences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from phronesis.conformance.case import Case, Expected, Inputs, Params
from phronesis.conformance.steps import (
    aggregation,
    gradient,
    is_flat,
    logs,
    masks_of,
    per_row,
    rows_of,
    step,
    vector,
)
from phronesis.losses import (
    AnyCorrection,
    GeometricReject,
    IcePop,
    K2Reject,
    K3Reject,
    LossConfig,
    LossInputs,
    OffPolicySequenceMask,
    PPOClipLoss,
    SequenceMIS,
    SequenceTIS,
    TokenMIS,
    TokenTIS,
    Veto,
    adapt_kl,
    aggregate,
    combine,
    expected,
    kl_divergence,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_k3plus,
    kl_unbiased,
    measure_mismatch,
    rejected,
)
from phronesis.losses.aggregation import TokenMean
from phronesis.losses.corrections.rejection import k2_of, k3_of
from phronesis.losses.corrections.truncation import sequence_log_weight
from phronesis.losses.mismatch import perplexity_ratio
from phronesis.losses.sequences import sequence_mean


def _of_rho(rows: Sequence[Sequence[float]], inputs: Inputs) -> LossInputs:
    """A step whose log rho (old - infer) are the given rows."""
    return step(rows, old=rows, mask=masks_of(inputs)).cleaned()


def _weight(rule: AnyCorrection, case: LossInputs) -> Tensor:
    found = rule.correct(case).weight_N
    return torch.ones_like(case.logp_theta_N) if found is None else found.to(torch.float64)


def _keep(rule: AnyCorrection, case: LossInputs) -> Tensor:
    found = rule.correct(case).keep_N
    return torch.ones_like(case.sequence_N, dtype=torch.bool) if found is None else found


def _first(values_N: Tensor, case: LossInputs, empty: object) -> list[object]:
    """One value of each sequence; `empty` for one without tokens."""
    return [row[0] if row else empty for row in per_row(values_N, case)]


def _one(values: Sequence[object], inputs: Inputs, name: str) -> object:
    """A single value where the case gave a single row."""
    return values[0] if is_flat(inputs, name) else values


def _coef(rule: AnyCorrection, inputs: Inputs) -> Expected:
    """c of ``dL/d log pi = -c A`` of REINFORCE under the correction, the given ratio being theta / infer."""
    credit = [a or 1.0 for a in inputs.numbers("adv")]
    case = step(logs([inputs.numbers("ratio")]), adv=[credit], mask=masks_of(inputs))
    leaf = case.logp_theta_N.requires_grad_()
    loss = LossConfig(corrections=(rule,)).build()(case._replace(logp_theta_N=leaf)).loss
    return {"coef": -gradient(loss, leaf) * max(case.totals.tokens, 1) / vector(credit)}


def _tis_token(inputs: Inputs, params: Params) -> Expected:
    return _coef(TokenTIS(cap=params.number("cap", 2.0), of="theta"), inputs)


def _mis(inputs: Inputs, params: Params) -> Expected:
    return _coef(TokenMIS(low=params.number("low", 0.5), high=params.number("high", 2.0), of="theta"), inputs)


def _pop(inputs: Inputs, params: Params) -> Expected:
    rows = rows_of(inputs, "rho")
    case = _of_rho(logs(rows), inputs)
    weights = per_row(_weight(IcePop(beta=params.number("beta", 2.0)), case), case)
    return {"weight": _one(weights, inputs, "rho")}


def _icepop(inputs: Inputs, params: Params) -> Expected:
    rho, ratio = logs(inputs.rows("rho")), logs(inputs.rows("ratio"))
    theta = [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(rho, ratio, strict=True)]
    config = LossConfig(
        objective=PPOClipLoss(eps_low=params.number("eps_low", 0.2), eps_high=params.number("eps_high", 0.28)),
        aggregation=aggregation(params, default="seq-mean-token-mean"),
        corrections=(IcePop(beta=params.number("beta", 2.0)),),
    )
    case = step(theta, old=rho, adv=inputs.numbers("adv"), mask=masks_of(inputs))
    return {"loss": config.build()(case).loss}


def _opsm(inputs: Inputs, params: Params) -> Expected:
    old, theta = rows_of(inputs, "old"), rows_of(inputs, "theta")
    credit = inputs.numbers("adv") if isinstance(inputs.get("adv"), Sequence) else [inputs.number("adv")]
    case = step(theta, old=old, adv=credit, mask=masks_of(inputs)).cleaned()
    weight_N = _weight(OffPolicySequenceMask(delta=params.number("delta", 1e-4)), case)
    return {"dropped": _one(_first(weight_N == 0, case, False), inputs, "old")}


def _product(rule: SequenceTIS | SequenceMIS, inputs: Inputs) -> Expected:
    case = _of_rho(rows_of(inputs, "log_rho"), inputs)
    product_S = sequence_log_weight(case.logp_old_N, case).exp()
    weights = _first(_weight(rule, case), case, 1.0)
    return {
        "product": _one(list(product_S), inputs, "log_rho"),
        "weight": _one(weights, inputs, "log_rho"),
    }


def _tis_seq(inputs: Inputs, params: Params) -> Expected:
    return _product(SequenceTIS(cap=params.number("cap", 2.0)), inputs)


def _tis_seq_mask(inputs: Inputs, params: Params) -> Expected:
    return _product(SequenceMIS(cap=params.number("cap", 3.0)), inputs)


def _geo(inputs: Inputs, params: Params) -> Expected:
    case = _of_rho(rows_of(inputs, "log_rho"), inputs)
    rule = GeometricReject(low=params.number("low", 0.999), high=params.number("high", 1.001))
    means = list(sequence_mean(case.logp_old_N, case).exp())
    keep = _first(_keep(rule, case), case, True)
    return {"geometric": _one(means, inputs, "log_rho"), "keep": _one(keep, inputs, "log_rho")}


def _veto(inputs: Inputs, params: Params) -> Expected:
    if inputs.get("rho") == []:  # no sequences, rather than one without tokens
        return {"keep": []}
    case = _of_rho(logs(rows_of(inputs, "rho")), inputs)
    keep = _first(_keep(Veto(threshold=params.number("threshold", 1e-4)), case), case, True)
    return {"keep": _one(keep, inputs, "rho")}


def _k3_reject(inputs: Inputs, params: Params) -> Expected:
    case = _of_rho(rows_of(inputs, "log_rho"), inputs)
    keep = _first(_keep(K3Reject(threshold=params.number("threshold", 1e-3)), case), case, True)
    values = list(sequence_mean(k3_of(case.logp_old_N), case))
    return {"k3": _one(values, inputs, "log_rho"), "keep": _one(keep, inputs, "log_rho")}


def _k2_reject(inputs: Inputs, params: Params) -> Expected:
    case = _of_rho(rows_of(inputs, "log_rho"), inputs)
    threshold, k2_N = params.number("threshold", 2.0), k2_of(case.logp_old_N)
    if params.text("level", "token") == "token":
        keep = per_row(_keep(K2Reject(threshold=threshold), case), case)
        return {"k2": _one(per_row(k2_N, case), inputs, "log_rho"), "keep": _one(keep, inputs, "log_rho")}
    chosen = _first(_keep(K2Reject(threshold=threshold, level="sequence"), case), case, True)
    means = list(sequence_mean(k2_N, case))
    return {"k2": _one(means, inputs, "log_rho"), "keep": _one(chosen, inputs, "log_rho")}


def _metrics(inputs: Inputs, params: Params) -> Expected:
    rows, mask = rows_of(inputs, "log_rho"), masks_of(inputs)
    log_N = vector([x for row in rows for x in row])
    mask_N = None if mask is None else torch.tensor([m for row in mask for m in row], dtype=torch.bool)
    seen = measure_mismatch(log_N, torch.zeros_like(log_N), mask_N)
    return {
        "k1": seen.k1,
        "k3": seen.k3,
        "chi2": seen.chi2,
        "ess": seen.ess,
        "ess_fraction": seen.ess_share,
        "max_abs": seen.max_abs,
    }


def _ppl(inputs: Inputs, params: Params) -> Expected:
    infer, old = rows_of(inputs, "infer"), rows_of(inputs, "old")
    case = step(old, infer=infer, mask=masks_of(inputs)).cleaned()
    kept_N = torch.ones_like(case.sequence_N, dtype=torch.bool) if case.mask_N is None else case.mask_N
    each_S = perplexity_ratio(case.logp_theta_N[kept_N], case.logp_infer_N[kept_N], case.sequence_N[kept_N], len(old))
    return {"per_sequence": _one(list(each_S), inputs, "old"), "mean": each_S[~each_S.isnan()].mean()}


def _zero_vs_reject(inputs: Inputs, params: Params) -> Expected:
    rows, losses = logs(rows_of(inputs, "rho")), rows_of(inputs, "token_loss")
    case = _of_rho(rows, inputs)
    low, high = params.number("low", 0.5), params.number("high", 2.0)
    loss_N = step(losses, mask=masks_of(inputs)).cleaned().logp_theta_N
    found: dict[str, Tensor] = {}
    for name, reject in (("zero_weight", False), ("rejection", True)):
        said = combine((TokenMIS(low=low, high=high, reject=reject),), case)
        weighted_N = loss_N if said.weight_N is None else loss_N * said.weight_N
        kept = case if said.keep_N is None else rejected(case, said.keep_N)
        found[name] = aggregate(weighted_N, kept, TokenMean())
    return found


def _length_trap(inputs: Inputs, params: Params) -> Expected:
    lengths = inputs.integers("lengths")
    ratio = torch.tensor(inputs.number("ratio"), dtype=torch.float64).log().item()
    case = step([[ratio] * n for n in lengths])
    product_S = sequence_log_weight(case.logp_theta_N, case).exp()
    return {"product": product_S, "geometric": sequence_mean(case.logp_theta_N, case).exp()}


def _two(inputs: Inputs, *names: str) -> list[Tensor]:
    return [vector(inputs.numbers(name)) for name in names]


def _kl_k(inputs: Inputs, params: Params) -> Expected:
    theta_N, ref_N = _two(inputs, "theta", "ref")
    return {"k1": kl_k1(theta_N, ref_N), "k2": kl_k2(theta_N, ref_N), "k3": kl_k3(theta_N, ref_N)}


def _kl_expect(inputs: Inputs, params: Params) -> Expected:
    p_V, q_V = (x.log() for x in _two(inputs, "p", "q"))
    estimators = {"E_k1": kl_k1, "E_k2": kl_k2, "E_k3": kl_k3}
    return {"kl": kl_divergence(p_V[None], q_V[None])[0]} | {k: expected(f(p_V, q_V), p_V) for k, f in estimators.items()}


def _kl_grad(inputs: Inputs, params: Params) -> Expected:
    p_V, ref_V = (x.log() for x in _two(inputs, "p", "ref"))
    found: dict[str, Tensor] = {}
    for name, estimator in (("true_reverse", None), ("k1", kl_k1), ("k2", kl_k2), ("k3", kl_k3)):
        leaf = p_V.clone().requires_grad_()
        logp_V = leaf.log_softmax(-1)
        exact = kl_divergence(logp_V[None], ref_V[None])[0]
        found[name] = gradient(exact if estimator is None else expected(estimator(logp_V, ref_V), p_V), leaf)
    return found


def _k3plus(inputs: Inputs, params: Params) -> Expected:
    theta_N, ref_N = _two(inputs, "theta", "ref")
    leaf = theta_N.requires_grad_()
    value_N = kl_k3plus(leaf, ref_N)
    return {"value": value_N, "dlogp": gradient(value_N.sum(), leaf)}


def _unbiased(inputs: Inputs, params: Params) -> Expected:
    return {"value": kl_unbiased(*_two(inputs, "theta", "old", "ref"))}


def _adaptive_kl(inputs: Inputs, params: Params) -> Expected:
    coef = adapt_kl(
        inputs.number("coef"),
        inputs.number("kl"),
        inputs.integer("n"),
        target=params.number("target"),
        horizon=params.number("horizon"),
        clip=params.number("clip", 0.2),
    )
    return {"coef": coef}


TABLE: Mapping[str, Case] = {
    "tis-token": _tis_token,
    "mis": _mis,
    "pop": _pop,
    "icepop": _icepop,
    "opsm": _opsm,
    "tis-seq": _tis_seq,
    "tis-seq-mask": _tis_seq_mask,
    "geo-reject": _geo,
    "veto": _veto,
    "k3-reject": _k3_reject,
    "k2-reject": _k2_reject,
    "mismatch-metrics": _metrics,
    "ppl-ratio": _ppl,
    "zero-vs-reject": _zero_vs_reject,
    "length-trap": _length_trap,
    "kl-k": _kl_k,
    "kl-expect": _kl_expect,
    "kl-grad": _kl_grad,
    "k3plus": _k3plus,
    "kl-unbiased": _unbiased,
    "adaptive-kl": _adaptive_kl,
}
"""Formula ids of this area."""
