"""Losses of pairs: worked numbers, what they do not depend on, and gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phronesis.errors import ConfigError
from phronesis.losses import DPOLoss, IPOPreferenceLoss, Pairs, StepAPOLoss, answer_log_ratio, rlag_loss, sequence_log_ratio
from phronesis.losses.preference.dpo import dpo_loss
from phronesis.losses.preference.ipo import ipo_loss
from phronesis.losses.preference.step_apo import step_apo_loss, step_apo_margin

NUMBERS = st.floats(-20, 20)


def wide(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pair(chosen: float, rejected: float, better: float = 0.0, worse: float = 0.0) -> Pairs:
    return Pairs(wide(chosen), wide(rejected), wide(better), wide(worse))


def test_worked_numbers():
    assert dpo_loss(wide(2), wide(-1), beta=0.1).item() == pytest.approx(0.554355, abs=1e-6)
    assert ipo_loss(wide(2), wide(-1), beta=0.1).item() == pytest.approx(4.0)
    assert step_apo_margin(wide(0.5), wide(-0.3), wide(0.8), wide(0.2), beta=0.1).item() == pytest.approx(-0.52)
    assert step_apo_loss(wide(0.5), wide(-0.3), wide(0.8), wide(0.2), beta=0.1).item() == pytest.approx(0.986573, abs=1e-6)
    assert step_apo_loss(wide(0.5), wide(-0.3), wide(0), wide(0), beta=0.1).item() == pytest.approx(0.653947, abs=1e-6)


def test_ragged_answers_are_compared_by_their_sums():
    chosen, chosen_ref = wide(-1.0, -0.5), wide(-1.2, -0.9)
    rejected, rejected_ref = wide(-2.0, -0.3, -0.7), wide(-1.5, -0.3, -0.9)
    theta, ref = torch.cat((chosen, rejected)), torch.cat((chosen_ref, rejected_ref))
    sums = sequence_log_ratio(theta, ref, torch.tensor([0, 0, 1, 1, 1]), 3)
    assert sums.tolist() == pytest.approx([0.6, -0.3, 0.0])
    assert dpo_loss(sums[:1], sums[1:2], beta=0.1).item() == pytest.approx(0.649159, abs=1e-6)
    assert ipo_loss(sums[:1], sums[1:2], beta=0.1).item() == pytest.approx(16.81)
    padded = answer_log_ratio(wide(-1, -0.5, math.nan), wide(-1.2, -0.9, math.inf), torch.tensor([True, True, False]))
    assert padded.item() == pytest.approx(0.6)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_what_both_sides_share_does_not_matter(chosen: float, rejected: float, shared: float):
    for loss in (DPOLoss(), IPOPreferenceLoss(), StepAPOLoss()):
        plain, moved = (loss.losses(pair(chosen + s, rejected + s, 0.3, 0.1)) for s in (0.0, shared))
        torch.testing.assert_close(plain, moved, rtol=1e-6, atol=1e-6)


@given(NUMBERS, NUMBERS)
def test_without_values_step_apo_is_dpo(chosen: float, rejected: float):
    torch.testing.assert_close(
        StepAPOLoss(beta=0.3).losses(pair(chosen, rejected)), DPOLoss(beta=0.3).losses(pair(chosen, rejected))
    )


def test_at_the_reference_dpo_pulls_by_half_of_beta():
    chosen, rejected = wide(0.0).requires_grad_(), wide(0.0).requires_grad_()
    loss = dpo_loss(chosen, rejected, beta=0.4)
    loss.sum().backward()
    assert chosen.grad is not None and rejected.grad is not None and loss.item() == pytest.approx(math.log(2))
    assert (chosen.grad.item(), rejected.grad.item()) == pytest.approx((-0.2, 0.2))
    # far past the margin DPO's pull vanishes and IPO's turns round
    for where, pulls in ((100.0, (0.0, 190.0)), (5.0, (-0.4 / (1 + math.exp(2)), 0.0))):
        for name, pull in zip(("dpo", "ipo"), pulls, strict=True):
            moved = wide(where).requires_grad_()
            (dpo_loss(moved, wide(0), beta=0.4) if name == "dpo" else ipo_loss(moved, wide(0), beta=0.1)).sum().backward()
            assert moved.grad is not None and moved.grad.item() == pytest.approx(pull, abs=1e-6)


@pytest.mark.parametrize("loss", [DPOLoss(beta=0.3), IPOPreferenceLoss(beta=0.3), StepAPOLoss(beta=0.3)])
def test_gradients_are_the_finite_differences(loss):
    ref, sequence = wide(-1.5, -0.2, -0.9, -2.0, -0.4), torch.tensor([0, 0, 1, 1, 1])

    def value(theta: torch.Tensor) -> torch.Tensor:
        sums = sequence_log_ratio(theta, ref, sequence, 2)
        return loss.losses(Pairs(sums[:1], sums[1:], wide(0.7), wide(0.1))).sum()

    assert torch.autograd.gradcheck(value, (wide(-1, -0.5, -0.8, -1.1, -2.5).requires_grad_(),))


def test_rlag():
    argument, loss = -6.95, 6.950958
    found = rlag_loss(wide(-1), wide(-0.5), wide(-3))
    assert (found.argument_B.item(), found.loss_B.item()) == pytest.approx((argument, loss), abs=1e-6)
    found = rlag_loss(wide(-0.8), wide(-0.3), wide(-2.5), gamma=1.0)
    assert (found.argument_B.item(), found.loss_B.item()) == pytest.approx((-0.06, 0.723597), abs=1e-6)


def test_rlag_stops_pushing_what_is_good_enough():
    streams = [wide(-0.1, -1.0).requires_grad_(), wide(-0.05, -1.0).requires_grad_(), wide(-9.0, -1.0).requires_grad_()]
    rlag_loss(*streams).loss_B.sum().backward()
    for stream, sign in zip(streams, (-1, -1, 1), strict=True):
        assert stream.grad is not None and stream.grad[0] == 0.0 and stream.grad[1] * sign > 0
    free = rlag_loss(wide(-0.1), wide(-0.05), wide(-9.0), chosen_max=math.inf, rejected_min=-math.inf)
    assert free.argument_B.item() == pytest.approx(-0.02 - 0.025 + 4.5 - 8)


@pytest.mark.parametrize("kind", [DPOLoss, IPOPreferenceLoss, StepAPOLoss])
def test_beta_must_be_positive(kind):
    with pytest.raises(ConfigError, match=r"beta 0\.0 must be above 0"):
        kind(beta=0.0)
