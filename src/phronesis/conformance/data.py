"""Cases of curriculum and data."""

from __future__ import annotations

from collections.abc import Mapping
from math import comb, fsum, isnan

from phronesis.conformance.case import Case, Expected, Inputs, Params
from phronesis.data.bandits import dump_scores, sec_value, softmax
from phronesis.data.curriculum import learnability, learnability_from, screening_probability
from phronesis.data.intervals import wilson


def _learnability(inputs: Inputs, params: Params) -> Expected:
    found: dict[str, object] = {}
    n = inputs.integer("n", 0)
    if "c" in inputs:
        found["unbiased"] = learnability_from(inputs.integer("c"), n)
    if "p" in inputs:
        p = inputs.number("p")
        found["p_one_minus_p"] = learnability(p)
        if n >= 2:  # the estimate's mean over the number of successes
            chances = [comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
            found["expected_unbiased"] = fsum(q * learnability_from(c, n) for c, q in enumerate(chances))
    return found


def _wilson(inputs: Inputs, params: Params) -> Expected:
    low, high = wilson(inputs.number("c"), inputs.integer("n"), params.number("z", 1.96))
    return {"low": low, "high": high}


def _speed_keep(inputs: Inputs, params: Params) -> Expected:
    return {"prob": screening_probability(inputs.number("p"), params.integer("n_screen", 4))}


def _dump(inputs: Inputs, params: Params) -> Expected:
    counts, means = inputs.integers("n"), inputs.numbers("mean_abs_adv")
    known = [a if n or not isnan(a) else 0.0 for n, a in zip(counts, means, strict=True)]  # never tried: nothing to average
    scores = dump_scores(counts, known)
    return {"score": scores, "prob": softmax(scores, params.number("temperature", 0.1))}


def _sec(inputs: Inputs, params: Params) -> Expected:
    values, alpha = inputs.numbers("q0"), params.number("alpha")
    for arm, advantage in inputs.rows("updates"):
        values[int(arm)] = sec_value(values[int(arm)], advantage, alpha=alpha)
    return {"q": values, "prob": softmax(values, params.number("temperature"))}


TABLE: Mapping[str, Case] = {
    "learnability": _learnability,
    "wilson": _wilson,
    "speed-keep": _speed_keep,
    "dump": _dump,
    "sec": _sec,
}
"""Formula ids of this area."""
