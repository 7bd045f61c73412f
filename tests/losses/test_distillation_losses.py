"""Distillation: worked numbers, the coefficients of gradients, divergences between whole distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phronesis.errors import ConfigError
from phronesis.losses import DFTLoss, IcePop, LossConfig, LossInputs, SequenceMeanTokenMean, evaluate, totals_of
from phronesis.losses.distillation.dft import dft_loss
from phronesis.losses.distillation.distributions import jensen_shannon, kl_divergence, sdpo, top_and_tail
from phronesis.losses.distillation.sampled import CrossStageLoss, OPDMaskedLoss, SDARLoss, opd_masked, sdar, teacher_advantage

WEIGHTS = st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4)


def wide(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def share(weights: list[float]) -> torch.Tensor:
    return (wide(*weights) / sum(weights)).log()


def taught(theta, infer, teacher, *, old=None, mask=None) -> LossInputs:
    """One sequence, whose credit is that of on-policy distillation."""
    n = len(theta)
    sequence = torch.zeros(n, dtype=torch.int64)
    marks = None if mask is None else torch.tensor(mask)
    return LossInputs(
        logp_theta_N=wide(*theta),
        logp_old_N=wide(*(infer if old is None else old)),
        logp_infer_N=wide(*infer),
        advantages_N=wide(*teacher) - wide(*infer),
        sequence_N=sequence,
        turn_N=sequence,
        totals=totals_of(sequence, 1, marks),
        mask_N=marks,
    )


def slope(loss: torch.Tensor, leaf: torch.Tensor) -> list[float]:
    return torch.autograd.grad(loss, leaf)[0].tolist()


def test_dft_weighs_a_token_by_its_probability():
    assert dft_loss(wide(0.3).log()).item() == pytest.approx(0.361192, abs=1e-6)
    leaf = wide(-0.5, -1.5, -2.0).requires_grad_()
    assert slope(dft_loss(leaf).sum(), leaf) == pytest.approx([-math.exp(p) for p in leaf.tolist()])
    case = taught([-0.5, math.nan, -2.0], [0, 0, 0], [0, 0, 0], mask=[True, False, True])
    assert evaluate(LossConfig(objective=DFTLoss()), case).loss.item() == pytest.approx((0.303265 + 0.270671) / 2, abs=1e-6)


def test_the_advantage_is_the_gap_and_has_no_gradient():
    leaf = wide(-0.5, -2.0).requires_grad_()
    found = teacher_advantage(leaf, wide(-1.0, -0.5))
    assert found.tolist() == [-0.5, 1.5] and not found.requires_grad


def test_masked_distillation():
    streams = wide(-0.7, -2.0, -1.0), wide(-0.5, -0.5, -1.4), wide(-0.3, -0.3, -2.0)
    found = opd_masked(*streams)
    assert found.keep_N.tolist() == [True, False, True]
    assert found.loss_N.tolist() == pytest.approx([-0.327452, 0.00225, 1.491985], abs=1e-6)
    # c = keep * A * r from the first term, 2 kappa log r from the second, on all tokens
    leaf = streams[0].clone().requires_grad_()
    slopes = slope(opd_masked(leaf, *streams[1:]).loss_N.sum(), leaf)
    ratios = [math.exp(-0.2), 0.0, math.exp(0.4)]
    gaps = [0.4, 0.0, -1.0]
    moved = [-0.2, -1.5, 0.4]
    expected = [-a * r + 2e-3 * m for a, r, m in zip(gaps, ratios, moved, strict=True)]
    assert slopes == pytest.approx(expected, abs=1e-9)
    whole = evaluate(LossConfig(objective=OPDMaskedLoss()), taught(*(s.tolist() for s in streams)))
    assert whole.loss.item() == pytest.approx(found.loss_N.mean().item()) and whole.sums["clip_low"].item() == pytest.approx(
        1 / 3
    )


def test_gated_distillation():
    found = sdar(wide(-0.2, 0.1, -0.6), wide(0, 0, 0))
    assert found.gate_N.tolist() == pytest.approx([0.731059, 0.377541, 0.952574], abs=1e-6)
    assert found.loss_N.tolist() == pytest.approx([0.014621, -0.003775, 0.057154], abs=1e-6)
    leaf = wide(-0.2, 0.1).requires_grad_()
    assert slope(sdar(leaf, wide(0, 0)).loss_N.sum(), leaf) == pytest.approx([-0.0731059, -0.0377541], abs=1e-6)
    whole = evaluate(LossConfig(objective=SDARLoss()), taught([-0.2, 0.1, -0.6], [-1, -2, -3], [0, 0, 0]))
    assert whole.loss.item() == pytest.approx(found.loss_N.mean().item())


def test_cross_stage_distillation():
    case = taught([-0.8, -0.3, -1.0], [-0.9, -1.2, -0.8], [-0.2, -0.9, -1.4], old=[-0.9, -0.3, -1.0])
    config = LossConfig(objective=CrossStageLoss(), corrections=(IcePop(beta=2.0),), aggregation=SequenceMeanTokenMean())
    assert evaluate(config, case).loss.item() == pytest.approx(-0.111870, abs=1e-6)
    # at ratio 1 and without mismatch the gradient is that of REINFORCE with the gap as advantage
    plain = taught([-0.8, -0.3], [-0.8, -0.3], [-0.2, -0.9])
    leaf = plain.logp_theta_N.requires_grad_()
    found = slope(evaluate(config, plain._replace(logp_theta_N=leaf)).loss, leaf)
    assert found == pytest.approx([-0.3, 0.3])


@pytest.mark.parametrize("wrong", [lambda: OPDMaskedLoss(delta=0), lambda: SDARLoss(coef=0), lambda: CrossStageLoss(eps_low=1)])
def test_impossible_settings(wrong):
    with pytest.raises(ConfigError, match="needs"):
        wrong()


S, T = wide(0.7, 0.3).log(), wide(0.4, 0.6).log()


def test_divergences_worked_numbers():
    assert kl_divergence(S, T).item() == pytest.approx(0.183787, abs=1e-6)
    assert jensen_shannon(S, T).item() == pytest.approx(0.046201, abs=1e-6)
    assert jensen_shannon(S, T, beta=0.0).item() == pytest.approx(0.192042, abs=1e-6)
    assert jensen_shannon(S, T, beta=1.0).item() == pytest.approx(0.183787, abs=1e-6)
    student, teacher = wide(0.6, 0.3, 0.1).log(), wide(0.2, 0.5, 0.3).log()
    assert jensen_shannon(student, teacher).item() == pytest.approx(0.091121, abs=1e-6)
    assert sdpo(student, teacher, alpha=0.0).item() == pytest.approx(0.365274, abs=1e-6)
    with pytest.raises(ValueError, match="beta"):
        jensen_shannon(S, T, beta=1.5)


@given(WEIGHTS, WEIGHTS, st.floats(0.05, 0.95))
def test_the_entropy_form_and_its_bounds(student: list[float], teacher: list[float], beta: float):
    s, t = share(student), share(teacher)
    mixture = beta * t.exp() + (1 - beta) * s.exp()

    def entropy(p: torch.Tensor) -> float:
        return float(-(p * p.log()).sum())

    found = jensen_shannon(s, t, beta=beta).item()
    assert found == pytest.approx(entropy(mixture) - beta * entropy(t.exp()) - (1 - beta) * entropy(s.exp()), abs=1e-9)
    assert -1e-12 <= found <= entropy(wide(beta, 1 - beta)) + 1e-12
    assert jensen_shannon(s, s, beta=beta).item() == pytest.approx(0.0, abs=1e-12)


@given(WEIGHTS, WEIGHTS)
def test_the_ends_are_what_the_scaled_divergence_approaches(student: list[float], teacher: list[float]):
    s, t = share(student), share(teacher)
    for end, beta in ((0.0, 1e-6), (1.0, 1 - 1e-6)):
        scaled = jensen_shannon(s, t, beta=beta).item() / 1e-6
        assert scaled == pytest.approx(jensen_shannon(s, t, beta=end).item(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gradients_reach_the_student_alone(beta):
    student, teacher = wide(0.3, -0.2, 1.0).requires_grad_(), wide(0.1, 0.5, -0.4).requires_grad_()
    jensen_shannon(student.log_softmax(-1), teacher.log_softmax(-1), beta=beta).backward()
    assert teacher.grad is None
    goal = wide(0.1, 0.5, -0.4).log_softmax(-1)
    assert torch.autograd.gradcheck(lambda z: jensen_shannon(z.log_softmax(-1), goal, beta=beta), (student,))


def test_forbidden_tokens_give_no_nan():
    student = wide(0.5, -math.inf, 0.1).requires_grad_()
    teacher = wide(0.2, -math.inf, 0.9).log_softmax(-1)
    for beta in (0.0, 0.5, 1.0):
        (grad,) = torch.autograd.grad(jensen_shannon(student.log_softmax(-1), teacher, beta=beta), student)
        assert grad.isfinite().all() and grad[1] == 0.0
    assert kl_divergence(wide(0.5, 0.5).log(), wide(1.0, 0.0).log()).item() == math.inf
    assert kl_divergence(wide(1.0, 0.0).log(), wide(0.5, 0.5).log()).item() == pytest.approx(math.log(2))


def test_top_and_tail():
    coarse = top_and_tail(wide(0.5, 0.3, 0.15, 0.05).log()[None], torch.tensor([[0, 2]]))
    assert coarse.exp().tolist()[0] == pytest.approx([0.5, 0.15, 0.35])
    whole = top_and_tail(S[None], torch.tensor([[1, 0]]))
    assert whole.exp().tolist()[0] == pytest.approx([0.3, 0.7, 0.0])


@given(WEIGHTS, WEIGHTS)
def test_a_coarser_distribution_diverges_less(student: list[float], teacher: list[float]):
    ids = torch.tensor([[1, 3]])
    s, t = share(student)[None], share(teacher)[None]
    assert sdpo(top_and_tail(s, ids), top_and_tail(t, ids)).item() <= sdpo(s, t).item() + 1e-12
