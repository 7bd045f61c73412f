"""The engines that are measured: each continues a `Work` and says how many seconds it took.

A side runs in a process of its own, see `process`. Models and tokens are the same for all; every one samples at temperature 1
from the whole vocabulary and produces exactly the asked number of ids, so that no side stops early.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, cast

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, Qwen3ForCausalLM

from phronesis.engine.embedded import EmbeddedEngine, EngineConfig
from phronesis.engine.speed.workload import SIZES, VOCABULARY, Work, observation, prompts
from phronesis.models.checkpoint import save
from phronesis.models.decoder import Decoder
from phronesis.models.tiny import tiny
from phronesis.policy import SamplingParams


class Side(Protocol):
    """One engine, holding one model at a time."""

    name: str
    """For the table."""

    def load(self, size: str) -> None:
        """Makes the model of a size ready; not timed."""
        ...

    def run(self, work: Work) -> float:
        """Does the work from an empty cache; seconds."""
        ...


class _Told(Protocol):
    """One answer of `generate_batch`."""

    prompt_ids: list[int]
    generated_tokens: list[int]


class _Peer(Protocol):
    """What is used of a model of transformers, whose own types are incomplete."""

    def generate(
        self, ids: torch.Tensor, *, attention_mask: torch.Tensor, generation_config: GenerationConfig
    ) -> torch.Tensor: ...

    def generate_batch(
        self,
        *,
        inputs: list[list[int]],
        generation_config: GenerationConfig,
        continuous_batching_config: ContinuousBatchingConfig,
        persistent_manager: bool,
        warmup: bool,
    ) -> dict[str, _Told]: ...


def model(size: str) -> Decoder:
    """The measured model of a size: the same weights for every side."""
    return tiny(SIZES[size], VOCABULARY, 0)


class Ours:
    """The embedded engine with all a request costs: futures, admission, prompts, sampling, logprobs and entropies."""

    def __init__(self, native: bool | None = None):
        self._native = native
        self.name = "phronesis, in PyTorch" if native is False else "phronesis"

    def load(self, size: str) -> None:
        """A new engine."""
        self._engine = EmbeddedEngine(model(size), EngineConfig(slots=512, native=self._native))

    def run(self, work: Work) -> float:
        """All episodes at once, each turn a request of its own."""
        engine = self._engine

        async def episode(i: int, ids: list[int]) -> None:
            key = f"episode {i}" if work.turns > 1 else None
            for turn in range(work.turns):
                params = SamplingParams(max_tokens=work.new, seed=1000 * i + turn, cache_key=key)
                said = await engine.sample(ids, params)
                ids = [*ids, *said.ids, *observation(i, turn)]
            if key is not None:
                engine.release(key)

        async def everyone() -> None:
            await asyncio.gather(*[episode(i, ids) for i, ids in enumerate(prompts(work))])

        start = time.perf_counter()
        asyncio.run(everyone())
        took = time.perf_counter() - start
        engine.advance()  # nothing stays cached for the next time
        return took


class Generate:
    """`transformers.generate` on one batch; in episodes every turn reads its whole history, as the interface has it."""

    def __init__(self) -> None:
        self.name = f"transformers {version('transformers')} generate"

    def load(self, size: str) -> None:
        """Reads a checkpoint of the model."""
        self._model = loaded(size)

    def run(self, work: Work) -> float:
        """One call of `generate` a turn."""
        found = torch.tensor(prompts(work))
        start = time.perf_counter()
        for turn in range(work.turns):
            if turn:
                found = torch.cat([found, torch.tensor([observation(i, turn) for i in range(work.batch)])], 1)
            found = self._model.generate(found, attention_mask=torch.ones_like(found), generation_config=_settings(work))
        took = time.perf_counter() - start
        assert found.shape == (work.batch, work.longest), f"generate answered {tuple(found.shape)}"
        return took


class Continuous:
    """transformers' continuous batching, its cache sized for the work, its manager kept between two runs."""

    def __init__(self) -> None:
        self.name = f"transformers {version('transformers')} generate_batch"
        self._sized: Work | None = None

    def load(self, size: str) -> None:
        """Reads a checkpoint of the model."""
        self._sized = None
        self._model = loaded(size)

    def run(self, work: Work) -> float:
        """One call of `generate_batch` a turn."""
        if self._sized != work:
            if self._sized is not None:
                self._model = loaded(work.size)  # the old manager ends with its model
            self._sized = work
        page = 256
        limits = ContinuousBatchingConfig(
            num_blocks=2 * work.batch * -(-work.longest // page) + 16, max_batch_tokens=max(512, 2 * work.batch)
        )
        sequences = prompts(work)
        start = time.perf_counter()
        for turn in range(work.turns):
            if turn:
                sequences = [[*ids, *observation(i, turn)] for i, ids in enumerate(sequences)]
            found = self._model.generate_batch(
                inputs=sequences,
                generation_config=_settings(work),
                continuous_batching_config=limits,
                persistent_manager=True,
                warmup=False,
            )
            said = {tuple(r.prompt_ids): list(r.generated_tokens) for r in found.values()}
            sequences = [[*ids, *said[tuple(ids)]] for ids in sequences]
        took = time.perf_counter() - start
        assert all(len(ids) == work.longest for ids in sequences), "generate_batch answered with other lengths"
        return took


def loaded(size: str) -> _Peer:
    """The model of a size as transformers reads it."""
    with tempfile.TemporaryDirectory() as folder:
        save(model(size), Path(folder))
        found = Qwen3ForCausalLM.from_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
        return cast("_Peer", found.eval())


def _settings(work: Work) -> GenerationConfig:
    return GenerationConfig(
        do_sample=True,
        top_k=0,
        temperature=1.0,
        max_new_tokens=work.new,
        min_new_tokens=work.new,
        pad_token_id=0,
        eos_token_id=-1,
    )
