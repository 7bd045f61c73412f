"""KL estimators and mismatch metrics against worked numbers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from phronesis.losses import NO_MISMATCH, kl_k1, kl_k2, kl_k3, measure_mismatch


def f64(values):
    return tensor(values, dtype=torch.float64)


def test_kl_per_token():
    theta, ref = f64([-0.2, -3.0, -0.7, -1.0]), f64([-0.6, -1.4, -0.7, -1.5])
    assert kl_k1(theta, ref).tolist() == pytest.approx([0.4, -1.6, 0, 0.5])
    assert kl_k2(theta, ref).tolist() == pytest.approx([0.08, 1.28, 0, 0.125])
    assert kl_k3(theta, ref).tolist() == pytest.approx([0.07032004603563924, 2.353032424395115, 0, 0.106531], abs=1e-6)


def test_kl_expectations_over_samples_of_the_policy():
    p, q = f64([0.6, 0.3, 0.1]), f64([0.2, 0.3, 0.5])
    expectation = [(p * k(p.log(), q.log())).sum().item() for k in (kl_k1, kl_k2, kl_k3)]
    assert expectation == pytest.approx([0.49822358195745564, 0.4915992079427862, 0.49822358195745564])


def test_kl_expected_gradients_as_a_loss():
    p, ref = f64([0.6, 0.3, 0.1]), f64([0.2, 0.3, 0.5])
    logits = p.log().requires_grad_()

    def gradient(k):
        logp = logits.log_softmax(-1)
        return torch.autograd.grad((p * k(logp, ref.log())).sum(), logits)[0].tolist()

    assert gradient(kl_k1) == pytest.approx([0, 0, 0], abs=1e-12)
    assert gradient(kl_k2) == pytest.approx([0.3602332240263923, -0.1494670745872367, -0.21076614943915561])
    assert gradient(kl_k3) == pytest.approx([0.4, 0, -0.4], abs=1e-12)


def test_mismatch_worked_numbers():
    log_rho = f64([0.05, -0.2, 0.4, 0.0])
    found = measure_mismatch(log_rho, torch.zeros(4), bound=0.1)
    assert found.k1 == pytest.approx(-0.0625)
    assert found.k3 == pytest.approx(0.027956636773819068)
    assert found.chi2 == pytest.approx(0.2502579731509387)
    assert found.ess == pytest.approx(3.8043210352413053)
    assert found.ess_share == pytest.approx(0.9510802588103263)
    assert found.max_abs == pytest.approx(0.4)
    assert found.mean_abs == pytest.approx(0.1625)
    assert found.above_share == 0.5


def test_mismatch_of_three_ratios():
    found = measure_mismatch(f64([0.5, 1.0, 2.0]).log(), torch.zeros(3))
    assert (found.ess, found.chi2) == pytest.approx((2.333333333, 0.75))


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=12), st.integers(0, 12))
def test_mismatch_of_parts_is_that_of_the_whole(values, cut):
    whole = measure_mismatch(f64(values), torch.zeros(len(values)))
    parts = measure_mismatch(f64(values[:cut]), torch.zeros(len(values[:cut])))
    parts = parts.merge(measure_mismatch(f64(values[cut:]), torch.zeros(len(values[cut:]))))
    assert tuple(parts) == pytest.approx(tuple(whole))


def test_mismatch_ignores_masked_and_survives_nan():
    nan = float("nan")
    masked = measure_mismatch(f64([0.1, nan]), f64([0.0, 0.0]), tensor([True, False]))
    assert masked.tokens == 1 and masked.max_abs == pytest.approx(0.1)
    assert math.isinf(measure_mismatch(f64([nan]), f64([0.0])).max_abs)
    assert measure_mismatch(f64([]), f64([])) == NO_MISMATCH
    assert NO_MISMATCH.k3 == 0 and NO_MISMATCH.ess_share == 1
