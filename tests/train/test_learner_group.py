"""A learner held by two processes is the learner of one: gradients, weights, metrics, states, and what stops it."""

import logging
from copy import deepcopy

import group_fixtures as fixtures
import msgspec
import pytest
import torch
from group_fixtures import NO_MEMORY, distance, equal_trees, grouped, replace
from sampled_groups import make_decoder
from test_learner import make_batch

from phronesis.errors import ConfigError, MismatchError, RankFailed
from phronesis.losses import (
    GSPOLoss,
    KLInLoss,
    LossConfig,
    M2POLoss,
    PPOClipLoss,
    SequenceMeanTokenMean,
    SequenceTIS,
)
from phronesis.models.generic import GenericModel
from phronesis.train.batching import BatchConfig
from phronesis.train.group.config import LearnerGroupConfig
from phronesis.train.group.learner import GroupLearner
from phronesis.train.group.wire import Updated
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig, Linear, MuonConfig

METHODS = ("ddp", "fsdp")


@pytest.fixture(scope="module")
def processes():
    """Two processes for all tests here."""
    found = fixtures.started()
    yield found
    found.close()


LOSSES = {
    "reinforce": {},
    "packed in many parts": {"max_tokens": 40},
    "recomputed": {"checkpointing": True},
    "means of sequences": {"loss": LossConfig(aggregation=SequenceMeanTokenMean())},
    "clipped": {"max_grad_norm": 0.01},
    "entropy and reference": {"loss": LossConfig(entropy_bonus=0.01, kl=KLInLoss(coef=0.1)), "entropy": True},
    "whole sequences, cut": {"loss": LossConfig(objective=GSPOLoss()), "max_tokens": 20},
    "whole step": {"loss": LossConfig(corrections=(SequenceTIS(),), normalise_weights=True)},
    "whole step of an objective": {"loss": LossConfig(objective=M2POLoss())},
    "effective step": {"step_size": "effective", "old": "sampler"},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_of_one_process(processes, method, name):
    """Each tensor of the gradient is within 1e-5 of its norm; so are the metrics that have a scale."""
    config = LearnerConfig(optimizer=NO_MEMORY, **LOSSES[name])
    alone, shared = make_decoder(), make_decoder()
    batch = make_batch(alone, n=4)
    one, two = Learner(alone, config), grouped(processes, shared, config, method)
    mine, theirs = one.update(batch), two.update(batch)
    assert distance(fixtures.gradients(two, shared), fixtures.gradients(one, alone)) < 1e-5
    assert theirs.loss == pytest.approx(mine.loss, rel=1e-5, abs=1e-6)
    assert theirs.grad_norm == pytest.approx(mine.grad_norm, rel=1e-5)
    assert theirs.lr == pytest.approx(mine.lr, rel=1e-5)
    assert (theirs.tokens, theirs.steps, theirs.mismatch_tokens) == (mine.tokens, mine.steps, mine.mismatch_tokens)
    assert theirs.perplexity_ratio == pytest.approx(mine.perplexity_ratio, rel=1e-5)
    assert theirs.shares == pytest.approx(mine.shares, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_process_with_nothing_to_do(processes, method):
    """One trajectory cannot be shared: the other process passes an empty micro-batch and adds zeros."""
    config = LearnerConfig(optimizer=NO_MEMORY)
    alone, shared = make_decoder(), make_decoder()
    batch = make_batch(alone, n=1, size=2)
    lonely = replace(
        batch, segments=(replace(batch.segments[0], parent=None), *batch.segments[1:2]), sequence_tokens=batch.sequence_tokens
    )
    assert len(lonely.segments) == 2 and lonely.trained_tokens
    one, two = Learner(alone, config), grouped(processes, shared, config, method)
    one.update(lonely)
    assert two.update(lonely).computed_tokens == lonely.tokens + 1
    assert distance(fixtures.gradients(two, shared), fixtures.gradients(one, alone)) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_observed_tokens_are_shared_too(processes, method):
    config = LearnerConfig(optimizer=NO_MEMORY, loss=LossConfig(observations=0.1))
    alone, shared = make_decoder(), make_decoder()
    batch = make_batch(alone, config=BatchConfig(observations=True))
    assert batch.total_observed
    one, two = Learner(alone, config), grouped(processes, shared, config, method)
    one.update(batch)
    two.update(batch)
    assert distance(fixtures.gradients(two, shared), fixtures.gradients(one, alone)) < 1e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", [AdamWConfig(lr=1e-3, weight_decay=0.1), MuonConfig(lr=0.01, weight_decay=0.01)])
def test_weights_after_many_steps(processes, method, optimizer):
    """Three updates of two passes over two mini-batches each; the weights come back whole to the run's own decoder."""
    config = LearnerConfig(
        optimizer=optimizer, schedule=Linear(steps=20), epochs=2, minibatches=2, loss=LossConfig(objective=PPOClipLoss()),
        mismatch_error=100.0, mismatch_warn=100.0,
    )  # fmt: skip
    alone, shared = make_decoder(), make_decoder()
    batch = make_batch(alone, n=4)
    one, two = Learner(alone, config), grouped(processes, shared, config, method)
    for _ in range(3):
        mine, theirs = one.update(batch), two.update(batch)
        assert theirs.kl_k3 == pytest.approx(mine.kl_k3, rel=1e-3, abs=1e-7)
        assert theirs.clip_share == pytest.approx(mine.clip_share, abs=0.02)
    before, after = dict(make_decoder().named_parameters()), dict(shared.named_parameters())
    moved = max(float((after[n] - before[n]).detach().abs().max()) for n in after)
    gap = max(float((after[n] - p).detach().abs().max()) for n, p in alone.named_parameters())
    assert moved > 5e-3 and gap < 2e-3 * moved, (moved, gap)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", [AdamWConfig(lr=1e-3), MuonConfig(lr=0.01)])
def test_saved_on_two_resumed_on_one_and_back(processes, method, optimizer):
    """The state of a group is the state of one process to the bit, whoever continues; and learning goes on from there."""
    config = LearnerConfig(
        optimizer=optimizer, loss=LossConfig(kl=KLInLoss(coef=0.1)), mismatch_error=100.0, mismatch_warn=100.0
    )
    decoder = make_decoder()
    batch = make_batch(decoder, n=4)
    group = grouped(processes, decoder, config, method)
    group.update(batch)
    saved, weights = group.state(), {n: p.clone() for n, p in decoder.state_dict().items()}

    alone = make_decoder(seed=1)
    alone.load_state_dict(weights)
    one = Learner(alone, config)
    one.restore(deepcopy(saved))  # an optimiser goes on in the tensors it is given
    equal_trees(one.state(), saved)
    one.update(batch)

    again = make_decoder(seed=1)
    again.load_state_dict(weights)
    two = grouped(processes, again, config, "fsdp" if method == "ddp" else "ddp")
    two.restore(saved)
    equal_trees(two.state(), saved)
    two.update(replace(batch, segments=()))
    resumed = two.state()
    equal_trees(resumed["stepper"], saved["stepper"])
    equal_trees(resumed["reference"], saved["reference"])

    third = make_decoder(seed=1)
    third.load_state_dict(weights)
    three = grouped(processes, third, config, method)
    three.restore(saved)
    three.update(batch)
    for name, p in third.named_parameters():
        torch.testing.assert_close(p, dict(alone.named_parameters())[name], rtol=0, atol=2e-5)


def test_state_of_a_group_that_has_not_started(processes):
    """A run saves step 0 before anything was learned: that is the state of a learner that is new."""
    config = LearnerConfig(loss=LossConfig(kl=KLInLoss(coef=0.1)))
    decoder = make_decoder()
    fresh = GroupLearner(decoder, config, LearnerGroupConfig())
    equal_trees(fresh.state(), Learner(make_decoder(), config).state())
    fresh.close()


def test_an_empty_batch_changes_nothing(processes):
    decoder = make_decoder()
    learner = grouped(processes, decoder, LearnerConfig())
    batch = make_batch(decoder)
    before = {n: p.clone() for n, p in decoder.named_parameters()}
    metrics = learner.update(replace(batch, segments=(), sequence_tokens=(0,) * len(batch.episodes)))
    assert metrics.steps == 0
    assert all(torch.equal(p, before[n]) for n, p in decoder.named_parameters())


def test_warnings_of_the_processes_are_heard(processes, caplog):
    decoder = make_decoder()
    off = replace(make_batch(decoder), segments=tuple(
        replace(s, logprobs=tuple(p + 0.1 if m else p for p, m in zip(s.logprobs, s.mask, strict=True)))
        for s in make_batch(decoder).segments
    ))  # fmt: skip
    with caplog.at_level(logging.WARNING):
        grouped(processes, decoder, LearnerConfig()).update(off)
    assert [r.getMessage() for r in caplog.records] == ["sampler and learner log-probabilities differ by up to 0.1 nats"]


@pytest.mark.parametrize("settings", [{"baseline": "variance"}, {"average": 0.05}])
def test_settings_that_a_group_does_not_do(settings):
    with pytest.raises(ConfigError, match=f"learner.{next(iter(settings))}"):
        GroupLearner(make_decoder(), LearnerConfig(**settings), LearnerGroupConfig())


def test_models_of_the_generic_path_are_refused():
    model = GenericModel.__new__(GenericModel)
    torch.nn.Module.__init__(model)
    model.note = "mixture of experts"
    with pytest.raises(ConfigError, match="mixture of experts"):
        GroupLearner(model, LearnerConfig(), LearnerGroupConfig())


def test_bad_group_settings():
    for settings in ({"ranks": 0}, {"timeout": 0.0}, {"port": 70000}, {"threads": 0}):
        with pytest.raises(ConfigError):
            LearnerGroupConfig(**settings)
    assert LearnerGroupConfig(ranks=1000).threads_each == 1


def test_a_mismatch_stops_the_group_and_changes_nothing():
    """One process alone sees the token that disagrees; the error comes back as what it is, and nobody is left."""
    decoder = make_decoder()
    batch = make_batch(decoder, n=4)
    last = max(i for i, s in enumerate(batch.segments) if any(s.mask))
    wrong = batch.segments[last]
    wrong = replace(wrong, logprobs=tuple(p - 2.0 if m else p for p, m in zip(wrong.logprobs, wrong.mask, strict=True)))
    before = {n: p.clone() for n, p in decoder.named_parameters()}
    learner = GroupLearner(decoder, LearnerConfig(), LearnerGroupConfig(threads=1, timeout=60.0))
    with pytest.raises(MismatchError, match="recomputed and recorded"):
        learner.update(replace(batch, segments=(*batch.segments[:last], wrong, *batch.segments[last + 1 :])))
    assert all(torch.equal(p, before[n]) for n, p in decoder.named_parameters())
    with pytest.raises(RankFailed, match="closed"):
        learner.update(batch)


def test_processes_that_drift_apart_are_noticed():
    """Weights that should be equal to the bit and are not stop the run before it takes them over."""
    decoder = make_decoder()
    metrics = Learner(make_decoder(), LearnerConfig()).update(make_batch(make_decoder()))
    closed = []

    class Drifting:
        shares_memory = False

        def ask(self, name, body=b""):
            return [msgspec.msgpack.encode(Updated(metrics=metrics, total=total)) for total in (1.0, 1.0 + 1e-12)]

        def close(self):
            closed.append(True)

    learner = GroupLearner(decoder, LearnerConfig(), LearnerGroupConfig(), start=lambda _: Drifting())
    with pytest.raises(RankFailed, match="no longer hold the same weights"):
        learner.update(make_batch(decoder))
    assert closed and all(torch.equal(p, q) for p, q in zip(decoder.parameters(), make_decoder().parameters(), strict=True))


def test_metrics_travel_whole():
    """Numbers that are not finite, too."""
    decoder = make_decoder()
    metrics = Learner(decoder, LearnerConfig()).update(make_batch(decoder))
    odd = replace(metrics, loss=float("inf"))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(odd), type=type(odd)) == odd
