"""Supervised learning: the loss it follows, packing, and that it learns to copy."""

import math

import pytest
import torch
from sampled_groups import VOCABULARY, full_logp, make_decoder

from phronesis.errors import ConfigError, TrainingError
from phronesis.losses import DFTLoss, SequenceMeanTokenMean
from phronesis.seeding import rng
from phronesis.train.optimizer import AdamWConfig, Constant, Cosine, Linear
from phronesis.train.supervised import SupervisedConfig, Trace, fit

STILL = AdamWConfig(lr=1e-30)


def make_traces(n, shared=20, seed=0):
    """A common prompt, a question of random length, then two answers with context between them."""
    source = rng(seed, "traces")
    found = []
    for _ in range(n):
        ids, mask = list(range(5, 5 + shared)), [False] * shared
        for marked in (False, True, False, True, False):
            length = source.randrange(1, 6)
            ids += [source.randrange(VOCABULARY) for _ in range(length)]
            mask += [marked] * length
        found.append(Trace(ids=tuple(ids), mask=tuple(mask)))
    return found


def plain_losses(decoder, traces):
    """Per trace, the negative log-likelihood of each target."""
    return [[-p for p, m in zip(full_logp(decoder, t.ids).tolist(), t.mask[1:], strict=True) if m] for t in traces]


@pytest.mark.parametrize("shared", [20, 4, 0])
@pytest.mark.parametrize("micro", [16384, 60, 1])
def test_loss_is_the_plain_cross_entropy(decoder, shared, micro):
    traces = make_traces(7, shared)
    losses = plain_losses(decoder, traces)
    seen = []
    config = SupervisedConfig(optimizer=STILL, batch_tokens=10_000, micro_tokens=micro, max_grad_norm=None)
    fit(decoder, traces, config, lambda step: seen.append(step))
    flat = [x for row in losses for x in row]
    assert [s.loss for s in seen] == [pytest.approx(sum(flat) / len(flat), rel=1e-5)]
    assert seen[0].tokens == len(flat)
    expected = sum(a for t in traces for a in greedy_hits(decoder, t)) / len(flat)
    assert seen[0].accuracy == pytest.approx(expected)


def greedy_hits(decoder, trace):
    return [
        all(full_logp(decoder, (*trace.ids[:i], token))[-1] >= full_logp(decoder, (*trace.ids[:i], other))[-1] - 1e-6
            for other in range(VOCABULARY)) for i, token in enumerate(trace.ids) if trace.mask[i]
    ]  # fmt: skip


def test_sequence_means(decoder):
    traces = make_traces(5)
    losses = plain_losses(decoder, traces)
    config = SupervisedConfig(optimizer=STILL, batch_tokens=10_000, micro_tokens=50, aggregation=SequenceMeanTokenMean())
    summary = fit(decoder, traces, config)
    assert summary.loss == pytest.approx(sum(sum(row) / len(row) for row in losses) / 5, rel=1e-5)


def test_dft_weighs_tokens_by_their_probability(decoder):
    traces = make_traces(5)
    flat = [x for row in plain_losses(decoder, traces) for x in row]
    summary = fit(decoder, traces, SupervisedConfig(optimizer=STILL, batch_tokens=10_000, objective=DFTLoss()))
    assert summary.loss == pytest.approx(sum(math.exp(-x) * x for x in flat) / len(flat), rel=1e-5)


def test_a_common_prompt_is_computed_once_per_step(decoder):
    traces = make_traces(6)
    own = sum(max(i for i, m in enumerate(t.mask) if m) - 20 for t in traces)
    config = SupervisedConfig(optimizer=STILL, batch_tokens=10_000)
    assert fit(decoder, traces, config).computed_tokens == 20 + own
    assert fit(decoder, make_traces(6, 4), config).computed_tokens == 6 * 4 + own


