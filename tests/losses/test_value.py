"""Value losses: worked numbers, gradients, and how micro-batches add up."""

from __future__ import annotations

from math import nan

import pytest
import torch

from phronesis.losses.value import explained_variance, value_clip, value_loss


def doubles(*values: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def test_worked_numbers():
    terms = value_clip(doubles(0.5, 1.4, -0.3, 2.0), doubles(0.6, 1.0, -0.3, 1.9), doubles(1, 1, 0, 0))
    assert terms.loss_N.tolist() == pytest.approx([0.125, 0.08, 0.045, 2.0])
    assert float(value_loss(terms)) == pytest.approx(0.5625)
    assert value_clip(doubles(1.5), doubles(1.0), doubles(2.0)).loss_N.tolist() == pytest.approx([0.32])
    assert value_clip(doubles(1.5), doubles(1.0), doubles(2.0), clip=None).loss_N.tolist() == [0.125]


def test_a_clipped_token_moves_nothing_and_the_others_as_plain():
    values = doubles(1.5, 1.1, 0.5, grad=True)
    terms = value_clip(values, doubles(1.0, 1.0, 1.0), doubles(2.0, 2.0, 2.0))
    value_loss(terms).backward()
    assert terms.clipped_N.tolist() == [True, False, False]
    assert values.grad.tolist() == pytest.approx([0.0, -0.9 / 3, -1.5 / 3])


def test_gradient_equals_finite_differences():
    old, returns = doubles(1.0, 0.2, -1.0, 0.0), doubles(2.0, -0.5, 0.3, 0.05)
    start = doubles(0.9, 0.35, -0.7, 0.1)
    assert torch.autograd.gradcheck(lambda v: value_loss(value_clip(v, old, returns)), start.requires_grad_(True))


def test_masked_positions_are_never_read():
    values = doubles(0.5, nan, 2.0, grad=True)
    mask = torch.tensor([True, False, True])
    terms = value_clip(values, doubles(0.6, nan, 1.9), doubles(1.0, float("inf"), 0.0), mask_N=mask)
    loss = value_loss(terms, mask_N=mask)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((0.125 + 2.0) / 2) and values.grad.tolist() == pytest.approx([-0.25, 0.0, 1.0])
    nothing = torch.zeros(3, dtype=torch.bool)
    assert float(value_loss(value_clip(values, values, values, mask_N=nothing), mask_N=nothing).detach()) == 0.0


def test_parts_add_up():
    values, old, returns = doubles(0.5, 1.4, -0.3, 2.0), doubles(0.6, 1.0, -0.3, 1.9), doubles(1, 1, 0, 0)
    parts = [value_loss(value_clip(values[s], old[s], returns[s]), tokens=4) for s in (slice(0, 1), slice(1, 4))]
    assert float(sum(parts)) == pytest.approx(float(value_loss(value_clip(values, old, returns))))


def test_explained_variance():
    assert explained_variance(doubles(0, 1), doubles(0, 2)) == pytest.approx(0.75)
    assert explained_variance(doubles(0, 2), doubles(0, 2)) == 1.0
    assert explained_variance(doubles(3, 3), doubles(0, 2)) == 0.0
    assert explained_variance(doubles(2, 0), doubles(0, 2)) == pytest.approx(-3.0)
    assert explained_variance(doubles(1, 2), doubles(1, 1)) is None and explained_variance(doubles(1), doubles(1)) is None
