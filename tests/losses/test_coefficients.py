"""The coefficient c of dL/d log pi = -c A of every objective at given ratios, against worked numbers."""

import math

import pytest
import torch
from loss_cases import f64, gradient, inputs
from torch import tensor

from phronesis.errors import ConfigError
from phronesis.losses import (
    CISPOLoss,
    DecoupledPPOLoss,
    DISLoss,
    DPPOLoss,
    DROLoss,
    GPPOLoss,
    IcePop,
    LossConfig,
    PPOClipLoss,
    ReinforceLoss,
    SAPOLoss,
    SymmetricTVLoss,
    TokenMIS,
    TokenTIS,
    TwoSidedLoss,
    Versions,
    approximate_prox,
    join,
    prox_share,
    prox_shares,
    sapo,
    vespo_weight,
)
from phronesis.train.asynchrony import capacity

RATIOS = [0.4, 0.75, 0.9, 1.0, 1.2, 1.5, 4.0, 8.0]


def coefficients(config, ratios, advantages):
    theta = f64(ratios).log()
    pull = gradient(config, inputs(theta, advantages=advantages))[1] * len(ratios)
    return (-pull / f64(advantages)).tolist()


@pytest.mark.parametrize(
    ("config", "sign", "expected"),
    [
        (LossConfig(objective=PPOClipLoss()), 1.0, [0.4, 0.75, 0.9, 1, 1.2, 0, 0, 0]),
        (LossConfig(objective=PPOClipLoss()), -1.0, [0, 0, 0.9, 1, 1.2, 1.5, 4, 8]),
        (LossConfig(objective=PPOClipLoss(dual=3.0)), -1.0, [0, 0, 0.9, 1, 1.2, 1.5, 0, 0]),
        (LossConfig(objective=GPPOLoss()), 1.0, [0.4, 0.75, 0.9, 1, 1.2, 1.28, 1.28, 1.28]),
        (LossConfig(objective=GPPOLoss()), -1.0, [0.8, 0.8, 0.9, 1, 1.2, 1.5, 4, 8]),
        (LossConfig(objective=GPPOLoss(dual=3.0)), -1.0, [0.8, 0.8, 0.9, 1, 1.2, 1.5, 0, 0]),
        (LossConfig(objective=GPPOLoss(dual=3.0, keep_dual=True)), -1.0, [0.8, 0.8, 0.9, 1, 1.2, 1.5, 3, 3]),
        (LossConfig(objective=CISPOLoss()), 1.0, [0.4, 0.75, 0.9, 1, 1.2, 1.28, 1.28, 1.28]),
        (LossConfig(objective=CISPOLoss(floor=0.8)), -1.0, [0.8, 0.8, 0.9, 1, 1.2, 1.28, 1.28, 1.28]),
        (LossConfig(objective=DISLoss()), 1.0, [0, 0.75, 0.9, 1, 1.2, 1.5, 4, 0]),
        (LossConfig(corrections=(TokenTIS(of="theta"),)), 1.0, [0.4, 0.75, 0.9, 1, 1.2, 1.5, 2, 2]),
        (LossConfig(corrections=(TokenMIS(of="theta"),)), 1.0, [0, 0.75, 0.9, 1, 1.2, 1.5, 0, 0]),
        (LossConfig(objective=SAPOLoss()), 1.0, [0.3661, 0.7384, 0.8978, 1, 1.1881, 1.41, 0.7228, 0.0291]),
        (LossConfig(objective=SAPOLoss()), -1.0, [0.3628, 0.7372, 0.8975, 1, 1.1869, 1.4012, 0.6304, 0.0205]),
        (LossConfig(objective=TwoSidedLoss()), -1.0, [0, 0, 0.9, 1, 1.2, 1.5, None, 0]),
        (LossConfig(objective=TwoSidedLoss()), 1.0, [0.4, 0.75, 0.9, 1, 1.2, 0, 0, 0]),
    ],
)
def test_coefficient_table(config, sign, expected):
    found = coefficients(config, RATIOS, [sign] * 8)
    for got, want in zip(found, expected, strict=True):
        assert want is None or got == pytest.approx(want, abs=5e-5)  # None: at a corner


@pytest.mark.parametrize(
    ("objective", "coefficient"),
    [(PPOClipLoss(), 0.0), (GPPOLoss(), 1.28), (CISPOLoss(), 1.28), (DISLoss(), 1.995723)],
)
def test_gradient_in_the_logits(objective, coefficient):
    logits = f64([1.0, 0.0, -1.0]).requires_grad_()
    uniform = [math.log(1 / 3)]
    case = inputs(logits.log_softmax(-1)[:1], old=uniform, infer=uniform, advantages=[1.0])
    (pull,) = torch.autograd.grad(LossConfig(objective=objective).build()(case).loss, logits)
    assert (-pull).tolist() == pytest.approx([coefficient * x for x in (0.33476, -0.24473, -0.09003)], abs=2e-5)


