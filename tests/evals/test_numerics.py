"""False ratios: storage in bfloat16, a forgotten temperature, a forgotten truncation; and how sparse an update is."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phronesis.errors import ConfigError
from phronesis.evals.numerics import round_bf16, storage_ratio, temperature_ratio, truncation
from phronesis.evals.sparsity import overlap, relative_rank, sparsity, unchanged


def wide(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_bf16_rounds_once_and_ties_to_even():
    values = wide(1.00390625, 1.01171875, -7.77, -20.3, 0.3, 3.1415927, 0.0, -12.34)
    assert round_bf16(values).tolist() == [1.0, 1.015625, -7.78125, -20.25, 0.30078125, 3.140625, 0.0, -12.3125]
    assert storage_ratio(wide(-12.34)).item() == pytest.approx(0.972875, abs=1e-6)
    # just above a tie in float64, a tie in float32: rounding twice would give 1
    above = 1.00390625 + 2.0**-40
    assert round_bf16(wide(above)).item() == 1.0078125 and wide(above).float().bfloat16().item() == 1.0


@given(st.floats(width=32, allow_nan=False))
def test_bf16_of_a_float32_is_that_of_the_machine(x: float):
    assert round_bf16(torch.tensor([x])).item() == torch.tensor([x]).bfloat16().double().item()


def test_bf16_of_no_number():
    found = round_bf16(wide(math.nan, math.inf, -math.inf)).tolist()
    assert math.isnan(found[0]) and found[1:] == [math.inf, -math.inf]


def test_a_forgotten_temperature():
    found = temperature_ratio(wide(2, 1, 0), 0, 0.7)
    assert found == pytest.approx((-0.407606, -0.260118, 0.862873), abs=1e-6)
    assert temperature_ratio(wide(2, 1, 0), 2, 1.0).ratio == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(ConfigError, match="temperature above 0"):
        temperature_ratio(wide(2, 1), 0, 0.0)


def test_a_forgotten_truncation():
    found = truncation(wide(0.6, 0.25, 0.1, 0.05), 0.9)
    assert found.kept == [0, 1, 2] and found.token_ratio == pytest.approx(0.95)
    assert found.sequence_ratio(100) == pytest.approx(0.005921, abs=1e-6)
    found = truncation(wide(0.05, 0.5, 0.3, 0.15), 0.9)
    assert found.kept == [1, 2, 3] and found.probabilities == pytest.approx([0.526316, 0.315789, 0.157895], abs=1e-6)
    # the first two have just the mass asked for, whichever way it is rounded
    for p, mass in (((0.5, 0.3, 0.2), 0.8), ((0.7, 0.1, 0.2), 0.9), ((0.6, 0.3, 0.1), 0.9)):
        assert len(truncation(wide(*p), mass).kept) == 2
    assert truncation(wide(0.7, 0.3, 0.0), 1.0).kept == [0, 1]
    assert truncation(wide(0.7, 0.3), 1.0) == ([0, 1], pytest.approx([0.7, 0.3]), pytest.approx(1.0))
    assert truncation(wide(0.7, 0.3, 0.0), 0.1).kept == [0]
    with pytest.raises(ConfigError, match="top_p 0"):
        truncation(wide(1.0), 0)


def test_sparsity_of_an_update():
    before, after = {"a": wide(1, 2, 3, 4)}, {"a": wide(1, 2.000005, 3.1, 4)}
    assert sparsity(before, after, storage="full") == (0.75, {"a": 0.75})
    # a change of 2e-5 is one, unless bfloat16 swallows it
    half = {"a": wide(0.5, 0.5)}, {"a": wide(0.50002, 0.6)}
    assert sparsity(*half, storage="full").unchanged == 0.0 and sparsity(*half).unchanged == 0.5
    both = sparsity(before | {"b": wide(1.0)}, after | {"b": wide(2.0)})
    assert both.unchanged == 0.6 and both.by_name == {"a": 0.75, "b": 0.0}
    assert math.isnan(sparsity({}, {}).unchanged)
    with pytest.raises(ConfigError, match="'b'"):
        sparsity(before, after | {"b": wide(1.0)})
    with pytest.raises(ConfigError, match="shapes"):
        unchanged(wide(1, 2), wide(1))


def test_rank_and_overlap_of_updates():
    change = torch.outer(wide(1, 2, 3), wide(1, -1, 0, 2))
    assert relative_rank(torch.zeros(3, 4), change) == pytest.approx(1 / 3)
    a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, True])
    assert overlap(a, b) == 0.5 and overlap(b, a) == pytest.approx(1 / 3) and math.isnan(overlap(~(a | True), b))
