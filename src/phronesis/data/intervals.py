"""Intervals around a share of successes: what a pass rate from few attempts really says."""

from __future__ import annotations

import math
from typing import NamedTuple

Z95 = 1.96
"""Standard normal quantile of a two-sided 95 % interval, rounded as the literature does."""


class Interval(NamedTuple):
    """A closed interval `[low, high]` in the unit of the thing estimated."""

    low: float
    high: float


def wilson(successes: float, n: float, z: float = Z95) -> Interval:
    """Wilson score interval of a success probability.   Formula [wilson].

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = successes / n. It stays inside [0, 1] and is sensible at
    0 and at n successes, where the normal interval has width 0.

    >>> low, high = wilson(2, 8)
    >>> round(low, 6), round(high, 6)
    (0.071478, 0.59073)

    Args:
        successes: number of successes, in [0, n]; a fraction is allowed for partial credit.
        n: number of trials; 0 gives the whole of [0, 1]; a fraction is allowed for counts that fade.
        z: normal quantile of the two-sided interval.

    Raises:
        ValueError: successes outside [0, n], or n negative.
    """
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"need 0 <= successes <= n, got successes {successes!r} and n {n!r}")
    if n == 0:
        return Interval(0.0, 1.0)
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + half) / scale)
    return Interval(low, high)
