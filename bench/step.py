"""One training step at the shape of a real model with random weights: tokens a second, model FLOP/s and memory.

    python -m bench.step --shape qwen3-0.6b --device cuda --precision bf16
    python -m bench.step --shape tiny --device cpu --rows 1 --row-tokens 256 --episode-tokens 64

Rows of `row-tokens` packed tokens hold episodes of equal length, the first quarter of each a prompt, the rest sampled and
trained. An update (reading the batch, scoring, backward, clipping, AdamW) is one optimiser step over all rows. Model FLOPs
count every product of the forward pass once and of the backward pass twice, attention causally, the output layer for trained
tokens alone, and nothing that is computed again.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import time

import torch
from msgspec import Struct

from phronesis.models.config import DecoderConfig
from phronesis.models.decoder import Decoder
from phronesis.records import Batch, Segment
from phronesis.train import scoring
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig

ROPE = {"rope_type": "default", "rope_theta": 1e6}
SHAPES = {
    "qwen3-0.6b": DecoderConfig(
        architecture="qwen3", vocab_size=151936, width=1024, layers=28, heads=16, kv_heads=8, head_dim=128, mlp_width=3072,
        max_positions=40960, tied=True, rope=ROPE,
    ),
    "tiny": DecoderConfig(
        architecture="qwen3", vocab_size=512, width=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp_width=192,
        max_positions=4096, tied=True, rope=ROPE,
    ),
}  # fmt: skip
"""Sizes by name."""
PEAK = 989.0
"""TFLOP/s of dense bfloat16 products that an H200 is sold with."""


class Setting(Struct, frozen=True, kw_only=True):
    """What is measured."""

    shape: str = "qwen3-0.6b"
    device: str = "cuda"
    precision: scoring.Precision = "bf16"
    rows: int = 4
    row_tokens: int = 16384
    episode_tokens: int = 2048
    checkpointing: bool = False
    steps: int = 5
    peak: float = PEAK
    max_logits: int = scoring.MAX_LOGITS


class Found(Struct, frozen=True, kw_only=True):
    """What a step costs."""

    tokens: int
    """Of a step."""
    seconds: float
    """Median step after the first two."""
    tokens_per_second: float
    tflops: float
    """Model TFLOP/s."""
    mfu: float
    """Of the peak."""
    gibibytes: float
    """Largest memory held by tensors of the GPU; of the whole process on a CPU."""


def measure(setting: Setting) -> Found:
    """Takes the steps."""
    scoring.MAX_LOGITS = setting.max_logits
    model, batch = SHAPES[setting.shape], rows_of(setting)
    learner = Learner(
        random_decoder(model, setting.device),
        LearnerConfig(
            optimizer=AdamWConfig(lr=1e-6),
            precision=setting.precision,
            checkpointing=setting.checkpointing,
            max_tokens=setting.row_tokens,
            mismatch_error=1000.0,
            mismatch_warn=1000.0,
        ),
    )
    gpu = setting.device.startswith("cuda")
    taken: list[float] = []
    for _ in range(setting.steps + 2):
        began = time.perf_counter()
        learner.update(batch)
        if gpu:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    seconds = statistics.median(taken[2:])
    tflops = model_flops(model, batch) / seconds / 1e12
    held = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Found(
        tokens=batch.tokens, seconds=seconds, tokens_per_second=batch.tokens / seconds, tflops=tflops,
        mfu=tflops / setting.peak, gibibytes=held / 2**30,
    )  # fmt: skip


def model_flops(model: DecoderConfig, batch: Batch) -> float:
    """Products of a step over episodes without shared prompts.

    Per token 6 for every weight of a layer's matrices, per trained token 6 for every weight of the output layer, and per
    episode of T tokens 6 T² for every channel of a layer's queries (scores and mixing, half of them causal).
    """
    inner, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
    weights = model.width * (inner + 2 * kv) + inner * model.width + 3 * model.width * model.mlp_width
    pairs = sum(len(s.ids) ** 2 for s in batch.segments)
    per_layer = 6.0 * weights * batch.tokens + 6.0 * inner * pairs
    return model.layers * per_layer + 6.0 * model.vocab_size * model.width * batch.trained_tokens


def random_decoder(model: DecoderConfig, device: str) -> Decoder:
    """Small random matrices, norms of one."""
    decoder = Decoder(model).to(device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, p in decoder.named_parameters():
            p.fill_(1.0) if "norm" in name else p.normal_(0.0, 0.02, generator=generator)
    return decoder


def rows_of(setting: Setting) -> Batch:
    """Episodes that fill the rows."""
    source, vocabulary = random.Random(0), SHAPES[setting.shape].vocab_size
    count, length = setting.rows * (setting.row_tokens // setting.episode_tokens), setting.episode_tokens
    prompt = length // 4
    own = length - prompt
    segments = tuple(
        Segment(
            parent=None,
            ids=tuple(source.randrange(vocabulary) for _ in range(length)),
            mask=(False,) * prompt + (True,) * own,
            logprobs=(0.0,) * prompt + (-11.9,) * own,
            advantages=(0.0,) * prompt + (source.uniform(-1.0, 1.0),) * own,
            turns=(-1,) * prompt + (0,) * own,
            episode=i,
        )
        for i in range(count)
    )
    return Batch(
        segments=segments,
        episodes=tuple(map(str, range(count))),
        sequence_tokens=(own,) * count,
        total_tokens=own * count,
        total_sequences=count,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.step", description=__doc__.partition("\n")[0] if __doc__ else None)
    plain = Setting()
    for name in Setting.__struct_fields__:
        default = getattr(plain, name)
        flag = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(default), default=default)
    setting = Setting(**vars(parser.parse_args()))
    found = measure(setting)
    print(json.dumps({f: getattr(setting, f) for f in setting.__struct_fields__}))
    print(
        f"{found.tokens} tokens in {found.seconds:.3f} s: {found.tokens_per_second:.0f} tokens/s, {found.tflops:.2f} TFLOP/s, "
        f"MFU {100 * found.mfu:.1f} % of {setting.peak:g}, {found.gibibytes:.2f} GiB"
    )


if __name__ == "__main__":
    main()
