"""Losses that look beyond a micro-batch, frozen references and moving coefficients, as the learner runs them."""

import asyncio
from math import sin

import msgspec
import pytest
import torch
from sampled_groups import full_logp, make_decoder, make_group

from phronesis.credit import GroupStandard, TrajectoryCredit
from phronesis.errors import ConfigError
from phronesis.losses import (
    EntropyTarget,
    GSPOLoss,
    K3Reject,
    KLInLoss,
    KLInReward,
    KLTarget,
    LossConfig,
    M2POLoss,
    PPOClipLoss,
    SequenceMeanTokenMean,
    SequenceMeanTraceMean,
    TokenMIS,
    TopEntropy,
    TurnMeanTokenMean,
    VESPOLoss,
)
from phronesis.records import Batch, Segment
from phronesis.train import checkpoint
from phronesis.train.batching import build_batch
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.measures import update_metrics
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.packed import pack
from phronesis.train.pulls import needs_whole
from phronesis.train.scoring import score
from phronesis.train.splitting import split
from phronesis.train.step_size import effective_size


@pytest.fixture
def batch(decoder):
    groups = [make_group(decoder, i) for i in range(3)]
    rule = TrajectoryCredit(baseline=GroupStandard())
    return build_batch(groups, [asyncio.run(rule.assign(g)) for g in groups])


def shifted(batch, by=0.5):
    """The batch as another policy might have sampled it: recorded log-probabilities moved up and down."""
    count = 0

    def moved(s):
        nonlocal count
        row = []
        for p, m in zip(s.logprobs, s.mask, strict=True):
            count += m
            row.append(p + by * sin(1.7 * count) if m else p)
        return msgspec.structs.replace(s, logprobs=tuple(row))

    return msgspec.structs.replace(batch, segments=tuple(moved(s) for s in batch.segments))


