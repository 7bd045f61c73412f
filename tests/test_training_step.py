"""The measurement of a training step at the shape of a real model: what it counts, and that its code runs."""

import pytest
import torch
from bench.step import SHAPES, Setting, measure, model_flops, random_decoder, rows_of
from torch.utils.flop_counter import FlopCounterMode

from phronesis.models.decoder import Decoder
from phronesis.train import scoring
from phronesis.train.packed import pack

SMALL = Setting(shape="tiny", device="cpu", precision="fp32", rows=2, row_tokens=256, episode_tokens=64, steps=1)


def test_the_shape_is_that_of_the_model_it_is_named_after():
    """596 million weights, the embedding once."""
    with torch.device("meta"):
        decoder = Decoder(SHAPES["qwen3-0.6b"])
    assert sum(p.numel() for p in decoder.parameters()) == 596_049_920


def test_counted_products_are_those_that_happen():
    """Against torch's own counter of a forward pass, which is a third; it leaves attention out on a CPU, or counts it whole."""
    config, batch = SHAPES["tiny"], rows_of(SMALL)
    assert batch.tokens == 512 and batch.trained_tokens == 8 * 48
    decoder, packed = random_decoder(config, "cpu"), pack(batch)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        scoring.score(decoder, packed)
    pairs = sum(len(s.ids) ** 2 for s in batch.segments)
    causal = 2 * config.layers * config.heads * config.head_dim * pairs
    products = model_flops(config, batch) / 3 - causal
    assert counter.get_total_flops() in (pytest.approx(products), pytest.approx(products + 2 * causal))


def test_a_step_is_measured():
    found = measure(SMALL)
    assert found.tokens == 512 and found.seconds > 0
    assert found.tokens_per_second == pytest.approx(512 / found.seconds)
    assert found.mfu == pytest.approx(model_flops(SHAPES["tiny"], rows_of(SMALL)) / found.seconds / 989e12)
    assert 0.05 < found.gibibytes < 64
