"""Worked numbers of intervals and paired differences; coverage by simulation; exact distributions as cross-checks."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.evals.statistics import (
    Estimate,
    Interval,
    PairedDifference,
    bootstrap_mean,
    mean_interval,
    over_seeds,
    paired_difference,
    student_quantile,
    wilson,
)


def test_wilson_worked_number():
    low, high = wilson(2, 8)
    assert low == pytest.approx(0.07147768885802763, abs=1e-12)
    assert high == pytest.approx(0.5907301208974108, abs=1e-12)


def test_wilson_by_hand_at_half():
    # p = 1/2, n = 4, z = 2: centre 1/2, scale 2, half-width 2 sqrt(1/16 + 1/16) / 2 = sqrt(1/8)
    low, high = wilson(2, 4, z=2.0)
    assert low == pytest.approx(0.5 - math.sqrt(1 / 8), abs=1e-15)
    assert high == pytest.approx(0.5 + math.sqrt(1 / 8), abs=1e-15)


def test_wilson_ends_are_exact_and_not_degenerate():
    # with 0 of n the upper end is z² / (n + z²)
    assert wilson(0, 10, z=2.0) == (0.0, pytest.approx(4 / 14, abs=1e-15))
    assert wilson(10, 10, z=2.0) == (pytest.approx(10 / 14, abs=1e-15), 1.0)
    assert wilson(0, 0) == Interval(0.0, 1.0)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_solve_the_defining_quadratic(case: tuple[int, int]):
    successes, n = case
    share = successes / n
    for end in wilson(successes, n):
        assert 0 <= end <= 1
        assert (end - share) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n, abs=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(-1, 4), (5, 4), (0, -1)])
def test_wilson_refuses_impossible_counts(successes: int, n: int):
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        wilson(successes, n)


@pytest.mark.parametrize(
    ("dof", "quantile"),
    [(1, 12.70620), (2, 4.302653), (3, 3.182446), (4, 2.776445), (9, 2.262157), (30, 2.042272), (120, 1.979930)],
)
def test_student_quantile_against_the_table(dof: int, quantile: float):
    assert student_quantile(dof) == pytest.approx(quantile, abs=1e-5)


def test_student_quantile_joins_its_expansion_smoothly_and_tends_to_normal():
    assert student_quantile(200) - student_quantile(201) == pytest.approx(0.0000597, abs=1e-6)  # 1.971896 and 1.971837
    assert student_quantile(10**9) == pytest.approx(1.959964, abs=1e-6)
    assert student_quantile(5, 0.99) == pytest.approx(4.032143, abs=1e-5)


def test_mean_interval_worked_number():
    # sd² = 2.5, standard error sqrt(0.5) = 0.707107, t(4) = 2.776445
    found = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found == Estimate(3.0, pytest.approx(3 - 1.963243, abs=1e-5), pytest.approx(3 + 1.963243, abs=1e-5), 5)


def test_mean_interval_says_when_it_does_not_know():
    one, none = mean_interval([0.7]), mean_interval([])
    assert one.value == 0.7 and math.isnan(one.low) and math.isnan(one.high) and one.n == 1
    assert math.isnan(none.value) and none.n == 0


def test_bootstrap_of_two_values_has_the_exact_percentiles():
    # resamples of {0, 1} have means 0, 1/2, 1 with probability 1/4, 1/2, 1/4, so the 2.5 % percentiles are 0 and 1
    assert bootstrap_mean([0.0, 1.0]) == Estimate(0.5, 0.0, 1.0, 2)
    # a 40 % interval has tails of 30 %, which lie in the middle atom
    assert bootstrap_mean([0.0, 1.0], confidence=0.4) == Estimate(0.5, 0.5, 0.5, 2)


def test_bootstrap_is_a_function_of_its_seed():
    source = random.Random(1)
    values = [source.random() for _ in range(40)]
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_bootstrap_agrees_with_the_normal_interval():
    source = random.Random(7)
    values = [source.gauss(5, 2) for _ in range(400)]
    boot, normal = bootstrap_mean(values, resamples=4000), mean_interval(values)
    assert boot.value == pytest.approx(normal.value)
    assert boot.low == pytest.approx(normal.low, abs=0.03)
    assert boot.high == pytest.approx(normal.high, abs=0.03)


def test_clusters_widen_the_interval_as_if_each_task_counted_once():
    # ten tasks of twenty identical episodes hold ten facts, not two hundred
    tasks = [t for t in range(10) for _ in range(20)]
    values = [float(t % 2) for t in tasks]
    clustered, naive = bootstrap_mean(values, clusters=tasks), bootstrap_mean(values)
    alone = bootstrap_mean([float(t % 2) for t in range(10)])
    assert (clustered.low, clustered.high, clustered.n) == (alone.low, alone.high, 10)
    assert clustered.high - clustered.low > 3 * (naive.high - naive.low)


def test_clusters_of_unequal_size_keep_the_pooled_mean():
    found = bootstrap_mean([1.0, 0.0, 0.0, 0.0], clusters=["a", "b", "b", "b"])
    assert found == Estimate(0.25, 0.0, 1.0, 2)


def test_bootstrap_refuses_misuse():
    with pytest.raises(ValueError, match="2 clusters for 1 values"):
        bootstrap_mean([1.0], clusters=["a", "b"])
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_mean([1.0], resamples=0)
    assert bootstrap_mean([]).n == 0


def test_paired_difference_counts_by_hand():
    before = {"a": [0.0, 0.0], "b": [1.0], "c": [1.0, 0.0], "gone": [1.0], "empty": []}
    after = {"a": [1.0, 0.0], "b": [1.0], "c": [0.0, 0.0], "new": [0.0], "empty": [1.0]}
    found = paired_difference(before, after)
    # a +0.5, b 0, c -0.5; `gone`, `new` and `empty` have one side only
    assert found == PairedDifference(0.0, found.low, found.high, tasks=3, improved=1, worsened=1, unpaired=3)
    assert -0.5 <= found.low < 0 < found.high <= 0.5


def test_pairing_beats_two_separate_intervals():
    # tasks differ a lot, every task improves by the same amount: paired, the difference is known exactly
    before = {str(t): [t / 100] for t in range(50)}
    after = {str(t): [t / 100 + 0.05] for t in range(50)}
    found = paired_difference(before, after)
    assert (found.difference, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05), abs=1e-12)
    assert found.improved == 50


def test_paired_difference_without_shared_tasks():
    found = paired_difference({"a": [1.0]}, {"b": [1.0]})
    assert math.isnan(found.difference) and (found.tasks, found.unpaired) == (0, 2)


def test_over_seeds_is_a_median():
    assert over_seeds([0.9, 0.1, 0.95, 0.92]) == (pytest.approx(0.91), 0.1, 0.95, 4)
    with pytest.raises(ValueError, match="no seed"):
        over_seeds([])
