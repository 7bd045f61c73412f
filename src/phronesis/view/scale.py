"""Axes and curves as numbers: ticks at round values, ranges, smoothing, logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LARGEST = 1e300
"""Beyond it, and below its inverse, values are drawn as if they were it."""

Points = Sequence[tuple[float, float]]
"""(x, y) with rising x."""


def ticks(low: float, high: float, most: int = 5) -> tuple[float, ...]:
    """Round values inside [low, high], at most about `most` of them, in steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0, 1), ticks(0, 97, 4)
    ((0.0, 0.2, 0.4, 0.6, 0.8, 1.0), (0.0, 50.0))
    """
    if not high > low:
        return (low,)
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


@dataclass(frozen=True)
class Axis:
    """Maps values to a share of the axis length, in [0, 1]."""

    low: float
    """Value at 0."""
    high: float
    """Value at 1; above `low`."""
    log: bool = False
    """True: equal ratios take equal lengths."""

    def at(self, value: float) -> float:
        """Position of a value, clamped to a little outside of [0, 1].

        >>> Axis(0, 10).at(5), Axis(0.001, 10, log=True).at(0.1)
        (0.5, 0.5)
        """
        if self.log:
            share = (math.log10(max(value, self.low)) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(min(1.02, max(-0.02, share)), 5)

    def ticks(self, most: int = 5) -> tuple[float, ...]:
        """Round values along the axis."""
        if not self.log:
            return ticks(self.low, self.high, most)
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        every = max(1, math.ceil((last - first + 1) / most))
        return tuple(10.0**p for p in range(first, last + 1, every))


def fit(values: Sequence[float], *, log: bool = False, floor: float | None = None, ceiling: float | None = None) -> Axis:
    """An axis that holds all finite values with a little air.

    Args:
        values: what must fit; non-finite ones are ignored.
        log: logarithmic; needs a positive value, else the axis is linear.
        floor: natural lower end (0 for counts); used when the values come near it.
        ceiling: natural upper end (1 for shares), likewise.
    """
    finite = [min(_LARGEST, max(-_LARGEST, v)) for v in values if math.isfinite(v)]
    positive = [v for v in finite if v > 1 / _LARGEST]
    if log and positive:
        low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
        return Axis(10.0**low, 10.0 ** max(high, low + 1), log=True)
    if not finite:
        return Axis(0.0, 1.0)
    low, high = min(finite), max(finite)
    spread = high - low if high - low > 1 / _LARGEST else abs(high) if abs(high) > 1 / _LARGEST else 1.0
    low, high = low - 0.06 * spread, high + 0.06 * spread
    if floor is not None and min(finite) >= floor and min(finite) - floor < 1.5 * spread:
        low = floor
    if ceiling is not None and max(finite) <= ceiling and ceiling - max(finite) < spread:
        high = ceiling
    return Axis(low, high)


def window(n: int) -> int:
    """Steps on each side that smoothing averages over, for a curve of n points.

    >>> window(5), window(40), window(400)
    (0, 2, 20)
    """
    return 0 if n < 12 else max(1, n // 20)


def smooth(points: Points) -> tuple[tuple[float, float], ...]:
    """Centred moving mean over `window(n)` points on each side, fewer at the ends; non-finite values are skipped.

    >>> smooth([(0, 1.0), (1, 3.0)])   # too short to smooth
    ((0, 1.0), (1, 3.0))
    """
    half = window(len(points))
    smoothed: list[tuple[float, float]] = []
    for i, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, i - half) : i + half + 1] if math.isfinite(y)]
        if near:
            smoothed.append((x, math.fsum(near) / len(near)))
    return tuple(smoothed)


def thin(points: Points, most: int = 600) -> tuple[tuple[float, float], ...]:
    """At most `most` points that look the same: of each stretch the lowest and the highest, in order; ends are kept.

    Non-finite values are kept as they are only in curves that are short enough to need no thinning.

    >>> thin([(0, 5.0), (1, 9.0), (2, 1.0), (3, 5.0)], most=4)
    ((0, 5.0), (1, 9.0), (2, 1.0), (3, 5.0))
    >>> [y for _, y in thin([(float(i), float(i == 50)) for i in range(100)], most=10)].count(1.0)
    1
    """
    if len(points) <= most:
        return tuple(points)
    buckets = max(1, (most - 2) // 2)
    inner = [p for p in points[1:-1] if math.isfinite(p[1])]
    kept = [points[0]]
    for b in range(buckets):
        stretch = inner[b * len(inner) // buckets : (b + 1) * len(inner) // buckets]
        if stretch:
            kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return (*kept, points[-1])


def spread(n: int, most: int) -> tuple[int, ...]:
    """At most `most` indices below n, evenly, first and last among them.

    >>> spread(3, 10), spread(101, 3)
    ((0, 1, 2), (0, 50, 100))
    """
    return tuple(range(n)) if n <= most else tuple(dict.fromkeys(round(i * (n - 1) / (most - 1)) for i in range(most)))
