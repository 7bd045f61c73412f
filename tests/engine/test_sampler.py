"""Draws follow the distribution they report; filters keep what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phronesis.engine.draws import uniforms
from phronesis.engine.sampler import FLOOR, Settings, draw

P = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05])


def one(settings: Settings, uniform: float, forced: int | None = None):
    ids, logprobs, entropies = draw(
        P.log()[None] + 3.0, torch.tensor([uniform]), settings, None if forced is None else torch.tensor([forced])
    )
    return int(ids[0]), float(logprobs[0]), float(entropies[0])


def column(x: float) -> torch.Tensor:
    return torch.tensor([[x]])


def entropy(*p: float) -> float:
    return -sum(x * math.log(x) for x in p)


def test_inverse_of_the_cumulative_distribution():
    none = Settings()
    expected = {0.01: 0, 0.49: 0, 0.51: 1, 0.69: 1, 0.71: 2, 0.86: 3, 0.96: 4, 0.9999999: 4}
    assert {u: one(none, u)[0] for u in expected} == expected
    _, logprob, h = one(none, 0.6)
    assert logprob == pytest.approx(math.log(0.2), abs=1e-6)
    assert h == pytest.approx(entropy(*P.tolist()), abs=1e-6)


def test_temperature_scales_before_the_softmax():
    # squares of the probabilities: 0.25 0.04 0.0225 0.01 0.0025, sum 0.325
    token, logprob, _ = one(Settings(temperature_R1=column(0.5)), 0.8)
    assert (token, logprob) == (1, pytest.approx(math.log(0.04 / 0.325), abs=1e-5))


def test_filters_by_hand():
    # top-k 2: 5/7, 2/7
    assert one(Settings(top_k_R1=torch.tensor([[2]])), 0.8)[:2] == (1, pytest.approx(math.log(2 / 7), abs=1e-5))
    # top-p 0.6 needs two ids; 0.5 needs one only
    assert one(Settings(top_p_R1=column(0.6)), 0.99)[0] == 1
    token, logprob, h = one(Settings(top_p_R1=column(0.5)), 0.99)
    assert (token, logprob, h) == (0, pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    # min-p 0.3: at least 0.15 of 0.5
    _, logprob, h = one(Settings(min_p_R1=column(0.299)), 0.99)
    assert logprob == pytest.approx(math.log(0.15 / 0.85), abs=1e-5)
    assert h == pytest.approx(entropy(0.5 / 0.85, 0.2 / 0.85, 0.15 / 0.85), abs=1e-5)
    # top-k 4 leaves 0.95; then top-p 0.89 of that keeps 0.5 + 0.2 + 0.15 = 0.85 of 0.95 = 0.8947
    assert one(Settings(top_k_R1=torch.tensor([[4]]), top_p_R1=column(0.89)), 0.999)[0] == 2
    assert one(Settings(top_k_R1=torch.tensor([[4]]), top_p_R1=column(0.9)), 0.999)[0] == 3


def test_greedy_takes_the_lowest_of_equals_and_reports_temperature_one():
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    ids, logprobs, _ = draw(logits, torch.tensor([0.99]), Settings(greedy_R=torch.tensor([True])))
    assert int(ids[0]) == 1
    assert float(logprobs[0]) == pytest.approx(float(logits.log_softmax(-1)[0, 1]), abs=1e-6)


def test_forced_ids_report_their_probability_or_the_floor():
    assert one(Settings(), 0.01, forced=4)[:2] == (4, pytest.approx(math.log(0.05), abs=1e-5))
    assert one(Settings(top_k_R1=torch.tensor([[1]])), 0.01, forced=4)[:2] == (4, FLOOR)
    assert one(Settings(), 0.01, forced=-1)[0] == 0


@given(seed=st.integers(0, 2**32), top_k=st.sampled_from([0, 3, 17]), top_p=st.sampled_from([1.0, 0.7, 0.2]))
def test_a_drawn_id_always_survives_the_filters(seed, top_k, top_p):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(8, 40, generator=g) * 20
    settings = Settings(
        top_k_R1=torch.full((8, 1), top_k) if top_k else None, top_p_R1=torch.full((8, 1), top_p) if top_p < 1 else None
    )
    u = torch.tensor([2.0**-24, 1 - 2.0**-24] * 4)
    ids, logprobs, entropies = draw(logits, u, settings)
    assert (logprobs > FLOOR / 2).all() and (logprobs <= 1e-6).all() and (entropies >= -1e-6).all()
    rank = (logits > logits.gather(1, ids[:, None])).sum(1)
    assert not top_k or (rank < top_k).all()


def test_many_draws_follow_the_distribution():
    n = 40000
    u = torch.as_tensor(uniforms(123, n))
    ids, _, _ = draw(P.log().expand(n, -1), u, Settings())
    shares = torch.bincount(ids, minlength=5) / n
    assert (shares - P).abs().max() < 4 * math.sqrt(0.25 / n)


def test_uniform_numbers_are_counter_based_and_look_uniform():
    u = uniforms(5, 100_000)
    assert np.array_equal(u[:7], uniforms(5, 7))
    assert u.min() > 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 100_000)
    assert np.histogram(u, 16, (0, 1))[0].max() < 100_000 / 16 + 5 * math.sqrt(100_000 / 16)
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.02
    first = np.array([uniforms(s, 1)[0] for s in range(3000)])  # neighbouring seeds are independent
    assert abs(first.mean() - 0.5) < 0.03 and abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.08
    assert not np.array_equal(uniforms(-1, 3), uniforms(1, 3))
