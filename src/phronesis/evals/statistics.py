"""Numbers with their uncertainty: intervals, paired differences, seeds. Pure functions; random draws come from a named seed.

Which interval for what:

* a share of successes of independent episodes: `wilson`;
* a share or mean when several episodes belong to one task: `bootstrap_mean` with `clusters`;
* a mean of few independent numbers (seeds): `mean_interval`;
* before against after on the same tasks: `paired_difference`;
* several attempts per task taken together: `at_k.py`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from statistics import NormalDist, median
from typing import NamedTuple

import numpy as np

from phronesis.data.intervals import Z95 as Z95
from phronesis.data.intervals import Interval as Interval
from phronesis.data.intervals import wilson as wilson
from phronesis.seeding import stream

_CHUNK = 2_000_000
"""Most bootstrap draws held in memory at once."""


class Estimate(NamedTuple):
    """A number with an interval around it."""

    value: float
    """The point estimate."""
    low: float
    """Lower end of the interval; NaN when it cannot be computed."""
    high: float
    """Upper end of the interval; NaN when it cannot be computed."""
    n: int
    """Independent units behind it: values, or clusters when clustered."""


class PairedDifference(NamedTuple):
    """After minus before, over the tasks both have."""

    difference: float
    """Mean over tasks of (mean after - mean before)."""
    low: float
    """Lower end of the bootstrap interval."""
    high: float
    """Upper end of the bootstrap interval."""
    tasks: int
    """Tasks found on both sides."""
    improved: int
    """Tasks whose mean rose."""
    worsened: int
    """Tasks whose mean fell."""
    unpaired: int
    """Tasks found on one side only; they are left out."""


class SeedSummary(NamedTuple):
    """One number per seed, summarised."""

    median: float
    """Middle value; the mean of the middle two when there is an even number of seeds."""
    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    seeds: int
    """How many seeds."""


def _student_within(t: float, dof: int) -> float:
    """P(|T| <= t) for Student's t with an integer number of degrees of freedom (Abramowitz & Stegun 26.7.3-4)."""
    theta = math.atan(t / math.sqrt(dof))
    cos, sin = math.cos(theta), math.sin(theta)
    total, term = 0.0, cos if dof % 2 else 1.0
    for k in range(1, dof // 2 + 1):
        total += term
        term *= cos * cos * ((2 * k) / (2 * k + 1) if dof % 2 else (2 * k - 1) / (2 * k))
    return 2 / math.pi * (theta + sin * total) if dof % 2 else sin * total


def student_quantile(dof: int, confidence: float = 0.95) -> float:
    """The t with P(|T| <= t) = confidence.

    >>> round(student_quantile(4), 3), round(student_quantile(1), 3)
    (2.776, 12.706)

    Args:
        dof: degrees of freedom, at least 1.
        confidence: two-sided, in (0, 1).

    Raises:
        ValueError: an argument out of range.
    """
    if dof < 1 or not 0 < confidence < 1:
        raise ValueError(f"need dof >= 1 and 0 < confidence < 1, got {dof!r} and {confidence!r}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    if dof > 200:  # Cornish-Fisher, error below 1e-6 here
        return z + (z**3 + z) / (4 * dof) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof * dof)
    low, high = 0.0, 1.0
    while _student_within(high, dof) < confidence:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, dof) < confidence else (low, middle)
    return (low + high) / 2


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean with Student's t interval, for independent values.

    >>> e = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> e.value, round(e.low, 4), round(e.high, 4)
    (3.0, 1.0368, 4.9632)

    Returns:
        One value has an unknown spread: low and high are NaN. No value: everything is NaN.
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    half = student_quantile(n - 1, confidence) * math.sqrt(variance / n)
    return Estimate(mean, mean - half, mean + half, n)


def bootstrap_mean(
    values: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean with a percentile bootstrap interval.

    Episodes of one task are not independent: with `clusters` whole tasks are drawn with replacement and each brings all of
    its values, so the interval is as wide as the number of tasks deserves.

    >>> bootstrap_mean([1.0, 1.0, 1.0])
    Estimate(value=1.0, low=1.0, high=1.0, n=3)

    Args:
        values: one number per episode.
        clusters: the task of each value, same length; None draws single values.
        confidence: in (0, 1).
        resamples: bootstrap samples, at least 1.
        seed: the draw is a function of it alone.

    Raises:
        ValueError: lengths differ, or an argument out of range.
    """
    if clusters is not None and len(clusters) != len(values):
        raise ValueError(f"one cluster per value: {len(clusters)} clusters for {len(values)} values")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"need resamples >= 1 and 0 < confidence < 1, got {resamples!r} and {confidence!r}")
    if not values:
        return Estimate(math.nan, math.nan, math.nan, 0)
    keys: Sequence[Hashable] = range(len(values)) if clusters is None else clusters
    members: dict[Hashable, list[float]] = {}
    for key, value in zip(keys, values, strict=True):
        members.setdefault(key, []).append(value)
    sums = np.array([math.fsum(m) for m in members.values()])
    counts = np.array([len(m) for m in members.values()], dtype=np.float64)
    generator = np.random.default_rng(stream(seed, "bootstrap"))
    rows = max(1, _CHUNK // len(sums))
    means: list[float] = []
    while len(means) < resamples:
        drawn = generator.integers(0, len(sums), size=(min(rows, resamples - len(means)), len(sums)))
        means.extend((sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)).tolist())
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.array(means), [tail, 1 - tail]).tolist()
    return Estimate(math.fsum(values) / len(values), low, high, len(sums))


def paired_difference(
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """After minus before over the tasks both have, with a bootstrap over tasks.

    Pairing removes the spread between tasks, so it needs far fewer episodes than two separate intervals.

    >>> d = paired_difference({"a": [0, 0], "b": [1]}, {"a": [1, 0], "b": [1], "c": [1]})
    >>> d.difference, d.tasks, d.improved, d.unpaired
    (0.25, 2, 1, 1)

    Args:
        before: outcomes by task id; a task without outcomes counts as missing.
        after: the same.
        confidence: in (0, 1).
        resamples: bootstrap samples.
        seed: the draw is a function of it alone.
    """
    left = {task for task, outcomes in before.items() if outcomes}
    right = {task for task, outcomes in after.items() if outcomes}
    shared = sorted(left & right)
    changes = [math.fsum(after[t]) / len(after[t]) - math.fsum(before[t]) / len(before[t]) for t in shared]
    estimate = bootstrap_mean(changes, confidence=confidence, resamples=resamples, seed=stream(seed, "paired"))
    return PairedDifference(
        difference=estimate.value,
        low=estimate.low,
        high=estimate.high,
        tasks=len(shared),
        improved=sum(c > 0 for c in changes),
        worsened=sum(c < 0 for c in changes),
        unpaired=len(left ^ right),
    )


def over_seeds(values: Sequence[float]) -> SeedSummary:
    """Median and range of one number per seed. Never a bare mean: one lucky seed must not carry a claim.

    >>> over_seeds([0.91, 0.74, 0.93])
    SeedSummary(median=0.91, low=0.74, high=0.93, seeds=3)

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("no seed to summarise; give at least one value")
    return SeedSummary(median(values), min(values), max(values), len(values))
