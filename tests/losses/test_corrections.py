"""Corrections against worked numbers, and which denominators they leave."""

import math

import pytest
import torch
from loss_cases import f64, inputs

from phronesis.errors import ConfigError
from phronesis.losses import (
    GeometricReject,
    IcePop,
    K2Reject,
    K3Reject,
    LossConfig,
    OffPolicySequenceMask,
    SequenceMeanTokenMean,
    SequenceMIS,
    SequenceTIS,
    TokenMIS,
    TokenTIS,
    TopEntropy,
    TurnMeanTokenMean,
    Veto,
    combine,
    normalised,
    rejected,
)
from phronesis.losses.corrections.truncation import sequence_log_weight
from phronesis.losses.mismatch import perplexity_ratio


def of_rho(log_rho, **streams):
    return inputs(log_rho, old=log_rho, **streams)


def weights(rule, case):
    return rule.correct(case).weight_N.tolist()


def test_token_weights():
    case = of_rho(f64([0.49, 0.5, 1.0, 2.0, 2.01]).log().tolist())
    assert weights(TokenTIS(), case) == pytest.approx([0.49, 0.5, 1, 2, 2])
    assert weights(TokenMIS(), case) == pytest.approx([0, 0.5, 1, 2, 0])
    assert weights(IcePop(beta=2.0), case) == pytest.approx([0, 0.5, 1, 2, 0])
    assert IcePop().correct(case).shares["zeroed_icepop"].tolist() == [True, False, False, False, True]


def test_sequence_weights():
    case = of_rho([0.3, -0.1, 0.5, 0.2, 0.3, -0.1], sequence=[0, 0, 0, 1, 1, 1])
    assert weights(SequenceTIS(), case) == pytest.approx([2, 2, 2] + [1.4918247] * 3)
    assert weights(SequenceMIS(cap=2.0), case) == pytest.approx([0, 0, 0] + [1.4918247] * 3)
    assert weights(SequenceMIS(), case) == pytest.approx([2.0137527] * 3 + [1.4918247] * 3)


def test_products_grow_with_length():
    case = of_rho([math.log(1.05)] * 110, sequence=[0] * 10 + [1] * 100)
    assert sequence_log_weight(case.logp_old_N, case).exp().tolist() == pytest.approx([1.628895, 131.501258], rel=1e-6)
    kept = GeometricReject(low=0.9, high=1.06).correct(case).keep_N
    assert kept.all()


@pytest.mark.parametrize(
    ("rule", "log_rho", "keep"),
    [
        (GeometricReject(), [0.002, -0.001, 0.0015], [True] * 3),
        (GeometricReject(), [0.3, -0.1, 0.5], [False] * 3),
        (GeometricReject(low=0.5, high=2.0), [math.log(2.0)] * 3, [True] * 3),
        (Veto(), [0.0, 0.69, math.log(5e-5)], [False] * 3),
        (Veto(), [math.log(1e-3), -0.7, math.log(1e-4)], [True] * 3),
        (K3Reject(), [0.01, -0.02, 0.03], [True] * 3),
        (K3Reject(threshold=0.06), [0.3, -0.1, 0.5], [False] * 3),
        (K2Reject(), [0.5, -2.2, 1.9], [True, False, True]),
        (K2Reject(threshold=1.4, level="sequence"), [0.5, -2.2, 1.9], [False] * 3),
        (K2Reject(threshold=0.125), [0.5, -0.5, 0.51], [True, True, False]),
    ],
)
def test_rejection(rule, log_rho, keep):
    assert rule.correct(of_rho(log_rho)).keep_N.tolist() == keep


def test_sequences_are_judged_apart_and_on_unmasked_tokens():
    case = of_rho([0.0, -20.0, 0.1, -20.0, 0.2], sequence=[0, 0, 1, 1, 2], mask=[True, True, True, False, True])
    assert Veto().correct(case.cleaned()).keep_N.tolist() == [False, False, True, True, True]


@pytest.mark.parametrize(("advantage", "dropped"), [(-1.0, True), (1.0, False), (0.0, False)])
def test_off_policy_sequences(advantage, dropped):
    case = inputs([-1.2, -1.4], old=[-1.0, -1.0], advantages=[advantage] * 2)
    assert weights(OffPolicySequenceMask(delta=0.1), case) == [not dropped] * 2
    assert weights(OffPolicySequenceMask(delta=0.4), case) == [True] * 2


def test_highest_entropy():
    case = inputs([0.0] * 5, entropy_N=f64([0.1, 0.9, 0.9, 0.5, 0.2]))
    assert weights(TopEntropy(share=0.2), case) == [False, True, False, False, False]
    assert weights(TopEntropy(share=0.5), case) == [False, True, True, True, False]
    with pytest.raises(ConfigError, match="entropy = true"):
        TopEntropy().correct(inputs([0.0]))