def test_one_gradient_for_any_packing(decoder):
    traces = make_traces(6)
    weights = []
    for micro in (16384, 45):
        model = make_decoder()
        fit(model, traces, SupervisedConfig(optimizer=AdamWConfig(lr=1e-3, eps=1.0), batch_tokens=10_000, micro_tokens=micro))
        weights.append(model)
    for a, b in zip(weights[0].parameters(), weights[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_every_epoch_sees_every_trace_in_a_new_order(decoder):
    traces = make_traces(9)
    seen = []
    config = SupervisedConfig(optimizer=STILL, epochs=2, batch_tokens=60)
    summary = fit(decoder, traces, config, lambda step: seen.append(step))
    targets = sum(sum(t.mask) for t in traces)
    assert summary.steps == len(seen) == seen[0].steps and summary.tokens == 2 * targets
    half = len(seen) // 2
    assert [s.loss for s in seen[:half]] != [s.loss for s in seen[half:]]
    assert all(s.computed_tokens <= 60 for s in seen)
    again = []
    fit(make_decoder(), traces, config, lambda step: again.append(step))
    assert [s.loss for s in again] == [s.loss for s in seen]


def test_a_target_right_after_the_shared_prompt(decoder):
    ids = tuple(range(5, 25))
    traces = [Trace(ids=(*ids, 7), mask=(False,) * 20 + (True,)), Trace(ids=(*ids, 9, 8), mask=(False,) * 20 + (True,) * 2)]
    flat = [x for row in plain_losses(decoder, traces) for x in row]
    assert fit(decoder, traces, SupervisedConfig(optimizer=STILL)).loss == pytest.approx(sum(flat) / 3, rel=1e-5)


def test_it_learns_to_copy():
    source = rng(3, "copy")
    traces = []
    for _ in range(200):
        word = [source.randrange(2, 12) for _ in range(3)]
        traces.append(Trace(ids=(0, *word, 1, *word), mask=(False,) * 5 + (True,) * 3))
    model = make_decoder(layers=2)
    config = SupervisedConfig(epochs=25, batch_tokens=400, optimizer=AdamWConfig(lr=1e-2), warmup=5)
    summary = fit(model, traces, config)
    assert summary.accuracy > 0.9 and summary.loss < 0.4


def test_progress_can_stop(decoder):
    traces = make_traces(9)
    summary = fit(decoder, traces, SupervisedConfig(batch_tokens=60), lambda step: step.step < 2)
    assert summary.steps == 2


def test_max_steps_and_schedule(decoder):
    rates = []
    config = SupervisedConfig(
        batch_tokens=60, epochs=5, max_steps=4, warmup=0, decay="linear", final=0.0, optimizer=AdamWConfig(lr=1.0e-9)
    )
    fit(decoder, make_traces(9), config, lambda s: rates.append(s.lr))
    assert rates == pytest.approx([1e-9, 0.75e-9, 0.5e-9, 0.25e-9])
    assert SupervisedConfig(decay="constant", warmup=2).schedule(9) == Constant(warmup=2)
    assert SupervisedConfig().schedule(9) == Cosine(steps=9, warmup=10, final=0.1)
    assert SupervisedConfig(decay="linear").schedule(9) == Linear(steps=9, warmup=10, final=0.1)


def test_traces_without_targets_are_counted(decoder):
    traces = [*make_traces(3), Trace(ids=(1, 2), mask=(False, False))]
    assert fit(decoder, traces, SupervisedConfig(optimizer=STILL)).left_out == 1
    with pytest.raises(TrainingError, match="none of the 1 traces"):
        fit(decoder, traces[-1:], SupervisedConfig())


@pytest.mark.parametrize("bad", [Trace(ids=(1, 2), mask=(True, True)), Trace(ids=(1, 2), mask=(False,))])
def test_malformed_traces_are_named(decoder, bad):
    with pytest.raises(TrainingError, match="trace 1"):
        fit(decoder, [*make_traces(1), bad], SupervisedConfig())


def test_impossible_settings():
    with pytest.raises(ConfigError, match="batch_tokens"):
        SupervisedConfig(batch_tokens=0)
