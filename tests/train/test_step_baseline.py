"""What an optimiser step says of its sequences: VCPO's baseline of least variance, and the ratio of perplexities."""

import asyncio

import msgspec
import pytest
import torch
from sampled_groups import make_decoder, make_group

from phronesis.credit import GroupMean, NoBaseline, TrajectoryCredit
from phronesis.losses import LossConfig, TokenTIS
from phronesis.train.batching import BatchConfig, build_batch
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.measures import update_metrics
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.packed import pack
from phronesis.train.scoring import score
from phronesis.train.splitting import split
from phronesis.train.step_size import moved, variance_baseline
from phronesis.train.variance import centred, squared_norms


def step(decoder, baseline=None, **settings):
    groups = [make_group(decoder, i) for i in range(2)]
    rule = TrajectoryCredit(baseline=baseline or NoBaseline())
    credits = [asyncio.run(rule.assign(g)) for g in groups]
    return build_batch(groups, credits, BatchConfig(drop_silent=False, **settings))


def parameters(decoder):
    return list(decoder.parameters())


def of_another_policy(batch, by):
    """As a sampler `by` nats surer of every token would have recorded it."""
    segments = [
        msgspec.structs.replace(s, logprobs=tuple(p + by if m else p for p, m in zip(s.logprobs, s.mask, strict=True)))
        for s in batch.segments
    ]
    return msgspec.structs.replace(batch, segments=tuple(segments))


def rewards_of(packed, sequences):
    return [float(packed.advantages_K[packed.sequence_K == s].mean()) for s in range(sequences)]


def test_the_norms_are_those_of_one_sequence_at_a_time(decoder):
    packed = pack(step(decoder))
    found_S = squared_norms(score(decoder, packed).logp_K, packed, parameters(decoder))
    assert len(found_S) > 3
    for s, found in enumerate(found_S.tolist()):
        decoder.zero_grad()
        score(decoder, packed).logp_K[packed.sequence_K == s].sum().backward()
        assert found == pytest.approx(sum(float(p.grad.square().sum()) for p in decoder.parameters()), rel=1e-4)
    decoder.zero_grad()


def test_the_baseline_makes_the_gradient_vary_least(decoder):
    """No other constant gives a smaller sum of w² g² (R - b)²; the credit is the reward minus it, on sampled tokens alone."""
    batch = of_another_policy(step(decoder), 0.05)
    packed = pack(batch)
    parts, baseline = centred(decoder, [packed], parameters(decoder))
    with torch.no_grad():
        weights_S = moved(score(decoder, packed).logp_K, packed).exp()
    squares_S = squared_norms(score(decoder, packed).logp_K, packed, parameters(decoder))
    rewards_S = torch.tensor(rewards_of(packed, len(batch.episodes)))
    assert baseline == pytest.approx(float(variance_baseline(weights_S, squares_S, rewards_S)), rel=1e-4)
    assert float(rewards_S.std()) > 0 and baseline != pytest.approx(float(rewards_S.mean()), abs=1e-4)

    def variance(b):
        return float((weights_S.square() * squares_S * (rewards_S - b).square()).sum())

    assert all(variance(baseline) < variance(baseline + d) for d in (-0.05, -0.01, 0.01, 0.05))
    assert parts[0].advantages_K == pytest.approx(packed.advantages_K - baseline)


def test_equal_rewards_leave_nothing(decoder):
    packed = pack(step(decoder))
    same = packed._replace(advantages_K=torch.full_like(packed.advantages_K, 0.75))
    parts, baseline = centred(decoder, [same], parameters(decoder))
    assert baseline == pytest.approx(0.75) and float(parts[0].advantages_K.abs().max()) < 1e-6


def test_micro_batches_give_the_same_baseline(decoder):
    batch = step(decoder)
    _, whole = centred(decoder, [pack(batch)], parameters(decoder))
    cut = [pack(part) for part in split(batch, 40)]
    assert len(cut) > 1
    parts, found = centred(decoder, cut, parameters(decoder))
    assert found == pytest.approx(whole, rel=1e-4)
    for before, after in zip(cut, parts, strict=True):
        assert after.advantages_K == pytest.approx(before.advantages_K - found)


def test_observed_tokens_have_no_baseline(decoder):
    packed = pack(step(decoder, observations=True))
    assert packed.sampled_K is not None and not packed.sampled_K.all()
    (part,), baseline = centred(decoder, [packed], parameters(decoder))
    assert baseline and not part.advantages_K[~packed.sampled_K].any()


def test_a_learner_that_takes_the_baseline(decoder):
    """Its update is that of a batch whose credit had the baseline taken before; the number is a metric."""
    batch = step(decoder)
    _, baseline = centred(decoder, [pack(batch)], parameters(decoder))
    taken = tuple(
        msgspec.structs.replace(
            s, advantages=tuple(a - baseline if m else a for a, m in zip(s.advantages, s.mask, strict=True))
        )
        for s in batch.segments
    )
    found = []
    for settings, learned in (({"baseline": "variance"}, batch), ({}, msgspec.structs.replace(batch, segments=taken))):
        learner = Learner(make_decoder(), LearnerConfig(optimizer=AdamWConfig(lr=1e-3), **settings))
        learner.decoder.load_state_dict(decoder.state_dict())
        metrics = update_metrics(learner.update(learned))
        found.append(
            (metrics.get("update/baseline"), metrics["update/loss"], [p.clone() for p in learner.decoder.parameters()])
        )
    (told, loss, weights), (nothing, same_loss, same_weights) = found
    assert told == pytest.approx(baseline) and nothing is None and loss == pytest.approx(same_loss, abs=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights, same_weights, strict=True))


@pytest.mark.parametrize("max_tokens", [10**6, 40])
def test_the_ratio_of_perplexities(decoder, max_tokens):
    """A sampler that was .05 nats surer of every token has a perplexity smaller by that factor, in every sequence."""
    batch = of_another_policy(step(decoder, GroupMean()), 0.05)
    loss = LossConfig(corrections=(TokenTIS(),))
    learner = Learner(decoder, LearnerConfig(loss=loss, mismatch_error=9.0, mismatch_warn=8.0, max_tokens=max_tokens))
    update = learner.update(batch)
    assert update.perplexity_ratio == pytest.approx(2.718281828**0.05, rel=1e-4)
    assert update_metrics(update)["mismatch/perplexity_ratio"] == update.perplexity_ratio
