"""Numbers as text and as positions: worked values, and properties over random ranges."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.view.html import Html, render, table, tag
from phronesis.view.quantity import count, number, percent, seconds, signed, tick
from phronesis.view.scale import Axis, fit, smooth, spread, thin, ticks, window


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (0.12345, "0.123"),
        (-2.5, "−2.5"),
        (12.0, "12"),
        (1234567.0, "1 234 567"),
        (999.96, "1 000"),
        (0.00005, "5·10⁻⁵"),
        (-0.000123, "−1.23·10⁻⁴"),
        (3e12, "3·10¹²"),
    ],
)
def test_number(value: float | None, text: str):
    assert number(value) == text


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_number_never_shows_programming_notation(value: float):
    assert not any(c in number(value) for c in "en-")


def test_other_quantities():
    assert (percent(0.5), percent(None), percent(1.0, 0)) == ("50.0 %", "–", "100 %")
    assert (signed(0.25), signed(-0.25), signed(0)) == ("+0.25", "−0.25", "0")
    assert [seconds(s) for s in (0.0004, 0.9999, 59.94, 59.96)] == ["0 ms", "1.0 s", "59.9 s", "1 min 00 s"]
    assert [seconds(s) for s in (119.6, 7260)] == ["2 min 00 s", "2 h 01 min"]
    assert (count(1, "turn"), count(0, "turn"), count(2000, "turn")) == ("1 turn", "0 turns", "2 000 turns")
    assert [tick(v, 0.05) for v in (0.0, 0.05, -0.5)] == ["0.00", "0.05", "−0.50"]
    assert (tick(0.0005, 0.0005), tick(20.0, 20.0), tick(3e-6, 1e-6)) == ("0.0005", "20", "3·10⁻⁶")


def test_ticks_by_hand():
    assert ticks(0, 1) == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert ticks(3, 61, 4) == (20.0, 40.0, 60.0)
    assert ticks(-0.02, 0.03, 5) == (-0.02, -0.01, 0.0, 0.01, 0.02, 0.03)
    assert ticks(2, 2) == (2,)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9))
def test_ticks_lie_inside_and_are_few(low: float, length: float, most: int):
    found = ticks(low, low + length, most)
    slack = 1e-6 * length + 1e-9 * abs(low)
    assert len(found) <= most + 1
    assert all(low - slack <= t <= low + length + slack for t in found)


def test_fit_keeps_natural_ends():
    assert fit([0.1, 0.9], floor=0, ceiling=1) == Axis(0, 1)
    assert fit([50.0, 51.0], floor=0).low == pytest.approx(49.94)
    assert fit([]) == Axis(0.0, 1.0)
    assert fit([math.nan, 2.0, 2.0]).low < 2.0 < fit([2.0]).high


def test_log_axis_by_hand():
    axis = fit([2e-6, 5e-4], log=True)
    assert (axis.low, axis.high) == (pytest.approx(1e-6), pytest.approx(1e-3))
    assert axis.at(1e-6) == 0.0 and axis.at(math.sqrt(1e-9)) == pytest.approx(0.5)
    assert axis.ticks(4) == pytest.approx((1e-6, 1e-5, 1e-4, 1e-3))
    assert axis.at(0.0) == 0.0  # zero has no logarithm; it lies on the floor
    assert fit([0.0, -1.0], log=True).log is False


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=30), st.booleans())
def test_every_value_lies_on_its_axis(values: list[float], log: bool):
    axis = fit(values, log=log)
    assert axis.high > axis.low
    assert all(-0.03 <= axis.at(v) <= 1.03 for v in values if math.isfinite(v))


def test_smoothing_by_hand():
    points = [(float(i), float(i % 2)) for i in range(20)]  # window 1: mean of three
    found = smooth(points)
    assert window(20) == 1
    assert found[0] == (0.0, 0.5) and found[1] == (1.0, pytest.approx(1 / 3)) and found[2] == (2.0, pytest.approx(2 / 3))


@given(st.floats(-100, 100), st.integers(1, 60))
def test_smoothing_leaves_a_constant_alone_and_skips_gaps(level: float, n: int):
    points = [(float(i), math.nan if i % 7 == 3 else level) for i in range(n)]
    assert all(y == pytest.approx(level) for _, y in smooth(points))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(4, 60))
def test_thinning_keeps_order_ends_and_extremes(values: list[float], most: int):
    points = [(float(i), v) for i, v in enumerate(values)]
    found = thin(points, most)
    assert len(found) <= max(most, 4) and set(found) <= set(points)
    assert list(found) == sorted(found) and (found[0], found[-1]) == (points[0], points[-1])
    assert {min(values), max(values)} <= {y for _, y in found}


@given(st.integers(1, 2000), st.integers(2, 50))
def test_spread_is_even(n: int, most: int):
    found = spread(n, most)
    gaps = [b - a for a, b in pairwise(found)]
    assert len(found) == min(n, most) and (found[0], found[-1]) == (0, n - 1)
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_text_is_escaped_and_markup_is_not():
    assert tag("p", "<b>&\"'", class_='x"y') == '<p class="x&quot;y">&lt;b&gt;&amp;&quot;&#x27;</p>'
    assert tag("p", tag("b", "x"), None, hidden=True, open=False) == "<p hidden><b>x</b></p>"
    assert render(Html("<i>")) == "<i>" and render("<i>") == "&lt;i&gt;"
    assert "<td>&lt;x&gt;</td>" in table(["a", "b"], [["r", "<x>"]])
