"""Cases of metrics and of numerical pitfalls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isnan
from statistics import fmean

import torch

from phronesis.conformance.case import Case, Expected, Inputs, Params
from phronesis.conformance.steps import rows_of, vector
from phronesis.evals.at_k import avg_at_k, best_at_k, cons_at_k, pass_at_k, pass_hat_k
from phronesis.evals.calibration import auroc, brier, ece
from phronesis.evals.numerics import round_bf16, temperature_ratio, truncation
from phronesis.evals.sparsity import sparsity


def _pass_at_k(inputs: Inputs, params: Params) -> Expected:
    return _at_k(pass_at_k, inputs, params)


def _pass_hat_k(inputs: Inputs, params: Params) -> Expected:
    return _at_k(pass_hat_k, inputs, params)


def _at_k(formula: Callable[[int, int, int], float], inputs: Inputs, params: Params) -> Expected:
    """One number; the mean over tasks where the case lists them."""
    if not (_listed(inputs, "n") or _listed(inputs, "c")):
        return {"value": formula(inputs.integer("n"), inputs.integer("c"), params.integer("k"))}
    counts = [inputs.integers(name) if _listed(inputs, name) else None for name in ("n", "c")]
    tasks = max(len(column) for column in counts if column is not None)
    n, c = (
        column if column is not None else [inputs.integer(name)] * tasks
        for name, column in zip(("n", "c"), counts, strict=True)
    )
    return {"value": fmean(formula(a, b, params.integer("k")) for a, b in zip(n, c, strict=True))}


def _listed(inputs: Inputs, name: str) -> bool:
    value = inputs.get(name)
    return isinstance(value, Sequence) and not isinstance(value, str)


def _best_at_k(inputs: Inputs, params: Params) -> Expected:
    scores = [s for s in inputs.numbers("scores") if not isnan(s)]
    return {"value": best_at_k(scores, params.integer("k"))}


def _avg_at_k(inputs: Inputs, params: Params) -> Expected:
    rows = inputs.rows("correct")
    marks = inputs.masks("mask", [[not isnan(x) for x in row] for row in rows])
    return {"value": avg_at_k([_marked(row, mark) for row, mark in zip(rows, marks, strict=True)])}


def _cons_at_k(inputs: Inputs, params: Params) -> Expected:
    return {"value": cons_at_k(inputs.keys("answers"), _gold(inputs), params.integer("k"))}


def _gold(inputs: Inputs) -> str | float | int | bool | None:
    gold = inputs.get("gold")
    if isinstance(gold, str | float | int | bool) or gold is None:
        return gold
    raise TypeError(f"{gold!r} is no answer")


def _ece(inputs: Inputs, params: Params) -> Expected:
    confidence, correct = _judged(inputs)
    return {"value": ece(confidence, correct, bins=params.integer("bins", 10))}


def _brier(inputs: Inputs, params: Params) -> Expected:
    return {"value": brier(*_judged(inputs))}


def _auroc(inputs: Inputs, params: Params) -> Expected:
    confidence, correct = _judged(inputs)
    return {"value": auroc(confidence, [bool(c) for c in correct])}


def _judged(inputs: Inputs) -> tuple[list[float], list[float]]:
    confidence, correct = inputs.numbers("conf"), inputs.numbers("correct")
    marks = inputs.flags("mask", [not isnan(c) for c in confidence])
    return _marked(confidence, marks), _marked(correct, marks)


def _marked(values: Sequence[float], marks: Sequence[bool]) -> list[float]:
    return [v for v, m in zip(values, marks, strict=True) if m]


def _sparsity(inputs: Inputs, params: Params) -> Expected:
    before, after = ({str(i): vector(row) for i, row in enumerate(rows_of(inputs, name))} for name in ("theta0", "theta1"))
    storage = "bf16" if params.text("storage", "bf16") in ("bf16", "bfloat16") else "full"
    return {"unchanged": sparsity(before, after, tol=params.number("tol", 1e-5), storage=storage).unchanged}


def _bf16(inputs: Inputs, params: Params) -> Expected:
    return {"rounded": round_bf16(vector(inputs.numbers("x")))}


def _temp_ratio(inputs: Inputs, params: Params) -> Expected:
    logits = vector(inputs.numbers("logits"))
    if "mask" in inputs:  # an id that cannot be drawn, so that the others keep their numbers
        logits = logits.masked_fill(~torch.tensor(inputs.flags("mask")), -torch.inf)
    found = temperature_ratio(logits, inputs.integer("token"), params.number("T"))
    return {"logp_T1": found.logp_one, "logp_T": found.logp, "false_ratio": found.ratio}


def _topp_ratio(inputs: Inputs, params: Params) -> Expected:
    p = inputs.numbers("p")
    real = [i for i, m in enumerate(inputs.flags("mask", [True] * len(p))) if m]
    found = truncation(vector([p[i] for i in real]), params.number("top_p"))
    return {
        "kept": [real[i] for i in found.kept],
        "renormalised": found.probabilities,
        "token_ratio": found.token_ratio,
        "sequence_ratio": found.sequence_ratio(params.integer("length", 1)),
    }


TABLE: Mapping[str, Case] = {
    "pass-at-k": _pass_at_k,
    "pass-hat-k": _pass_hat_k,
    "best-at-k": _best_at_k,
    "avg-at-k": _avg_at_k,
    "cons-at-k": _cons_at_k,
    "ece": _ece,
    "brier": _brier,
    "auroc": _auroc,
    "sparsity": _sparsity,
    "bf16": _bf16,
    "temp-ratio": _temp_ratio,
    "topp-ratio": _topp_ratio,
}
"""Formula ids of this area."""
