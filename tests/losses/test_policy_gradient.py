"""Objectives: the coefficient of each token, worked numbers, finite differences."""

import pytest
import torch
from torch import tensor

from phronesis.errors import ConfigError
from phronesis.losses import LossConfig, LossInputs, PPOClipLoss, ReinforceLoss, SupervisedLoss, ppo_clip, reinforce, totals_of

RATIOS = [0.4, 0.75, 0.9, 1.0, 1.2, 1.5, 4.0, 8.0]


def inputs(theta, old, advantages, sequence=None, mask=None, entropy=None):
    theta = theta if isinstance(theta, torch.Tensor) else tensor(theta, dtype=torch.float64)
    n = theta.shape[0]
    sequence = torch.zeros(n, dtype=torch.int64) if sequence is None else tensor(sequence)
    mask = None if mask is None else tensor(mask)
    old = tensor(old, dtype=torch.float64)
    return LossInputs(
        logp_theta_N=theta,
        logp_old_N=old,
        logp_infer_N=old,
        advantages_N=tensor(advantages, dtype=torch.float64),
        sequence_N=sequence,
        turn_N=torch.zeros(n, dtype=torch.int64),
        totals=totals_of(sequence, int(sequence.max()) + 1, mask),
        entropy_N=entropy,
        mask_N=mask,
    )


def coefficients(objective, ratios, advantages):
    """c of dL/dlogp = -c A, by autograd."""
    theta = tensor(ratios, dtype=torch.float64).log().requires_grad_()
    terms = objective.terms(inputs(theta, [0.0] * len(ratios), advantages))
    (gradient,) = torch.autograd.grad(terms.loss_N.sum(), theta)
    return (-gradient / tensor(advantages, dtype=torch.float64)).tolist()


@pytest.mark.parametrize(
    ("objective", "sign", "expected"),
    [
        (PPOClipLoss(), 1.0, [0.4, 0.75, 0.9, 1, 1.2, 0, 0, 0]),
        (PPOClipLoss(), -1.0, [0, 0, 0.9, 1, 1.2, 1.5, 4, 8]),
        (PPOClipLoss(dual=3.0), -1.0, [0, 0, 0.9, 1, 1.2, 1.5, 0, 0]),
        (PPOClipLoss(dual=3.0), 1.0, [0.4, 0.75, 0.9, 1, 1.2, 0, 0, 0]),
        (ReinforceLoss(), 1.0, [1.0] * 8),
        (ReinforceLoss(), -1.0, [1.0] * 8),
    ],
)
def test_coefficient_table(objective, sign, expected):
    assert coefficients(objective, RATIOS, [sign] * 8) == pytest.approx(expected, abs=1e-9)


def test_mixed_signs():
    ratios = [0.3, 0.65, 0.82, 1.05, 1.22, 1.35, 2.6, 5.5]
    advantages = [1.0, -2.0, 1.0, -1.0, 0.5, -1.0, 1.0, -1.0]
    assert coefficients(PPOClipLoss(), ratios, advantages) == pytest.approx([0.3, 0, 0.82, 1.05, 1.22, 1.35, 0, 5.5])
    assert coefficients(PPOClipLoss(dual=3.0), ratios, advantages) == pytest.approx([0.3, 0, 0.82, 1.05, 1.22, 1.35, 0, 0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "objective"),
    [
        (1.5, 1, None, 1.28),
        (1.5, -1, None, -1.5),
        (0.5, 1, None, 0.5),
        (0.5, -1, None, -0.8),
        (5, -1, 3.0, -3),
        (5, -1, None, -5),
    ],
)
def test_worked_objectives(ratio, advantage, dual, objective):
    theta = tensor([float(ratio)], dtype=torch.float64).log()
    found = ppo_clip(theta, torch.zeros(1), tensor([float(advantage)]), eps_low=0.2, eps_high=0.28, dual=dual)
    assert -found.loss_N.item() == pytest.approx(objective)


def test_share_names_where_the_gradient_is_cut():
    terms = PPOClipLoss(dual=3.0).terms(
        inputs(tensor([1.5, 0.5, 5.0, 1.0], dtype=torch.float64).log(), [0.0] * 4, [1.0, -1.0, -1.0, 1.0])
    )
    assert {k: v.tolist() for k, v in terms.shares.items()} == {
        "clip_high": [True, False, False, False],
        "clip_low": [False, True, False, False],
        "clip_dual": [False, False, True, False],
    }


def test_logits_gradient_of_a_clipped_token():
    logits = tensor([1.0, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(-1)[:1]
    behaviour = torch.full((1,), 1 / 3, dtype=torch.float64).log()
    assert (logp - behaviour).exp().item() == pytest.approx(1.995723, abs=1e-6)
    clipped = ppo_clip(logp, behaviour, torch.ones(1), eps_low=0.2, eps_high=0.28).loss_N.sum()
    (zero,) = torch.autograd.grad(clipped, logits, retain_graph=True)
    assert zero.tolist() == [0, 0, 0]
    (gradient,) = torch.autograd.grad(reinforce(logp, torch.ones(1)).sum(), logits)
    assert (-gradient).tolist() == pytest.approx([0.33476, -0.24473, -0.09003], abs=1e-5)


def test_log_ratio_is_clamped():
    theta = tensor([100.0, -100.0], dtype=torch.float64, requires_grad=True)
    loss = PPOClipLoss().terms(inputs(theta, [0.0, 0.0], [-1.0, 1.0])).loss_N
    assert loss.tolist() == pytest.approx([torch.tensor(20.0, dtype=torch.float64).exp().item(), -2.061153622e-09])
    (gradient,) = torch.autograd.grad(loss.sum(), theta)
    assert gradient.tolist() == [0, 0]


@pytest.mark.parametrize(
    "config", [LossConfig(objective=PPOClipLoss(dual=3.0)), LossConfig(), LossConfig(objective=SupervisedLoss())]
)
def test_finite_differences(config):
    generator = torch.Generator().manual_seed(3)
    theta = torch.randn(12, generator=generator, dtype=torch.float64) * 0.5
    old, advantages = torch.randn(12, generator=generator).tolist(), torch.randn(12, generator=generator).tolist()

    def loss(x):
        return config.build()(inputs(x, old, advantages, [0] * 5 + [1] * 7)).loss

    assert torch.autograd.gradcheck(loss, theta.requires_grad_(), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [{"eps_low": 0.0}, {"eps_low": 1.0}, {"eps_high": 0.0}, {"dual": 1.0}])
def test_impossible_settings(bad):
    with pytest.raises(ConfigError):
        PPOClipLoss(**bad)


def test_supervised_worked_number():
    case = inputs([-0.5, -1.5, float("nan"), -2.0, float("-inf"), -0.25], [0.0] * 6, [0.0] * 6, [0, 0, 0, 1, 1, 1],
                  [True, True, False, True, False, True])  # fmt: skip
    assert LossConfig(objective=SupervisedLoss()).build()(case).loss.item() == pytest.approx(17 / 16)


def test_entropy_bonus():
    entropy = tensor([0.5, 1.5], dtype=torch.float64)
    config = LossConfig(entropy_bonus=0.1)
    out = config.build()(inputs([-1.0, -1.0], [-1.0, -1.0], [1.0, 1.0], entropy=entropy))
    assert out.loss.item() == pytest.approx(1.0 - 0.1 * 1.0)
    assert out.sums["entropy"].item() == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="entropy"):
        config.build()(inputs([-1.0], [-1.0], [1.0]))
