"""Whether a confidence means what it says: calibration error, Brier score, and how well it tells right from wrong.

State when the confidence was asked for (before acting, or with the final answer), report n and the bin rule beside every
number, and keep attempts that abstained apart.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

from phronesis.errors import ConfigError

Bins = Literal["width", "mass"]
"""Bins of equal width over [0, 1], or of equal numbers of attempts (better for few attempts)."""


def ece(confidence: Sequence[float], correct: Sequence[float], *, bins: int = 10, rule: Bins = "width") -> float:
    """Expected calibration error: Σ over bins of (share of attempts) * |mean correctness - mean confidence|.

    >>> round(ece([.95, .85, .65, .55, .1, .92], [1, 0, 1, 0, 0, 1]), 6)
    0.33

    With bins of equal width an attempt on an edge opens the bin above it, and 1 belongs to the last bin. Empty bins count
    nothing. The estimate is biased upwards for few attempts per bin.

    Args:
        confidence: each in [0, 1].
        correct: 0 or 1 each (partial credit allowed).
        bins: at least 1.
        rule: of equal width, or with (nearly) equally many attempts.

    Returns:
        NaN without attempts.

    Source: arXiv 1706.04599 eq. 3; formula [ece].

    Raises:
        ConfigError: lengths differ, or a number is out of range.
    """
    n = _checked(confidence, correct)
    if bins < 1:
        raise ConfigError(f"calibration needs at least 1 bin, got {bins!r}")
    if not n:
        return math.nan
    edges = [i / bins for i in range(1, bins)]
    order = sorted(range(n), key=lambda i: confidence[i])
    places = [0] * n
    for rank, i in enumerate(order):
        places[i] = bisect_right(edges, confidence[i]) if rule == "width" else rank * bins // n
    gaps = [0.0] * bins
    for place, c, y in zip(places, confidence, correct, strict=True):
        gaps[place] += y - c
    return math.fsum(abs(gap) for gap in gaps) / n


def brier(confidence: Sequence[float], correct: Sequence[float]) -> float:
    """Mean of (confidence - correctness)²: 0 is perfect, .25 what always saying .5 gives. NaN without attempts.

    >>> round(brier([.95, .85, .65, .55, .1, .92], [1, 0, 1, 0, 0, 1]), 6)
    0.1944

    A proper score: no confidence but the true probability lowers its mean.   Formula [brier].

    Raises:
        ConfigError: lengths differ, or a number is out of range.
    """
    n = _checked(confidence, correct)
    return math.fsum((c - y) ** 2 for c, y in zip(confidence, correct, strict=True)) / n if n else math.nan


def auroc(confidence: Sequence[float], correct: Sequence[bool | int]) -> float:
    """Probability that a right attempt is more confident than a wrong one, ties counting half.

    >>> round(auroc([.95, .85, .65, .55, .1, .92], [1, 0, 1, 0, 0, 1]), 6)
    0.888889

    Only the order of confidences matters, so it says nothing about calibration.   Formula [auroc].

    Returns:
        NaN unless there are both right and wrong attempts.

    Raises:
        ConfigError: lengths differ.
    """
    if len(confidence) != len(correct):
        raise ConfigError(f"{len(confidence)} confidences for {len(correct)} outcomes")
    right = sum(map(bool, correct))
    wrong = len(correct) - right
    if not right or not wrong:
        return math.nan
    won, wrong_below = 0.0, 0
    order = sorted(range(len(correct)), key=lambda i: confidence[i])
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and confidence[order[end]] == confidence[order[start]]:
            end += 1
        right_here = sum(bool(correct[i]) for i in order[start:end])
        wrong_here = end - start - right_here
        won += right_here * (wrong_below + wrong_here / 2)
        wrong_below += wrong_here
        start = end
    return won / (right * wrong)


def _checked(confidence: Sequence[float], correct: Sequence[float]) -> int:
    if len(confidence) != len(correct):
        raise ConfigError(f"{len(confidence)} confidences for {len(correct)} outcomes")
    for name, values in (("confidence", confidence), ("correctness", correct)):
        bad = next((v for v in values if not 0 <= v <= 1), None)
        if bad is not None:
            raise ConfigError(f"{name} {bad!r} is outside [0, 1]; scale it, and leave out attempts without one")
    return len(confidence)