def test_zero_weight_keeps_the_denominator_and_rejection_shrinks_it():
    """REINFORCE with advantages -l / log pi has the token losses l."""
    losses, rho = f64([1.0, -2.0, 4.0, 3.0]), f64([1.0, 0.3, 2.5, 1.2])
    theta = f64([-1.0, -1.0, -1.0, -1.0])
    case = inputs(theta, old=rho.log().tolist(), advantages=losses.tolist())
    assert LossConfig(corrections=(TokenMIS(),)).build()(case).loss.item() == pytest.approx(1.15)
    assert LossConfig(corrections=(TokenMIS(reject=True),)).build()(case).loss.item() == pytest.approx(2.3)


def test_what_rejection_leaves_to_divide_by():
    case = of_rho([0.0] * 6, sequence=[0, 0, 0, 1, 1, 2], turn=[0, 0, 1, 0, 1, 0])
    assert (case.totals.tokens, case.totals.sequences, case.totals.turns) == (6, 3, 5)
    left = rejected(case, torch.tensor([True, True, False, False, False, True]))
    assert left.totals.tokens_S.tolist() == [2, 0, 1]
    assert (left.totals.tokens, left.totals.sequences, left.totals.turns) == (3, 2, 2)
    # A step from which silent episodes were left out keeps their share.
    more = case._replace(totals=case.totals._replace(tokens=10, sequences=5, turns=9))
    left = rejected(more, torch.tensor([True, True, False, False, False, True]))
    assert (left.totals.tokens, left.totals.sequences, left.totals.turns) == (7, 4, 6)


def test_rejected_sequences_count_in_no_mean():
    case = inputs(
        [-1.0] * 5, old=[0.0, 0.0, 3.0, 0.0, 0.0], advantages=[1.0, 1, 9, 9, 4], sequence=[0, 0, 1, 1, 2], turn=[0, 1, 0, 0, 0]
    )
    for aggregation, expected in ((SequenceMeanTokenMean(), (1 + 4) / 2), (TurnMeanTokenMean(), (1 + 1 + 4) / 3)):
        loss = LossConfig(aggregation=aggregation, corrections=(K3Reject(),)).build()(case)
        assert loss.loss.item() == pytest.approx(expected)
        assert loss.sums["rejected_k3_reject"].item() == pytest.approx(2 / 5)


def test_weights_multiply_and_normalise_after_truncation():
    case = of_rho(f64([0.5, 1.0, 2.0]).log().tolist())
    found = combine((TokenTIS(),), case, normalise=True)
    assert found.weight_N.tolist() == pytest.approx([0.428571, 0.857143, 1.714286], abs=1e-6)
    found = combine((TokenTIS(cap=1.5), TokenMIS(high=1.0)), case)
    assert found.weight_N.tolist() == pytest.approx([0.25, 1.0, 0.0])
    assert normalised(f64([0.0, 0.0])).tolist() == [0, 0]
    found = combine((TokenMIS(high=1.0, reject=True),), case, normalise=True)
    assert found.weight_N[:2].tolist() == pytest.approx([2 / 3, 4 / 3])


def test_three_policies_weigh_and_clip_apart():
    """Weight old / infer, ratio theta / old; where old is the sampler's the weight is 1."""
    case = inputs([-0.8], old=[-1.0], infer=[-1.3], advantages=[1.0])
    of_old = LossConfig(corrections=(TokenTIS(),)).build()(case)
    assert of_old.sums["weight"].item() == pytest.approx(math.exp(0.3))
    of_theta = LossConfig(corrections=(TokenTIS(of="theta"),)).build()(case)
    assert of_theta.sums["weight"].item() == pytest.approx(math.exp(0.5))
    bypass = LossConfig(corrections=(TokenTIS(),)).build()(case._replace(logp_old_N=case.logp_infer_N))
    assert bypass.sums["weight"].item() == 1.0


def test_perplexity_ratio():
    found = perplexity_ratio(
        f64([-1.1, -2.1, -0.4, -0.5, -0.6]), f64([-1.0, -2.0, -0.5, -0.5, -0.5]), torch.tensor([0, 0, 1, 1, 1]), 2
    )
    assert found.tolist() == pytest.approx([1.1051709, 1.0])


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        (TokenTIS, {"cap": 0.0}),
        (TokenMIS, {"low": 0.0}),
        (TokenMIS, {"low": 3.0}),
        (IcePop, {"beta": 0.5}),
        (GeometricReject, {"low": 2.0, "high": 1.0}),
        (Veto, {"threshold": 0.0}),
        (K3Reject, {"threshold": -1.0}),
        (K2Reject, {"threshold": -1.0}),
        (OffPolicySequenceMask, {"delta": -1.0}),
        (TopEntropy, {"share": 0.0}),
    ],
)
def test_impossible_settings(rule, bad):
    with pytest.raises(ConfigError):
        rule(**bad)
