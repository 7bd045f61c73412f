"""What every objective keeps, alone and under every correction and aggregation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import f64, gradient, inputs, padded, rows, steps
from torch import tensor

from phronesis.losses import (
    CISPOLoss,
    ClipCovLoss,
    ConstantNorm,
    DecoupledPPOLoss,
    DISLoss,
    DPPOLoss,
    DROLoss,
    GeometricReject,
    GMPOLoss,
    GPPOLoss,
    GSPOLoss,
    IcePop,
    K2Reject,
    K3Reject,
    KLCovLoss,
    KLInLoss,
    KLInReward,
    LossConfig,
    LUSPOLoss,
    M2POLoss,
    OffPolicySequenceMask,
    PPOClipLoss,
    ReinforceLoss,
    SAPOLoss,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    SequenceMeanTraceMean,
    SequenceMeanTurnMean,
    SequenceMIS,
    SequenceTIS,
    SymmetricTVLoss,
    TokenMean,
    TokenMIS,
    TokenTIS,
    TopEntropy,
    TurnMeanTokenMean,
    TwoSidedLoss,
    VESPOLoss,
    Veto,
)
from phronesis.train.pulls import evaluate_whole

LIKE_REINFORCE = [
    PPOClipLoss(dual=3.0),
    GPPOLoss(),
    TwoSidedLoss(),
    CISPOLoss(),
    DISLoss(),
    SAPOLoss(),
    DPPOLoss(),
    DPPOLoss(form="detached"),
    SymmetricTVLoss(),
    DROLoss(beta=0.1),
    DecoupledPPOLoss(),
    DecoupledPPOLoss(prox_share=0.5),
    GSPOLoss(),
    GMPOLoss(),
    VESPOLoss(),
    M2POLoss(),
    KLCovLoss(fraction=0.3),
]
OBJECTIVES = [ReinforceLoss(), *LIKE_REINFORCE, LUSPOLoss(eps_low=0.2, eps_high=0.3), ClipCovLoss(fraction=0.3)]
AGGREGATIONS = [
    TokenMean(),
    SequenceMeanTokenMean(),
    SequenceMeanTokenSum(),
    ConstantNorm(horizon=7),
    TurnMeanTokenMean(),
    SequenceMeanTurnMean(),
    SequenceMeanTraceMean(),
]
CORRECTIONS = [
    (),
    (TokenTIS(),),
    (SequenceTIS(), Veto(threshold=0.05)),
    (SequenceMIS(),),
    (TokenMIS(),),
    (TokenMIS(reject=True), K3Reject(threshold=0.5)),
    (IcePop(),),
    (GeometricReject(low=0.5, high=2.0),),
    (K2Reject(threshold=1.5), K2Reject(threshold=0.7, level="sequence", reject=False)),
    (OffPolicySequenceMask(), OffPolicySequenceMask(of="infer", reject=True)),
    (TopEntropy(share=0.4),),
]
KLS = [None, KLInLoss(coef=0.1), KLInLoss(coef=0.1, estimator="unbiased"), KLInReward(coef=0.1, gamma=0.9)]
configs = st.builds(
    LossConfig,
    objective=st.sampled_from(OBJECTIVES),
    aggregation=st.sampled_from(AGGREGATIONS),
    corrections=st.sampled_from(CORRECTIONS),
    normalise_weights=st.booleans(),
    entropy_bonus=st.sampled_from([0.0, 0.01]),
    kl=st.sampled_from(KLS),
)


@given(steps(on_policy=True), st.sampled_from(LIKE_REINFORCE), st.sampled_from(AGGREGATIONS))
def test_ratio_one_is_reinforce(batch, objective, aggregation):
    _, expected = gradient(LossConfig(aggregation=aggregation), batch)
    _, found = gradient(LossConfig(objective=objective, aggregation=aggregation), batch)
    torch.testing.assert_close(found, expected)


@given(steps(on_policy=True), st.sampled_from(CORRECTIONS[1:10]), st.sampled_from(AGGREGATIONS))
def test_corrections_do_nothing_where_sampler_and_learner_agree(batch, corrections, aggregation):
    plain = gradient(LossConfig(objective=PPOClipLoss(), aggregation=aggregation), batch)
    found = gradient(LossConfig(objective=PPOClipLoss(), aggregation=aggregation, corrections=corrections), batch)
    torch.testing.assert_close(found, plain)


@given(steps(on_policy=True))
def test_luspo_is_gspo_summed(batch):
    found = gradient(LossConfig(objective=LUSPOLoss(), aggregation=SequenceMeanTokenMean()), batch)
    torch.testing.assert_close(found, gradient(LossConfig(objective=GSPOLoss(), aggregation=SequenceMeanTokenSum()), batch))


@given(steps(), configs, st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e9]))
def test_masked_columns_are_never_read(batch, config, junk):
    loss, pull = gradient(config, batch)
    padded_loss, padded_pull = gradient(config, padded(batch, junk))
    torch.testing.assert_close(padded_loss, loss)
    torch.testing.assert_close(padded_pull, torch.cat([pull, torch.zeros(3, dtype=torch.float64)]))
    plain, masked = config.build()(batch), config.build()(padded(batch, junk))
    assert {k: v.item() for k, v in masked.sums.items()} == pytest.approx({k: v.item() for k, v in plain.sums.items()})


@given(steps(), configs, st.data())
def test_parts_of_its_scope_add_up(batch, config, data):
    """Any tokens for a loss of tokens, whole sequences for a loss of sequences."""
    if config.scope == "step":
        config = LossConfig(aggregation=config.aggregation)
    loss, pull = gradient(config, batch)
    units = batch.logp_theta_N.numel() if config.scope == "token" else batch.totals.tokens_S.numel()
    owner = tensor(data.draw(st.lists(st.integers(0, 2), min_size=units, max_size=units)))
    owner = owner if config.scope == "token" else owner[batch.sequence_N]
    total, pieces = 0.0, torch.zeros_like(pull)
    for part in range(3):
        part_loss, part_pull = gradient(config, rows(batch, owner == part))
        total += part_loss.item()
        pieces[owner == part] = part_pull
    assert total == pytest.approx(loss.item(), abs=1e-9)
    torch.testing.assert_close(pieces, pull)


@given(steps(), configs, st.data())
def test_pulls_of_any_parts_are_the_gradient_of_the_step(batch, config, data):
    if isinstance(config.kl, KLInReward):  # the order of tokens counts
        config = LossConfig(objective=config.objective, aggregation=config.aggregation, corrections=config.corrections)
    n = batch.logp_theta_N.numel()
    owner = tensor(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    # Ties are resolved by position, so the whole is the parts in their order.
    order = torch.cat([torch.nonzero(owner == part)[:, 0] for part in range(3)])
    loss, pull = gradient(config, rows(batch, order))
    whole = evaluate_whole(config.build(), [rows(batch, owner == part) for part in range(3)])
    torch.testing.assert_close(whole.output.loss, loss)
    torch.testing.assert_close(torch.cat([p.logp_K for p in whole.pulls]), pull)


@given(steps(), st.sampled_from(OBJECTIVES), st.sampled_from(CORRECTIONS[:10]), st.randoms(use_true_random=False))
def test_order_does_not_matter(batch, objective, corrections, random):
    if isinstance(objective, M2POLoss | ClipCovLoss | KLCovLoss):  # of equal tokens the place decides
        objective = PPOClipLoss()
    config = LossConfig(objective=objective, corrections=corrections)
    order = list(range(batch.logp_theta_N.numel()))
    random.shuffle(order)
    loss, pull = gradient(config, batch)
    shuffled_loss, shuffled_pull = gradient(config, rows(batch, tensor(order)))
    torch.testing.assert_close(shuffled_loss, loss)
    torch.testing.assert_close(shuffled_pull, pull[tensor(order)])


@given(steps(), configs)
def test_a_fully_masked_sequence_changes_nothing(batch, config):
    """Its tokens hold NaN, and its id is one nobody else has."""
    more = padded(batch, float("nan"))
    count = batch.totals.tokens_S.numel()
    n = batch.logp_theta_N.numel()
    sequence = torch.cat([more.sequence_N[:n], torch.full((3,), count)])
    totals = batch.totals._replace(tokens_S=torch.cat([batch.totals.tokens_S, torch.zeros(1, dtype=torch.int64)]))
    loss, pull = gradient(config, batch)
    found_loss, found_pull = gradient(config, more._replace(sequence_N=sequence, totals=totals))
    torch.testing.assert_close(found_loss, loss)
    torch.testing.assert_close(found_pull[:n], pull)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("corrections", CORRECTIONS)
def test_nothing_trained_gives_zero(objective, corrections):
    for aggregation in AGGREGATIONS:
        config = LossConfig(objective=objective, corrections=corrections, aggregation=aggregation, normalise_weights=True)
        none = inputs([], advantages=[], entropy_N=f64([]))
        loss, pull = gradient(config, none)
        assert loss.item() == 0 and pull.numel() == 0


def far(objective, constant):
    """A step of three sequences away from every bound, with one advantage per sequence where `constant`."""
    generator = torch.Generator().manual_seed(5)
    theta = -torch.rand(12, generator=generator, dtype=torch.float64) - 0.2
    old = (theta + 0.3 * torch.randn(12, generator=generator, dtype=torch.float64)).tolist()
    infer = (theta + 0.3 * torch.randn(12, generator=generator, dtype=torch.float64)).tolist()
    sequence = [0] * 4 + [1] * 3 + [2] * 5
    own = torch.randn(12, generator=generator, dtype=torch.float64).tolist()
    advantages = [(1.3, -0.8, 0.5)[s] for s in sequence] if constant else own
    return theta, {"old": old, "infer": infer, "advantages": advantages, "sequence": sequence}


@pytest.mark.parametrize(
    "objective",
    [
        ReinforceLoss(),
        PPOClipLoss(dual=3.0),
        TwoSidedLoss(),
        SAPOLoss(),
        DPPOLoss(),
        SymmetricTVLoss(delta=0.3),
        DROLoss(beta=0.3),
        DecoupledPPOLoss(),
        M2POLoss(tau=0.05),
        GSPOLoss(eps_low=0.2, eps_high=0.3),
        GMPOLoss(clip=0.25),
        LUSPOLoss(eps_low=0.2, eps_high=0.3),
    ],
)
def test_finite_differences(objective):
    constant = isinstance(objective, GSPOLoss | GMPOLoss | LUSPOLoss)
    theta, streams = far(objective, constant)
    config = LossConfig(objective=objective, aggregation=SequenceMeanTokenMean())

    def loss(x):
        return config.build()(inputs(x, **streams)).loss

    assert torch.autograd.gradcheck(loss, theta.requires_grad_(), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("objective", [CISPOLoss(), DISLoss(), VESPOLoss(), DPPOLoss(form="detached", kappa=0.0)])
def test_gradient_is_that_of_the_frozen_weight(objective):
    """-w A log pi with w frozen has the derivative loss / log pi."""
    theta, streams = far(objective, constant=False)
    leaf = theta.requires_grad_()
    terms = objective.terms(inputs(leaf, **streams))
    (pull,) = torch.autograd.grad(terms.loss_N.sum(), leaf)
    torch.testing.assert_close(pull, (terms.loss_N / leaf).detach())


@pytest.mark.parametrize("corrections", CORRECTIONS[1:10])
def test_corrections_carry_no_gradient(corrections):
    """Under a fixed weight REINFORCE is linear in log pi, so its gradient is loss / log pi summed."""
    theta, streams = far(None, constant=False)
    case = inputs(theta.requires_grad_(), **streams)
    loss = LossConfig(corrections=tuple(c for c in corrections)).build()(case).loss
    (pull,) = torch.autograd.grad(loss, theta)
    assert (pull * theta.detach()).sum().item() == pytest.approx(loss.item())
