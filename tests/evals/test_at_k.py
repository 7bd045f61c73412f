"""Worked numbers of pass@k and its kin, against the mean over all subsets of the attempts."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.errors import ConfigError
from phronesis.evals.at_k import avg_at_k, best_at_k, cons_at_k, pass_at_k, pass_hat_k


def test_pass_at_k_worked_numbers():
    assert pass_at_k(7, 2, 3) == pytest.approx(5 / 7, abs=1e-15)
    assert [pass_at_k(10, 3, k) for k in (1, 5, 8)] == pytest.approx([0.3, 0.916667, 1.0], abs=1e-6)
    assert pass_hat_k(7, 4, 3) == pytest.approx(4 / 35, abs=1e-15)
    assert pass_hat_k(10, 3, 2) == pytest.approx(0.066667, abs=1e-6)
    assert best_at_k([0.2, 0.9, 0.5, 0.5, 0.0], 2) == pytest.approx(0.63, abs=1e-15)


@given(st.lists(st.booleans(), min_size=1, max_size=7).flatmap(lambda xs: st.tuples(st.just(xs), st.integers(1, len(xs)))))
def test_pass_measures_equal_the_mean_over_all_subsets(case: tuple[list[bool], int]):
    outcomes, k = case
    subsets = list(itertools.combinations(outcomes, k))
    n, correct = len(outcomes), sum(outcomes)
    assert pass_at_k(n, correct, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets), abs=1e-12)
    assert pass_hat_k(n, correct, k) == pytest.approx(sum(all(s) for s in subsets) / len(subsets), abs=1e-12)
    assert best_at_k([float(o) for o in outcomes], k) == pytest.approx(pass_at_k(n, correct, k), abs=1e-12)


@pytest.mark.parametrize(("n", "correct", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_pass_measures_refuse_impossible_counts(n: int, correct: int, k: int):
    for measure in (pass_at_k, pass_hat_k):
        with pytest.raises(ValueError, match=f"k {k}"):
            measure(n, correct, k)


def test_pass_at_k_keeps_its_digits_at_both_ends():
    assert pass_at_k(10**6, 1, 1) == 1e-6
    assert pass_at_k(1000, 500, 400) == 1.0 and pass_hat_k(1000, 999, 1) == 0.999


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=7).flatmap(lambda xs: st.tuples(st.just(xs), st.integers(1, len(xs)))))
def test_best_at_k_is_the_mean_of_the_maximum(case: tuple[list[float], int]):
    scores, k = case
    subsets = list(itertools.combinations(scores, k))
    assert best_at_k(scores, k) == pytest.approx(sum(map(max, subsets)) / len(subsets), abs=1e-12)


def test_avg_at_k_counts_tasks_alike():
    assert avg_at_k([[1, 0, 1, 1], [0, 0, 0, 0]]) == 0.375
    assert avg_at_k([[1.0], [0, 0, 0, 0], []]) == 0.5
    assert math.isnan(avg_at_k([])) and math.isnan(avg_at_k([[]]))


def test_cons_at_k_worked_numbers():
    assert cons_at_k(["A", "A", "B", "B", "C"], "A", 3) == pytest.approx(13 / 30, abs=1e-15)
    assert cons_at_k(["A", "A", "A", "B", "C"], "A", 3) == pytest.approx(0.8, abs=1e-15)
    assert cons_at_k(["B", "C"], "A", 2) == 0.0
    # of three pairs one is silent on neither side: (A, None) twice is right, (None, None) has no vote
    assert cons_at_k(["A", None, None], "A", 2) == pytest.approx(2 / 3, abs=1e-15)
    with pytest.raises(ConfigError, match="None"):
        cons_at_k(["A"], None, 1)


@given(st.lists(st.sampled_from(["A", "B", "C", None]), min_size=1, max_size=7).flatmap(
    lambda xs: st.tuples(st.just(xs), st.integers(1, len(xs)))))  # fmt: skip
def test_cons_at_k_is_the_mean_over_all_subsets(case: tuple[list[str | None], int]):
    answers, k = case
    total = 0.0
    subsets = list(itertools.combinations(answers, k))
    for subset in subsets:
        votes = Counter(a for a in subset if a is not None)
        top = [a for a, n in votes.items() if n == max(votes.values())]
        total += ("A" in top) / max(len(top), 1)
    assert cons_at_k(answers, "A", k) == pytest.approx(total / len(subsets), abs=1e-12)
