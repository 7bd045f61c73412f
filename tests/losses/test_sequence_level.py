"""Objectives and selections that look at whole sequences or steps, against worked numbers."""

import math

import pytest
import torch
from loss_cases import f64, gradient, inputs

from phronesis.losses import (
    ClipCovLoss,
    GMPOLoss,
    GSPOLoss,
    KLCovLoss,
    LossConfig,
    LUSPOLoss,
    M2POLoss,
    SequenceMeanTokenMean,
    covariance,
    m2_keep,
    second_moment,
    vespo_weight,
)
from phronesis.losses.objectives.sequence_level import geometric_ratio

NAN = float("nan")


def mean_loss(objective, *args, **streams):
    return LossConfig(objective=objective, aggregation=SequenceMeanTokenMean()).build()(inputs(*args, **streams)).loss.item()


def test_geometric_ratio_and_its_clip():
    case = inputs([0.1, -0.2, 0.3], advantages=[1.0] * 3)
    assert geometric_ratio(case).tolist() == pytest.approx([1.068939] * 3, abs=1e-6)
    loss, pull = gradient(LossConfig(objective=GSPOLoss(), aggregation=SequenceMeanTokenMean()), case)
    assert loss.item() == pytest.approx(-1.0004) and pull.tolist() == [0, 0, 0]


def test_gspo_of_ragged_masked_sequences():
    config = LossConfig(objective=GSPOLoss(), aggregation=SequenceMeanTokenMean())
    case = inputs(
        [2e-4, -1e-4, NAN, 1e-3, float("inf"), -5e-4, -4e-3, 1e-3, 1e-3],
        advantages=[1.0] * 6 + [-2.0] * 3,
        sequence=[0, 0, 0, 1, 1, 1, 2, 2, 2],
        mask=[True, True, False, True, False, True, True, True, True],
    )
    loss, pull = gradient(config, case)
    assert loss.item() == pytest.approx(-0.00030001083420838626)
    sums = torch.zeros(3, dtype=torch.float64).index_add(0, case.sequence_N, pull)
    assert (-sums * 3 / f64([1, 1, -2])).tolist() == pytest.approx([1.00005, 1.00025, 0], abs=1e-6)


def test_a_sequence_ratio_beyond_its_clamp_has_no_gradient():
    case = inputs([15.0, 12.0], advantages=[-1.0, -1.0])
    loss, pull = gradient(LossConfig(objective=GSPOLoss()), case)
    assert loss.item() == pytest.approx(math.exp(10)) and pull.tolist() == [0, 0]


def test_gmpo():
    loss = mean_loss(
        GMPOLoss(),
        [0.6, -0.7, 0.1, 0.6, -0.7, 0.1, 0.2],
        advantages=[1.0] * 3 + [-1.0] * 3 + [0.5],
        sequence=[0, 0, 0, 1, 1, 1, 2],
    )
    assert loss == pytest.approx(-0.14701248201201841)
    assert mean_loss(GMPOLoss(), [0.1, -0.2, 0.9], advantages=[1.0] * 3) == pytest.approx(-1.105171, abs=1e-6)
    assert mean_loss(GMPOLoss(clip=9.0), [0.1, -0.2, 0.9], advantages=[1.0] * 3) == pytest.approx(-1.305605, abs=1e-6)


def test_luspo():
    loss = mean_loss(
        LUSPOLoss(eps_low=0.2, eps_high=0.28),
        [0.01, 0.03, 0.0, -0.02, 0.02, 0.04, -0.5],
        advantages=[1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0],
        sequence=[0, 0, 1, 1, 1, 1, 2],
    )
    assert loss == pytest.approx(0.9332659960943867)


def test_vespo_weight():
    w, a = f64([1.5, 0.5, 0.5, 2.0, 2.0, 1.0]), f64([1.0, 1.0, -1.0, 1.0, -1.0, 0.0])
    phi = vespo_weight(w.log(), a, k_pos=2, lam_pos=3, k_neg=3, lam_neg=2)
    assert phi.tolist() == pytest.approx([0.502043, 1.12042227, 0.33978523, 0.19914827, 1.08268227, 1.0], abs=1e-6)


def test_second_moment_selection():
    log_ratio = f64([0.6, -0.1, 0.2, -0.9, 0.35, 0.05])
    keep = m2_keep(log_ratio, 0.04)
    assert torch.nonzero(keep)[:, 0].tolist() == [1, 2, 5]
    assert second_moment(log_ratio, keep).item() == pytest.approx(0.0175)
    assert m2_keep(f64([0.0, 0.0, 0.3, 0.3]), 0.04).tolist() == [True, True, False, True]
    assert m2_keep(f64([0.3, 0.3]), 0.04).tolist() == [False, False]
    terms = M2POLoss().terms(inputs([0.05, -0.1, 0.3, -0.5, 0.02], advantages=[1.0] * 5))
    assert terms.shares["clip_m2"].tolist() == [False, False, False, True, False]
    assert terms.loss_N.tolist() == pytest.approx([-math.exp(x) for x in (0.05, -0.1, 0.3)] + [0, -math.exp(0.02)])


def test_kl_cov():
    logp, ratio = [-0.1, -2.0, -0.7, -1.2, -0.3], f64([1.1, 0.9, 1.0, 1.3, 0.8])
    old = (f64(logp) - ratio.log()).tolist()
    case = inputs(logp, old=old, advantages=[1.0, -1.0, 0.5, 0.5, -1.0])
    found = covariance(case.logp_theta_N, case.advantages_N)
    assert found.tolist() == pytest.approx([0.76, 1.14, 0.08, -0.17, -0.56])
    terms = KLCovLoss(fraction=0.4).terms(case)
    assert terms.shares["penalised_cov"].tolist() == [True, True, False, False, False]
    assert terms.loss_N.tolist() == pytest.approx([-1.00468982, 1.00536052, -0.5, -0.65, 0.8])


def test_clip_cov_takes_the_gradient_and_leaves_the_value():
    case = inputs([-0.1, -2.0, -0.7, -1.2, -0.3], old=[-0.1, -2.0, -0.7, -1.2, -0.3], advantages=[1.0, -1.0, 0.5, 0.5, -1.0])
    config = LossConfig(objective=ClipCovLoss(fraction=0.2, low=0.5, high=1.0))
    loss, pull = gradient(config, case)
    assert loss.item() == pytest.approx(0.0)
    assert (-pull * 5).tolist() == pytest.approx([0, -1, 0.5, 0.5, -1])