def test_gppo_has_the_value_of_ppo():
    ratios, advantages = [0.3, 0.65, 0.82, 1.05, 1.22, 1.35, 2.6, 5.5], [1.0, -2.0, 1.0, -1.0, 0.5, -1.0, 1.0, -1.0]
    case = inputs(f64(ratios).log(), advantages=advantages)
    for dual in (None, 3.0):
        expected = PPOClipLoss(dual=dual).terms(case).loss_N.tolist()
        assert GPPOLoss(dual=dual).terms(case).loss_N.tolist() == pytest.approx(expected)
        assert GPPOLoss(dual=dual, keep_dual=True).terms(case).loss_N.tolist() == pytest.approx(expected)


def test_two_sided_objective():
    case = inputs(f64([5.0, 3.0, 1.5, 0.5, 9.0]).log(), advantages=[-1.0, -1.0, 1.0, -2.0, 1.0])
    assert (-TwoSidedLoss().terms(case).loss_N).tolist() == pytest.approx([-4, -3, 1.2, -1.6, 1.2])


def test_cispo_values():
    case = inputs([-1.0, -2.0, -0.5], old=[-1 - math.log(0.5), -2.0, -0.5 - math.log(3)], advantages=[1.0] * 3)
    assert CISPOLoss(cap=2.0).terms(case).loss_N.tolist() == pytest.approx([0.5, 2, 1])


def test_dis_interval_is_open_and_ties_are_outside():
    case = inputs(f64([0.69, 0.7, 1.0, 5.99, 6.0]).log(), advantages=[1.0] * 5)
    weights = -gradient(LossConfig(objective=DISLoss()), case)[1] * 5
    assert weights.tolist() == pytest.approx([0, 0, 1, 5.99, 0])
    edge = inputs(f64([0.2, 0.21]).log(), advantages=[1.0] * 2)
    assert DISLoss(eps_low=0.8).terms(edge).shares["clip_low"].tolist() == [True, False]
    worked = inputs([-0.5, -1.0, -2.0], infer=[-0.5 - math.log(0.69), -1, -2 - math.log(2)], advantages=[1.0, 1.0, -1.0])
    assert LossConfig(objective=DISLoss()).build()(worked).loss.item() == pytest.approx(-1.0)


def test_sapo_values():
    case = inputs(f64([1.2, 1.2, 1.0]).log(), advantages=[1.0, -1.0, 1.0])
    assert (-SAPOLoss().terms(case).loss_N).tolist() == pytest.approx([2.199336, -2.10403, 2.0], abs=1e-5)


def test_trust_region_in_probability():
    p, q = [0.25, 0.6, 0.02, 0.0005, 0.9], [0.5, 0.3, 0.3, 0.01, 0.5]
    terms = DPPOLoss().terms(inputs(f64(q).log(), infer=f64(p).log().tolist(), advantages=[1.0, -1.0, -1.0, 2.0, -1.0]))
    assert terms.shares["clip_tv"].tolist() == [True, True, False, False, True]
    assert terms.loss_N.tolist() == pytest.approx([0.00048045, 0.00048045, 15.00733353, -39.99102559, 0.00034549], abs=1e-6)
    p, q = [0.5, 0.5, 0.2], [0.55, 0.35, 0.35]
    terms = SymmetricTVLoss().terms(inputs(f64(q).log(), infer=f64(p).log().tolist(), advantages=[1.0, 1.0, -1.0]))
    assert terms.shares["clip_tv"].tolist() == [False, True, True]
    assert terms.loss_N.tolist() == pytest.approx([-1.09999092, 0.00012722, 0.00031317], abs=1e-7)


def test_detached_form_caps_the_weight():
    case = inputs(f64([0.9]).log(), infer=[math.log(0.01)], advantages=[-1.0])
    config = LossConfig(objective=DPPOLoss(form="detached", kappa=0.0))
    assert gradient(config, case)[1].tolist() == pytest.approx([20.0])


def test_dro():
    case = inputs([-1.0, -0.5], infer=[-1.2, -0.5], advantages=[1.0, -2.0])
    assert DROLoss(beta=0.1).terms(case).loss_N.tolist() == pytest.approx([1.002, -1.0])


def test_decoupled_ppo():
    case = inputs([-1.2], old=[-1.5], infer=[-2.0], advantages=[1.0])
    assert DecoupledPPOLoss().terms(case).loss_N.item() == pytest.approx(-1.978466, abs=1e-6)
    corrected = LossConfig(objective=PPOClipLoss(eps_high=0.2), corrections=(TokenTIS(cap=1e9),)).build()(case)
    assert corrected.loss.item() == pytest.approx(-1.978466, abs=1e-6)
    coupled = PPOClipLoss(eps_high=0.2).terms(case._replace(logp_old_N=case.logp_infer_N))
    assert coupled.loss_N.item() == pytest.approx(-1.2)