def followed(decoder, batch, **settings):
    """Metrics, and the gradients an update would follow, by parameter name."""
    learner = Learner(
        decoder, LearnerConfig(optimizer=AdamWConfig(lr=1e-30), max_grad_norm=None, mismatch_error=9.0, **settings)
    )
    caught = {}

    def catch(scale=1.0):
        caught.update({n: p.grad.clone() for n, p in decoder.named_parameters()})

    learner.stepper.step = catch
    return learner.update(batch), caught


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(objective=GSPOLoss(eps_low=0.2, eps_high=0.3), aggregation=SequenceMeanTokenMean()),
        LossConfig(objective=VESPOLoss()),
        LossConfig(objective=M2POLoss(tau=0.3)),
        LossConfig(objective=PPOClipLoss(), corrections=(TokenMIS(low=0.6, high=1.5, reject=True), K3Reject(threshold=0.2))),
        LossConfig(objective=PPOClipLoss(), corrections=(TopEntropy(share=0.3),), aggregation=TurnMeanTokenMean()),
        LossConfig(kl=KLInReward(coef=0.1), entropy_bonus=0.01, corrections=(TokenMIS(),), normalise_weights=True),
    ],
)
def test_micro_batches_follow_the_gradient_of_the_step(decoder, batch, loss):
    old = shifted(batch)
    whole, expected = followed(decoder, old, loss=loss, old="sampler", entropy=True)
    parts, found = followed(decoder, old, loss=loss, old="sampler", entropy=True, max_tokens=40)
    assert len(split(old, 40)) > 2 and parts.computed_tokens >= whole.computed_tokens
    assert parts.loss == pytest.approx(whole.loss, abs=1e-5)
    assert parts.shares == pytest.approx(whole.shares, abs=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def forked():
    """One episode of two branches with a shared beginning, and a plain one."""

    def segment(parent, n, episode, turn):
        mask = (parent is not None,) * n
        rows = {"mask": mask, "logprobs": tuple(-4.0 * m for m in mask), "advantages": tuple(1.0 * m for m in mask)}
        turns = tuple(turn if m else -1 for m in mask)
        return Segment(parent=parent, ids=tuple(range(3, 3 + n)), turns=turns, episode=episode, **rows)

    segments = (segment(None, 4, -1, 0), segment(0, 3, 0, 0), segment(1, 5, 0, 1), segment(1, 4, 0, 2), segment(0, 6, 1, 0))
    return Batch(
        segments=segments,
        episodes=("a", "b"),
        sequence_tokens=(12, 6),
        total_tokens=18,
        total_sequences=2,
        total_turns=4,
    )


def test_an_episode_cut_in_two_is_still_one_sequence(decoder):
    batch = forked()
    parts = [pack(part) for part in split(batch, 12)]
    assert len(parts) > 1 and needs_whole("sequence", parts) and not needs_whole("token", parts)
    loss = LossConfig(objective=GSPOLoss(eps_low=0.9, eps_high=9.0), aggregation=SequenceMeanTokenMean())
    whole, expected = followed(decoder, batch, loss=loss, old="sampler")
    found, gradients = followed(decoder, batch, loss=loss, old="sampler", max_tokens=12)
    assert found.loss == pytest.approx(whole.loss, abs=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_whole_sequences_need_no_second_pass(batch):
    parts = [pack(part) for part in split(batch, 40)]
    assert len(parts) > 1 and not needs_whole("sequence", parts) and needs_whole("step", parts)


def test_turns_and_contexts_are_counted(batch):
    packed = pack(batch)
    pairs = set(zip(packed.sequence_K.tolist(), packed.turn_K.tolist(), strict=True))
    assert packed.totals.turns == len(pairs)
    assert set(packed.trace_K.tolist()) == {0}


def test_contexts_of_a_rebuilt_episode_weigh_the_same(decoder):
    """Two roots of one episode, 2 and 4 tokens: each context's mean counts half."""

    def root(parent, trace, n, mask):
        zeros = (0.0,) * n
        turns = tuple(trace if m else -1 for m in (mask,) * n)
        ids = tuple(range(5, 5 + n))
        return Segment(
            parent=parent, ids=ids, mask=(mask,) * n, logprobs=zeros, advantages=zeros, turns=turns, episode=0, trace=trace
        )

    segments = (root(None, 0, 3, False), root(0, 0, 2, True), root(None, 1, 3, False), root(2, 1, 4, True))
    batch = Batch(segments=segments, episodes=("a",), sequence_tokens=(6,), total_tokens=6, total_sequences=1, total_turns=2)
    packed = pack(batch)
    inputs = packed.inputs(packed.logp_infer_K, packed.logp_infer_K)
    assert SequenceMeanTraceMean().weights(inputs).tolist() == pytest.approx([1 / 4] * 2 + [1 / 8] * 4)


def test_the_reference_stays_and_comes_back_with_a_checkpoint(decoder, batch):
    config = LearnerConfig(loss=LossConfig(kl=KLInLoss(coef=0.1)), optimizer=AdamWConfig(lr=1e-2), epochs=2)
    before = {n: p.clone() for n, p in decoder.named_parameters()}
    learner = Learner(decoder, config)
    first = learner.update(batch)
    assert first.shares["ref_kl"] > 0  # the second pass has moved away
    for name, p in learner.reference.named_parameters():
        torch.testing.assert_close(p, before[name], rtol=0, atol=0)
        assert not p.requires_grad
    again = Learner(decoder, config)
    assert any(not torch.equal(p, before[n]) for n, p in again.reference.named_parameters())
    again.restore(learner.state())
    for name, p in again.reference.named_parameters():
        torch.testing.assert_close(p, before[name], rtol=0, atol=0)
    assert "reference" not in Learner(decoder, LearnerConfig()).state()
    with pytest.raises(ConfigError, match="without a reference"):
        again.restore(Learner(decoder, LearnerConfig()).state())


def test_reference_scores_are_those_of_the_frozen_weights(decoder, batch):
    reference = make_decoder(seed=9)
    learner = Learner(decoder, LearnerConfig(loss=LossConfig(kl=KLInLoss(coef=1.0, estimator="k3")), mismatch_error=9.0))
    learner.reference.load_state_dict(reference.state_dict())
    packed = pack(batch)
    with torch.no_grad():
        gap = score(reference, packed).logp_K - score(decoder, packed).logp_K
    assert learner.update(batch).shares["ref_kl"] == pytest.approx((gap.exp() - 1 - gap).mean().item(), rel=1e-4)
    assert full_logp(reference, [1, 2, 3]).shape == (2,)


def test_coefficients_move_and_come_back(decoder, batch):
    loss = LossConfig(
        kl=KLInLoss(coef=0.1, adaptive=KLTarget(target=1e3, horizon=10.0)),
        entropy_bonus=0.01,
        entropy_target=EntropyTarget(target=100.0, step=0.002),
    )
    config = LearnerConfig(loss=loss, entropy=True)
    learner = Learner(decoder, config)
    start = learner.controller.coefficients
    assert (start.kl, start.entropy) == (0.1, 0.0)
    learner.update(batch)
    after = learner.controller.coefficients
    assert after.kl == pytest.approx(0.1 * (1 - 0.2 * batch.total_sequences / 10)) and after.entropy == pytest.approx(0.012)
    again = Learner(decoder, config)
    again.restore(learner.state())
    assert again.controller.coefficients == after


def test_step_size_follows_the_effective_number_of_sequences(decoder, batch):
    old = shifted(batch)
    packed = pack(old)
    with torch.no_grad():
        moved = score(decoder, packed).logp_K - packed.logp_infer_K
    sums = torch.zeros(len(old.episodes)).index_add(0, packed.sequence_K, moved)
    share = effective_size(sums.exp()).item() / len(old.episodes)
    assert 0.1 < share < 0.999
    for max_tokens in (10**6, 40):
        learner = Learner(make_decoder(), LearnerConfig(step_size="effective", mismatch_error=9.0, max_tokens=max_tokens))
        learner.decoder.load_state_dict(decoder.state_dict())
        assert learner.update(old).lr == pytest.approx(3e-4 * share**0.5, rel=1e-4)


def test_a_loss_that_reads_entropy_needs_it():
    with pytest.raises(ConfigError, match="entropy = true"):
        LearnerConfig(loss=LossConfig(corrections=(TopEntropy(),)))


def test_what_corrections_did_is_a_metric(decoder, batch):
    loss = LossConfig(corrections=(TokenMIS(low=0.7, high=1.4), K3Reject(threshold=0.05)), kl=KLInLoss(coef=0.1))
    done, _ = followed(decoder, shifted(batch), loss=loss)
    found = update_metrics(done)
    assert (
        0
        < found["update/left_out_share"]
        == pytest.approx(min(1.0, done.shares["zeroed_mis"] + done.shares["rejected_k3_reject"]))
    )
    assert found["update/weight"] == pytest.approx(done.shares["weight"]) and found["update/ref_kl"] == 0.0
    assert "update/weight" not in update_metrics(followed(decoder, batch)[0])


def test_a_checkpoint_file_holds_reference_and_coefficients(decoder, batch, tmp_path):
    loss = LossConfig(kl=KLInLoss(coef=0.1, adaptive=KLTarget(target=1e3, horizon=10.0)))
    config = LearnerConfig(loss=loss, optimizer=AdamWConfig(lr=1e-3), mismatch_error=99.0)
    learner = Learner(decoder, config)
    learner.update(batch)
    path = checkpoint.save(tmp_path, decoder, learner, checkpoint.Manifest(step=1))
    loaded = checkpoint.load(path)
    again = Learner(loaded.decoder, config)
    again.restore(loaded.learner)
    assert again.update(batch).shares["ref_kl"] == learner.update(batch).shares["ref_kl"] > 0
    for (name, a), (_, b) in zip(loaded.decoder.named_parameters(), decoder.named_parameters(), strict=True):
        assert torch.equal(a, b), name
