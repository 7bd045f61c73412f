"""Cross-entropy on the environment's answers: a stream of its own beside the policy gradient."""

import asyncio

import msgspec
import pytest
import torch
from sampled_groups import full_logp, make_decoder, make_group

from phronesis.credit import GroupStandard, TrajectoryCredit
from phronesis.errors import ConfigError
from phronesis.losses import GSPOLoss, LossConfig, SequenceMeanTurnMean, TurnMeanTokenMean
from phronesis.train.batching import BatchConfig, build_batch
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.packed import pack
from phronesis.train.splitting import minibatches, split


@pytest.fixture
def groups(decoder):
    return [make_group(decoder, i) for i in range(3)]


def build(groups, observations=True):
    rule = TrajectoryCredit(baseline=GroupStandard())
    return build_batch(groups, [asyncio.run(rule.assign(g)) for g in groups], BatchConfig(observations=observations))


def followed(decoder, batch, **settings):
    learner = Learner(decoder, LearnerConfig(optimizer=AdamWConfig(lr=1e-30), max_grad_norm=None, **settings))
    caught = {}

    def catch(scale=1.0):
        caught.update({n: p.grad.clone() for n, p in decoder.named_parameters()})

    learner.stepper.step = catch
    return learner.update(batch), caught


def answers(decoder, groups, batch):
    """Negative log-probabilities of the environment's tokens of the episodes that are in the batch."""
    found = []
    for episode in (e for g in groups for e in g.episodes if e.id in batch.episodes):
        ids, places = [], []
        for k, turn in enumerate(episode.turns):
            if k:
                places += range(len(ids), len(ids) + len(turn.context))
            ids += [*turn.context, *turn.completion]
        logp = full_logp(decoder, ids)
        found += [-logp[p - 1].item() for p in places]
    return found


def test_the_stream_is_the_mean_over_the_environments_tokens(decoder, groups):
    batch = build(groups)
    expected = answers(decoder, groups, batch)
    assert batch.total_observed == len(expected) > 5
    plain, _ = followed(decoder, build(groups, observations=False))
    for max_tokens in (10**6, 40):
        found, _ = followed(decoder, batch, loss=LossConfig(observations=0.1), max_tokens=max_tokens)
        assert found.shares["observation_loss"] == pytest.approx(sum(expected) / len(expected), rel=1e-5)
        assert found.loss == pytest.approx(plain.loss + 0.1 * sum(expected) / len(expected), abs=1e-5)
        assert found.mismatch_max < 1e-4 and found.tokens == plain.tokens


def test_without_a_weight_nothing_changes(decoder, groups):
    plain, expected = followed(decoder, build(groups, observations=False))
    found, gradients = followed(decoder, build(groups))
    assert found.loss == pytest.approx(plain.loss, abs=1e-6) and found.kl_k1 == plain.kl_k1 == 0
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_parts_add_up_also_where_the_loss_needs_whole_sequences(decoder, groups):
    loss = LossConfig(objective=GSPOLoss(), observations=0.5)
    whole, expected = followed(decoder, build(groups), loss=loss)
    parts, gradients = followed(decoder, build(groups), loss=loss, max_tokens=40)
    assert parts.loss == pytest.approx(whole.loss, abs=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_every_token_is_observed_in_one_part(groups):
    batch = build(groups)
    assert sum(sum(s.observed) for p in split(batch, 40) for s in p.segments) == batch.total_observed
    steps = minibatches(batch, 3, 0)
    assert sum(p.total_observed for p in steps) == batch.total_observed
    packed = pack(batch)
    assert int(packed.observed_K.sum()) == batch.total_observed == packed.totals.observed
    assert pack(build(groups, observations=False)).observed_K is None


def test_a_negative_weight_is_refused():
    with pytest.raises(ConfigError, match="observations"):
        LossConfig(observations=-0.1)


@pytest.mark.parametrize("rule", [TurnMeanTokenMean(), SequenceMeanTurnMean()])
@pytest.mark.parametrize("max_tokens", [16384, 40])
def test_observed_tokens_belong_to_no_turn(rule, max_tokens):
    """Whatever episode comes first: what is observed changes no mean over turns."""
    decoder = make_decoder()
    groups = [make_group(decoder, i) for i in range(3)]
    groups = [msgspec.structs.replace(g, episodes=g.episodes[::-1]) for g in groups]
    credits = [asyncio.run(TrajectoryCredit().assign(g)) for g in groups]
    losses = []
    for seen in (False, True):
        config = LearnerConfig(max_tokens=max_tokens, loss=LossConfig(aggregation=rule))
        batch = build_batch(groups, credits, BatchConfig(observations=seen))
        losses.append(Learner(make_decoder(), config).update(batch).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