def test_proximal_policy_between_two_versions():
    share = prox_share(5, 3, 6)
    assert share == pytest.approx(2 / 3) and prox_share(4, 4, 4) == 0.0
    assert approximate_prox(f64([-1.2]), f64([-2.0]), share).item() == pytest.approx(-1.466667, abs=1e-6)
    case = inputs([-1.2], old=[-9.0], infer=[-2.0], advantages=[1.0])
    same = inputs([-1.2], old=[-2 + 0.8 * share], infer=[-2.0], advantages=[1.0])
    found = DecoupledPPOLoss(prox_share=share).terms(case).loss_N.item()
    assert found == pytest.approx(DecoupledPPOLoss().terms(same).loss_N.item())


def test_the_share_of_every_token_by_the_versions_of_its_weights():
    """Sampled by versions 3, 5 and 6 in an update from 5 to 6: two thirds of the way for the first, none for the others."""
    case = inputs([-1.2] * 3, old=[-9.0] * 3, infer=[-2.0] * 3, advantages=[1.0] * 3)
    known = case._replace(versions=Versions(torch.tensor([3, 5, 6]), 5, 6))
    assert prox_shares(5, torch.tensor([3, 5, 6, 3]), 6).tolist() == pytest.approx([2 / 3, 0, 0, 2 / 3])
    found = DecoupledPPOLoss(prox_share="versions").terms(known).loss_N.tolist()
    stale = math.exp(-1.466667 + 2.0) * min(math.exp(-1.2 + 1.466667), 1.2)  # by hand: weight 1.704605, ratio 1.305605 clipped
    assert found == pytest.approx([-stale, -1.2, -1.2], abs=1e-5) and stale == pytest.approx(2.045526, abs=1e-5)
    with pytest.raises(ConfigError, match="notes which weights sampled it"):
        DecoupledPPOLoss(prox_share="versions").terms(case)
    with pytest.raises(ConfigError, match=r"must be in \[0, 1\]"):
        DecoupledPPOLoss(prox_share=1.5)
    both = join([known, known._replace(versions=Versions(torch.tensor([1, 2, 3]), 5, 6))])
    assert both.versions is not None and both.versions.behaviour_N.tolist() == [3, 5, 6, 1, 2, 3]
    assert join([known, case]).versions is None


def test_icepop_over_ppo_is_the_reasoning_loss_of_glm5():
    rho, ratio = f64([1.5, 0.4, 0.5]).log(), f64([1.0, 1.4, 0.7]).log()
    case = inputs(rho + ratio, old=rho.tolist(), advantages=[1.0, 1.0, -1.0], sequence=[0, 0, 1])
    from_config = LossConfig(objective=PPOClipLoss(), corrections=(IcePop(),))
    terms = from_config.objective.terms(case).loss_N * f64([1.5, 0.0, 0.5])
    assert (-terms).tolist() == pytest.approx([1.5, 0, -0.4])
    assert from_config.build()(case).loss.item() == pytest.approx(-(1.5 - 0.4) / 3)


def test_room_for_rollouts():
    assert capacity(batch=8, eta=4, version=2, accepted=50, running=3, max_concurrent=16) == 3
    assert capacity(batch=8, eta=4, version=2, accepted=0, running=3, max_concurrent=16) == 13


def test_weights_carry_no_gradient():
    """A forgotten detach of r in r A log pi would multiply the gradient with 1 + log pi."""
    logp = f64([-1.3, -0.2, -2.0])
    case = inputs(logp, old=[-1.0, -0.5, -2.5], infer=[-1.0, -0.5, -2.5], advantages=[1.0, -1.2, 0.7])
    ratio = (logp - f64([-1.0, -0.5, -2.5])).exp()
    expected = (-ratio * f64([1.0, -1.2, 0.7]) / 3).tolist()
    for config in (
        LossConfig(objective=CISPOLoss(cap=9.0)),
        LossConfig(objective=DISLoss(eps_low=0.9)),
        LossConfig(objective=ReinforceLoss(), corrections=(TokenTIS(cap=9.0, of="theta"),)),
    ):
        assert gradient(config, case)[1].tolist() == pytest.approx(expected)


def test_beyond_the_clamp_gppo_still_learns():
    case = inputs(tensor([40.0], dtype=torch.float64), advantages=[1.0])
    assert gradient(LossConfig(objective=GPPOLoss()), case)[1].item() == pytest.approx(-1.28)


def test_settings_are_not_rounded_in_float64():
    theta, advantages = f64([math.log(1.2)]), f64([-1.0])
    expected = 4 / 1.05 / (1 + math.exp(-1.05 * (math.exp(math.log(1.2)) - 1)))
    assert sapo(theta, f64([0.0]), advantages, tau_pos=1.0, tau_neg=1.05).loss_N.item() == pytest.approx(expected, abs=1e-14)
    weight = vespo_weight(f64([math.log(1.5)]), advantages, k_pos=2.0, lam_pos=3.0, k_neg=2.9, lam_neg=2.1)
    assert weight.item() == pytest.approx(1.5**2.9 * math.exp(2.1 * (1 - 1.5)), abs=1e-14)
