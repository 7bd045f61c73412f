"""Worked numbers of calibration measures, their bin rules, and the pairwise definition of the AUROC."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.errors import ConfigError
from phronesis.evals.calibration import auroc, brier, ece

CONFIDENCE, CORRECT = [0.95, 0.85, 0.65, 0.55, 0.1, 0.92], [1, 0, 1, 0, 0, 1]
EDGES, HITS = [1.0, 0.5, 0.5, 0.02, 0.74, 0.76], [1, 0, 1, 0, 1, 1]

JUDGED = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.29, 0.5, 0.7, 1.0]), st.booleans()), min_size=1, max_size=12)


def test_worked_numbers():
    assert ece(CONFIDENCE, CORRECT) == pytest.approx(0.33, abs=1e-12)
    assert brier(CONFIDENCE, CORRECT) == pytest.approx(0.1944, abs=1e-12)
    assert auroc(CONFIDENCE, CORRECT) == pytest.approx(0.888889, abs=1e-6)


def test_edges_open_the_bin_above_and_one_belongs_to_the_last():
    # bins: .02 alone, the two .5 together, .74 and .76 together in [.7, .8), 1 in the last
    assert ece(EDGES, HITS) == pytest.approx((0.02 + 0.0 + 0.5 + 0.0) / 6, abs=1e-12)
    assert ece([0.29], [0], bins=100) == pytest.approx(0.29)
    # .28 and .29 are apart, so an error up and one down do not cancel
    assert ece([0.28, 0.29], [1, 0], bins=100) == pytest.approx((0.72 + 0.29) / 2)
    assert brier(EDGES, HITS) == pytest.approx(0.10426667, abs=1e-8)
    assert auroc(EDGES, HITS) == 0.9375


def test_bins_of_equal_mass():
    # sorted (.1, .2 | .8, .9): gaps 1 + 0 - .3 and 1 + 1 - 1.7
    assert ece([0.9, 0.1, 0.2, 0.8], [1, 1, 0, 1], bins=2, rule="mass") == pytest.approx((0.7 + 0.3) / 4)
    assert ece([0.9, 0.1], [1, 1], bins=7, rule="mass") == pytest.approx((0.9 + 0.1) / 2)


def test_nothing_to_judge():
    assert math.isnan(ece([], [])) and math.isnan(brier([], []))
    assert math.isnan(auroc([0.5, 0.6], [1, 1])) and math.isnan(auroc([], []))


@given(JUDGED)
def test_auroc_is_the_share_of_ordered_pairs(judged: list[tuple[float, bool]]):
    right, wrong = [c for c, y in judged if y], [c for c, y in judged if not y]
    found = auroc([c for c, _ in judged], [y for _, y in judged])
    if not right or not wrong:
        assert math.isnan(found)
    else:
        pairs = [(a > b) + (a == b) / 2 for a in right for b in wrong]
        assert found == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@given(JUDGED)
def test_calibration_error_is_bounded_by_one_bin_and_by_one_each(judged: list[tuple[float, bool]]):
    confidence, correct = [c for c, _ in judged], [float(y) for _, y in judged]
    one = abs(sum(correct) - sum(confidence)) / len(judged)
    each = sum(abs(y - c) for c, y in judged) / len(judged)
    assert ece(confidence, correct, bins=1) == pytest.approx(one, abs=1e-12)
    assert one - 1e-12 <= ece(confidence, correct) <= each + 1e-12


@pytest.mark.parametrize("measure", [ece, brier])
def test_impossible_numbers_are_named(measure):
    with pytest.raises(ConfigError, match=r"confidence 1\.5"):
        measure([1.5], [1])
    with pytest.raises(ConfigError, match="correctness nan"):
        measure([0.5], [math.nan])
    with pytest.raises(ConfigError, match="2 confidences for 1"):
        measure([0.5, 0.5], [1])
    with pytest.raises(ConfigError, match="at least 1 bin"):
        ece([0.5], [1], bins=0)
    with pytest.raises(ConfigError, match="1 confidences for 2"):
        auroc([0.5], [1, 0])
