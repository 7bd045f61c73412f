"""The engine over models of other architectures: what it samples is what a full forward pass says."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import torch

from phronesis.engine.embedded import EmbeddedEngine, EngineConfig
from phronesis.errors import ConfigError, PolicyFault
from phronesis.models.generic import GenericModel
from phronesis.policy import Policy, Releases, SamplingParams, Scores, Versioned, prompt_crc
from phronesis.records import Finish

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from foreign import SIZES, make

V = 50


@pytest.fixture(scope="module")
def models():
    """Far enough from uniform that a wrong position or prefix shows."""
    return {kind: GenericModel(make(kind)) for kind in SIZES}


def full(model, ids, temperature=1.0):
    """Nats of every next token by one plain forward pass."""
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float() / temperature
    return logits.log_softmax(-1)


def check(model, prompt, completion, temperature=1.0):
    """A completion's logprobs and entropies are those of a full pass over prompt and completion."""
    ids = [*prompt, *completion.ids]
    logp = full(model, ids, temperature)[len(prompt) - 1 : -1]
    chosen = logp.gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(completion.logprobs), chosen, rtol=0, atol=1e-4)
    entropies = -(logp.exp() * logp).sum(-1)
    torch.testing.assert_close(torch.tensor(completion.entropies), entropies, rtol=0, atol=1e-4)
    assert completion.prompt_crc == prompt_crc(prompt)


@pytest.mark.parametrize("kind", SIZES)
def test_decoding_equals_a_full_forward_pass(models, kind):
    model = models[kind]
    engine = EmbeddedEngine(model, EngineConfig(chunk=5))
    for contract in (Policy, Scores, Versioned, Releases):
        assert isinstance(engine, contract)
    assert engine.arithmetic == "transformers"
    assert engine._runner.compute.cached == (kind != "mamba")
    prompt = tuple(i * 11 % V for i in range(13))
    greedy = asyncio.run(engine.sample(prompt, SamplingParams(max_tokens=14, temperature=0)))
    ids = list(prompt)
    for token in greedy.ids:  # the slowest way there is
        assert token == int(full(model, ids)[-1].argmax())
        ids.append(token)
    check(model, prompt, greedy)
    for temperature in (0.7, 1.0):
        warm = asyncio.run(engine.sample(prompt, SamplingParams(max_tokens=14, temperature=temperature, seed=3)))
        check(model, prompt, warm, temperature)
    scored = torch.tensor(asyncio.run(engine.score((*prompt, *greedy.ids))))
    expected = full(model, [*prompt, *greedy.ids])[:-1].gather(1, torch.tensor([*prompt[1:], *greedy.ids])[:, None])[:, 0]
    torch.testing.assert_close(scored, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "mamba"])
def test_episodes_that_share_prefixes_fork_and_rewrite_are_exact(models, kind):
    """Turns of several episodes at once in few slots: caches are kept, copied from siblings, cut back and given up."""
    model = models[kind]
    engine = EmbeddedEngine(model, EngineConfig(slots=3, chunk=7))
    opening = tuple(range(20))

    async def episode(number):
        history, done = opening, []
        for turn in range(3):
            if turn == 2:
                history = (*history[: 20 + number], 7, 8, 9)  # the history is rewritten in the middle
            params = SamplingParams(max_tokens=4 + number, seed=10 * number + turn, cache_key=f"e{number}")
            completion = await engine.sample(history, params)
            done.append((history, completion))
            history = (*history, *completion.ids, number, turn)
        engine.release(f"e{number}")
        return done

    async def all_of_them():
        return await asyncio.gather(*(episode(n) for n in range(5)))

    together = asyncio.run(all_of_them())
    for done in together:
        for prompt, completion in done:
            check(model, prompt, completion)
    if kind != "mamba":
        assert engine.counters.reused > 100  # ids not read again
    alone = EmbeddedEngine(model)
    for number, done in enumerate(together):
        for turn, (prompt, completion) in enumerate(done):
            again = asyncio.run(alone.sample(prompt, SamplingParams(max_tokens=4 + number, seed=10 * number + turn)))
            assert again.ids == completion.ids


def test_new_weights_in_the_middle_of_a_completion(models):
    model = GenericModel(make("gpt2"))
    engine = EmbeddedEngine(model)
    old = {n: p.detach().clone() for n, p in model.named_parameters()}
    prompt, params = tuple(range(9)), SamplingParams(max_tokens=12, temperature=0)

    async def through():
        task = asyncio.create_task(engine.sample(prompt, params))
        while engine.counters.decoded < 5:
            await asyncio.sleep(0)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.3)
        assert engine.advance() == 1
        return await task

    completion = asyncio.run(through())
    assert completion.version == (0, 1)
    new = full(model, [*prompt, *completion.ids])[len(prompt) - 1 : -1]
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(old[n])
    before = full(model, [*prompt, *completion.ids])[len(prompt) - 1 : -1]
    chosen = torch.tensor(completion.ids)[:, None]
    said = torch.tensor(completion.logprobs)
    near_old = (before.gather(1, chosen)[:, 0] - said).abs() < 1e-4
    near_new = (new.gather(1, chosen)[:, 0] - said).abs() < 1e-4
    changed = int(near_old.sum())
    assert 5 <= changed < 12 and near_old[:changed].all() and near_new[changed:].all()


def test_limits_and_refusals(models):
    engine = EmbeddedEngine(models["gpt2"])
    assert engine.context == 96
    tail = asyncio.run(engine.sample(tuple(range(48)) * 1 + tuple(range(44)), SamplingParams(max_tokens=40)))
    assert (len(tail.ids), tail.finish) == (4, Finish.context)
    with pytest.raises(PolicyFault):
        asyncio.run(engine.sample((3, V), SamplingParams(max_tokens=2)))
    with pytest.raises(ConfigError, match="runs through transformers"):
        EmbeddedEngine(models["gpt2"], EngineConfig(native=True))
