"""Folders we write, of either family, whole and in shards, served by a real vLLM as they are: the same greedy ids as ours.

Each family has a server of its own, stopped before the next one starts.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from vllm_worlds import PYTHON, TINY, TOKENIZER, VOCAB, settings

from phronesis.engine.embedded import EmbeddedEngine, EngineConfig
from phronesis.engine.vllm.engine import VLLMEngine
from phronesis.engine.vllm.fleet import Fleet
from phronesis.models import lora
from phronesis.models.checkpoint import save
from phronesis.models.decoder import Decoder
from phronesis.models.lora import LoraConfig
from phronesis.models.tiny import tiny
from phronesis.models.tokenizer import save_generation, save_tokenizer
from phronesis.policy import SamplingParams

pytestmark = pytest.mark.timeout(900)


def random_model(architecture: str, tied: bool) -> Decoder:
    """A random decoder of a family, far from uniform, so that the likeliest id is clear."""
    source = tiny(replace(TINY, tied=tied), VOCAB, 3)
    decoder = Decoder(replace(source.config, architecture=architecture, norm_eps=1e-5, eos_ids=(2,), pad_id=0))
    weights = {name: value for name, value in source.state_dict().items() if name in decoder.state_dict()}
    decoder.load_state_dict(weights)
    if architecture == "qwen3":  # served merged
        adapter = lora.fresh(decoder, LoraConfig(rank=4), 0)
        moved = {m: lora.Factors(f.a, torch.full_like(f.b, 0.01)) for m, f in adapter.factors.items()}
        lora.merge(decoder.requires_grad_(False), adapter._replace(factors=moved))
    return decoder


@pytest.mark.parametrize(("architecture", "tied", "shard"), [("qwen3", True, None), ("llama", False, 60_000)])
def test_a_folder_we_write_is_served_as_it_is(tmp_path: Path, architecture: str, tied: bool, shard: int | None):
    if not PYTHON.exists():
        pytest.skip(f"needs the vLLM environment {PYTHON.parent.parent}: make setup-vllm")
    decoder = random_model(architecture, tied)
    here = EmbeddedEngine(decoder, EngineConfig(slots=8))

    def write(folder: Path) -> None:
        save(decoder, folder, shard_bytes=shard)
        save_tokenizer(TOKENIZER, folder)
        save_generation(TOKENIZER, folder)
        assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard is not None)

    def score(ids: tuple[int, ...]) -> tuple[float, ...]:
        return here.score_many([ids])[0]

    async def compare() -> None:
        fleet = Fleet(settings(), tmp_path)
        try:
            there = VLLMEngine(fleet, vocab_size=VOCAB, save=write, score=score, version=0)
            for n in (3, 17, 60):
                prompt, params = tuple(range(20, 20 + n)), SamplingParams(max_tokens=40, temperature=0)
                ours, theirs = await here.sample(prompt, params), await there.sample(prompt, params)
                assert ours.ids == theirs.ids
                assert max(abs(a - b) for a, b in zip(ours.logprobs, theirs.logprobs, strict=True)) < 2e-4
        finally:
            await fleet.close()

    asyncio.run(compare())
