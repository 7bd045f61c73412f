"""Properties every loss keeps: ratio 1, padding, splits, permutations, fully masked sequences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from phronesis.losses import (
    ConstantNorm,
    LossConfig,
    LossInputs,
    PPOClipLoss,
    ReinforceLoss,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    SupervisedLoss,
    TokenMean,
    totals_of,
)

OBJECTIVES = [ReinforceLoss(), PPOClipLoss(), PPOClipLoss(eps_high=0.2, dual=3.0), SupervisedLoss()]
AGGREGATIONS = [TokenMean(), SequenceMeanTokenMean(), SequenceMeanTokenSum(), ConstantNorm(horizon=7)]
CONFIGS = [LossConfig(objective=o, aggregation=a) for o in OBJECTIVES for a in AGGREGATIONS]
numbers = st.floats(-3, 3, width=32)


@st.composite
def batches(draw):
    """Tokens of 1 to 4 sequences, some without any."""
    lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any))
    n = sum(lengths)
    columns = [draw(st.lists(numbers, min_size=n, max_size=n)) for _ in range(4)]
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), tensor(lengths))
    theta, old, infer, advantages = (tensor(c, dtype=torch.float64) for c in columns)
    return LossInputs(theta, old, infer, advantages, sequence, torch.zeros_like(sequence), totals_of(sequence, len(lengths)))


def evaluate(config, batch):
    """Loss and its gradient in theta."""
    theta = batch.logp_theta_N.clone().requires_grad_()
    loss = config.build()(batch._replace(logp_theta_N=theta)).loss
    return loss.detach(), torch.autograd.grad(loss, theta)[0]


def rows(batch, index):
    """Some tokens of a batch, denominators kept."""
    picked = [x[index] for x in batch[:6]]
    return LossInputs(*picked, batch.totals)


@given(batches(), st.sampled_from(AGGREGATIONS))
def test_ratio_one_is_reinforce(batch, aggregation):
    batch = batch._replace(logp_old_N=batch.logp_theta_N.clone())
    _, expected = evaluate(LossConfig(objective=ReinforceLoss(), aggregation=aggregation), batch)
    for objective in (PPOClipLoss(), PPOClipLoss(dual=3.0)):
        _, gradient = evaluate(LossConfig(objective=objective, aggregation=aggregation), batch)
        torch.testing.assert_close(gradient, expected)


@given(batches(), st.sampled_from(CONFIGS), st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e9]))
def test_masked_columns_are_never_read(batch, config, junk):
    pad = torch.full((3,), junk, dtype=torch.float64)
    extra = tensor([0, 0, 0])
    n = batch.logp_theta_N.numel()
    padded = LossInputs(
        *(torch.cat([x, pad]) for x in batch[:4]),
        torch.cat([batch.sequence_N, extra]),
        torch.cat([batch.turn_N, extra]),
        batch.totals,
        mask_N=tensor([True] * n + [False] * 3),
    )
    loss, gradient = evaluate(config, batch)
    padded_loss, padded_gradient = evaluate(config, padded)
    torch.testing.assert_close(padded_loss, loss)
    torch.testing.assert_close(padded_gradient, torch.cat([gradient, torch.zeros(3, dtype=torch.float64)]))
    plain, masked = config.build()(batch), config.build()(padded)
    assert {k: v.item() for k, v in masked.sums.items()} == pytest.approx({k: v.item() for k, v in plain.sums.items()})
    assert masked.maxima["ratio"].item() == plain.maxima["ratio"].item()


@given(batches(), st.sampled_from(CONFIGS), st.data())
def test_micro_batches_add_up(batch, config, data):
    n = batch.logp_theta_N.numel()
    owner = tensor(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    loss, gradient = evaluate(config, batch)
    whole = config.build()(batch)
    total, sums, pieces = 0.0, dict.fromkeys(whole.sums, 0.0), torch.zeros(n, dtype=torch.float64)
    for part in range(3):
        index = owner == part
        part_loss, part_gradient = evaluate(config, rows(batch, index))
        total += part_loss.item()
        pieces[index] = part_gradient
        for name, value in config.build()(rows(batch, index)).sums.items():
            sums[name] += value.item()
    assert total == pytest.approx(loss.item(), abs=1e-9)
    torch.testing.assert_close(pieces, gradient)
    assert sums == pytest.approx({k: v.item() for k, v in whole.sums.items()}, abs=1e-9)


@given(batches(), st.sampled_from(CONFIGS), st.randoms(use_true_random=False))
def test_order_does_not_matter(batch, config, random):
    order = list(range(batch.logp_theta_N.numel()))
    random.shuffle(order)
    loss, gradient = evaluate(config, batch)
    shuffled_loss, shuffled_gradient = evaluate(config, rows(batch, tensor(order)))
    torch.testing.assert_close(shuffled_loss, loss)
    torch.testing.assert_close(shuffled_gradient, gradient[tensor(order)])


@given(batches(), st.sampled_from(CONFIGS))
def test_a_sequence_without_tokens_changes_nothing(batch, config):
    more = batch._replace(totals=totals_of(batch.sequence_N, batch.totals.tokens_S.numel() + 2))
    assert evaluate(config, more)[0].item() == evaluate(config, batch)[0].item()


@pytest.mark.parametrize("config", CONFIGS)
def test_nothing_trained_gives_zero(config):
    empty = torch.zeros(0, dtype=torch.float64)
    none = torch.zeros(0, dtype=torch.int64)
    out = config.build()(LossInputs(empty.requires_grad_(), empty, empty, empty, none, none, totals_of(none, 2)))
    assert out.loss.item() == 0 and all(v.item() == 0 for v in out.sums.values()) and out.maxima == {}
