"""What is added to an objective: divergence from a reference, entropy bonus, other streams; and the step's size."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import f64, gradient, inputs, steps

from phronesis.errors import ConfigError
from phronesis.losses import (
    Coefficients,
    EntropyTarget,
    KLInLoss,
    KLInReward,
    KLTarget,
    LossConfig,
    PPOClipLoss,
    SequenceMeanTokenMean,
    SequenceMeanTraceMean,
    SequenceMeanTurnMean,
    Stream,
    TokenMIS,
    TurnMeanTokenMean,
    adapt_kl,
    aggregate,
    composite,
    entropy,
    expected,
    kl_k3,
    kl_k3plus,
    kl_unbiased,
)
from phronesis.losses.sequences import to_go
from phronesis.train.step_size import effective_size, lr_factor, variance_baseline


def test_k3plus_has_the_value_of_k3_and_the_gradient_of_k2():
    theta, ref = f64([-1.2, -0.4]).requires_grad_(), f64([-0.9, -1.0])
    values = kl_k3plus(theta, ref)
    assert values.tolist() == pytest.approx([0.049858808, 0.148811636])
    assert torch.autograd.grad(values.sum(), theta)[0].tolist() == pytest.approx([-0.3, 0.6])


def test_unbiased_value():
    assert kl_unbiased(f64([-0.5, -1.0]), f64([-0.6, -0.7]), f64([-0.7, -1.0])).tolist() == pytest.approx([0.020700684, 0])


def expected_gradient(kl, p, ref, behaviour=None):
    """Gradient in the logits of the expected penalty, over all outcomes, when they are samples of `behaviour` (default p)."""
    behaviour = p if behaviour is None else behaviour
    logits = p.log().requires_grad_()
    total = torch.zeros_like(p)
    for outcome in range(p.shape[0]):
        logp = logits.log_softmax(-1)[outcome][None]
        old = behaviour.log()[outcome][None].tolist()
        case = inputs(logp, old=old, infer=old, advantages=[0.0], logp_ref_N=ref.log()[outcome][None])
        (pull,) = torch.autograd.grad(LossConfig(kl=kl).build()(case).loss, logits)
        total = total + behaviour[outcome] * pull
    return total.tolist()


@pytest.mark.parametrize(
    ("kl", "off_policy"),
    [
        (KLInReward(coef=1.0), False),
        (KLInLoss(coef=1.0, estimator="k2"), False),
        (KLInLoss(coef=1.0, estimator="k3plus"), False),
        (KLInLoss(coef=1.0, estimator="unbiased"), False),
        (KLInLoss(coef=1.0, estimator="unbiased"), True),
    ],
)
def test_expected_gradient_is_that_of_the_reverse_divergence(kl, off_policy):
    p, ref = f64([0.6, 0.3, 0.1]), f64([0.2, 0.3, 0.5])
    behaviour = f64([0.3, 0.3, 0.4]) if off_policy else None
    true = [0.3602332240263923, -0.1494670745872367, -0.21076614943915561]
    assert expected_gradient(kl, p, ref, behaviour) == pytest.approx(true)


def test_k3_in_the_loss_follows_the_forward_divergence():
    found = expected_gradient(KLInLoss(coef=1.0, estimator="k3"), f64([0.6, 0.3, 0.1]), f64([0.2, 0.3, 0.5]))
    assert found == pytest.approx([0.4, 0, -0.4], abs=1e-12)


def test_penalty_in_the_reward_charges_each_token_with_what_follows():
    case = inputs([-1.0, -1.0, -1.0, -1.0], old=[-1.0, -0.5, -2.0, -1.0], advantages=[1.0] * 4, sequence=[0, 0, 1, 0],
                  logp_ref_N=f64([-1.5, -1.5, -1.5, -1.2]))  # fmt: skip
    # k1 = [.5, 1, -.5, .2]
    for gamma, to_come in ((1.0, [1.7, 1.2, -0.5, 0.2]), (0.5, [1.05, 1.1, -0.5, 0.2]), (0.0, [0.5, 1.0, -0.5, 0.2])):
        _, pull = gradient(LossConfig(kl=KLInReward(coef=0.1, gamma=gamma)), case)
        assert (-pull * 4).tolist() == pytest.approx([1 - 0.1 * x for x in to_come])


@given(st.lists(st.floats(-3, 3), max_size=8), st.floats(0, 1))
def test_to_go_is_the_discounted_sum(values, gamma):
    case = inputs(f64(values))
    direct = [sum(gamma ** (k - t) * values[k] for k in range(t, len(values))) for t in range(len(values))]
    assert to_go(f64(values), case, gamma).tolist() == pytest.approx(direct, abs=1e-9)


def test_penalty_in_the_loss_is_untouched_by_corrections():
    streams = {"old": [-1.0, -1.0], "infer": [-1.0, -9.0], "advantages": [0.0, 0.0], "logp_ref_N": f64([-1.5, -0.2])}
    plain = LossConfig(kl=KLInLoss(coef=0.2)).build()(inputs([-1.0, -1.0], **streams))
    corrected = LossConfig(kl=KLInLoss(coef=0.2), corrections=(TokenMIS(reject=True),)).build()(inputs([-1.0, -1.0], **streams))
    want = 0.2 * kl_k3(f64([-1.0, -1.0]), f64([-1.5, -0.2])).mean().item()
    assert plain.loss.item() == pytest.approx(want) == corrected.loss.item()
    assert plain.sums["ref_kl"].item() == pytest.approx(want / 0.2)


def test_coefficients_of_a_controller_replace_the_configured_ones():
    case = inputs([-1.0], old=[-1.0], advantages=[0.0], logp_ref_N=f64([-1.5]), entropy_N=f64([0.7]))
    config = LossConfig(kl=KLInLoss(coef=0.2), entropy_bonus=0.5)
    loss = config.build()(case._replace(coefficients=Coefficients(kl=2.0, entropy=0.1))).loss.item()
    assert loss == pytest.approx(2 * 0.106530660 - 0.1 * 0.7)


def test_a_penalty_without_a_reference_is_refused():
    with pytest.raises(ConfigError, match="logp_ref_N"):
        LossConfig(kl=KLInLoss(coef=0.1)).build()(inputs([-1.0]))


def test_adaptive_coefficient():
    assert adapt_kl(0.2, 0.3, 64, target=0.1, horizon=10000) == pytest.approx(0.200256)
    assert adapt_kl(0.1, 0.05, 128, target=0.1, horizon=1000) == pytest.approx(0.09744)
    assert KLTarget(target=0.1).adapt(0.2, 0.11, 64) == pytest.approx(0.2 * (1 + 0.1 * 64 / 10000))


def test_entropy_of_distributions():
    assert entropy(f64([0.7, 0.2, 0.1]).log()).item() == pytest.approx(0.801819, abs=1e-6)
    assert entropy(f64([[0.5, 0.25, 0.125, 0.125], [1.0, 0.0, 0.0, 0.0]]).log()).tolist() == pytest.approx(
        [1.75 * math.log(2), 0]
    )


def test_entropy_bonus_holds_a_target():
    target = EntropyTarget(target=0.2)
    assert target.adapt(0.01, 0.15) == pytest.approx(0.015) and target.applies(0.15) and target.applies(0.2)
    assert target.adapt(0.01, 0.3) == pytest.approx(0.005) and not target.applies(0.3)
    assert target.adapt(0.001, 0.3) == 0.0


def test_expectation_skips_what_cannot_happen():
    assert expected(f64([1.0, float("inf")]), f64([1.0, 0.0]).log()).item() == 1.0


def test_streams_have_their_own_denominators():
    nan = float("nan")
    rl, ce, kl = f64([0.5, -1.0, nan, 2.0]), f64([1.0, 2.0, 3.0, 0.5]), f64([0.0] * 4)
    found = composite([Stream(rl, f64([1, 1, 0, 0])), Stream(ce, f64([0, 0, 0.1, 0.1])), Stream(kl, f64([0] * 4))])
    assert found.item() == pytest.approx(-0.075)
    part = composite([Stream(rl[:2], f64([1, 1]), tokens=4)])
    assert part.item() == pytest.approx(-0.125)
    with pytest.raises(ValueError, match="at least one"):
        composite([])


def test_effective_step():
    weights = f64([2.0, 1.0, 0.5, 0.5])
    assert effective_size(weights).item() == pytest.approx(2.909091, abs=1e-6)
    assert lr_factor(weights).item() == pytest.approx(0.852803, abs=1e-6)
    assert lr_factor(f64([])).item() == 1.0 and lr_factor(f64([0.0, 0.0])).item() == 0.0
    weights, norms, rewards = f64([3.0, 0.2, 1, 1, 0.1]), f64([1.0, 4.0, 0.5, 2.0, 1.0]), f64([1.0, 0, 1, 0, 1])
    best = variance_baseline(weights, norms, rewards)
    assert best.item() == pytest.approx(0.8149100257)

    def spread(b):
        return (weights.square() * norms * (rewards - b).square()).sum().item()

    assert spread(best) < min(spread(best + 0.01), spread(best - 0.01))


def test_means_over_turns_and_contexts():
    losses = f64([1.0, 1.0, 4.0, 0.5])
    case = inputs([0.0] * 4, sequence=[0, 0, 0, 1], turn=[0, 0, 2, 0])
    assert aggregate(losses, case, TurnMeanTokenMean()).item() == pytest.approx(5.5 / 3)
    assert aggregate(losses, case, SequenceMeanTurnMean()).item() == pytest.approx(1.5)
    losses = f64([1.0, 1.0, 3.0, 2.0, 4.0, 6.0])
    case = inputs([0.0] * 6, sequence=[0, 0, 0, 1, 1, 1])._replace(trace_N=torch.tensor([0, 0, 1, 0, 0, 0]))
    assert aggregate(losses, case, SequenceMeanTraceMean()).item() == pytest.approx(3.0)
    assert aggregate(losses, case._replace(trace_N=None), SequenceMeanTraceMean()).item() == pytest.approx(17 / 6)


@given(steps())
def test_one_turn_per_sequence_makes_turn_and_sequence_means_equal(batch):
    one = batch._replace(turn_N=torch.zeros_like(batch.turn_N), totals=batch.totals._replace(turns=batch.totals.sequences))
    rules = (SequenceMeanTokenMean(), TurnMeanTokenMean(), SequenceMeanTurnMean())
    found = [gradient(LossConfig(objective=PPOClipLoss(), aggregation=rule), one)[1] for rule in rules]
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])
