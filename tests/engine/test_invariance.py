"""A request's bits depend on its prompt, its parameters and the weights, and on nothing else: compiled and in PyTorch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from phronesis.engine.embedded import EmbeddedEngine, EngineConfig
from phronesis.engine.native import compute
from phronesis.models.decoder import Decoder
from phronesis.models.tiny import TinyModel, tiny
from phronesis.policy import Completion, SamplingParams

V = 60
SYSTEM = tuple(range(20, 45))


def model(heads: int, kv_heads: int, head_dim: int, width: int = 32) -> Decoder:
    sizes = TinyModel(
        width=width,
        layers=2,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_width=40,
        max_positions=512,
        embed_std=1.0,
        matrix_std=0.3,
    )
    return tiny(sizes, V, 7)


MODELS = {
    "one query a head": model(2, 2, 8),
    "two": model(4, 2, 16),
    "four": model(4, 1, 8),
    "wide": model(2, 1, 8, width=1040),
    "long heads": model(2, 1, 128),
}
both = pytest.mark.parametrize("native", [True, False], ids=["native", "pytorch"])


def same(a: Completion, b: Completion) -> bool:
    return (a.ids, a.logprobs, a.entropies, a.sampled, a.finish) == (b.ids, b.logprobs, b.entropies, b.sampled, b.finish)


def alone(decoder: Decoder, prompt: tuple[int, ...], params: SamplingParams, native: bool) -> Completion:
    return asyncio.run(EmbeddedEngine(decoder, EngineConfig(native=native)).sample(prompt, params))


@contextmanager
def computing(threads: int, team: bool) -> Iterator[None]:
    """With so many threads, each for rows of its own or all of them together, however small the model is."""
    before, limits = torch.get_num_threads(), ("TEAM_PARAMETERS", "TEAM_ALONE", "TEAM_WORK", "UNFAIR")
    kept = {name: getattr(compute, name) for name in limits}
    torch.set_num_threads(threads)
    try:
        for name in limits:
            setattr(compute, name, 0 if team else 1 << 60)
        yield
    finally:
        torch.set_num_threads(before)
        for name, value in kept.items():
            setattr(compute, name, value)


ids = st.integers(0, V - 1)


@st.composite
def requests(draw):
    shared = draw(st.sampled_from([(), SYSTEM, SYSTEM[:9], SYSTEM * 6]))
    prompt = (*shared, *draw(st.lists(ids, min_size=1, max_size=30)))
    params = SamplingParams(
        max_tokens=draw(st.integers(1, 24)),
        temperature=draw(st.sampled_from([1.0, 1.0, 0.7, 0.0])),
        top_k=draw(st.sampled_from([0, 0, 5])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.8])),
        seed=draw(st.integers(0, 2**63 - 1)),
        stop_ids=draw(st.sampled_from([(), (3, 4)])),
        forced=draw(st.sampled_from([(), (9, 8)])),
    )
    return prompt, params, draw(st.integers(0, 6))


@pytest.mark.parametrize(
    ("native", "threads", "team"),
    [(True, 1, False), (True, 2, False), (True, 2, True), (True, 3, True), (False, 1, False), (False, 2, False)],
)
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None)
@given(batch=st.lists(requests(), min_size=2, max_size=24), slots=st.sampled_from([3, 20, 64]), chunk=st.sampled_from([7, 128]))
def test_alone_equals_in_a_crowd(native, threads, team, name, batch, slots, chunk):
    decoder = MODELS[name]
    with computing(threads, team):
        engine = EmbeddedEngine(decoder, EngineConfig(slots=slots, chunk=chunk, pass_tokens=100, native=native))

        async def later(prompt, params, wait):
            for _ in range(wait * 9):
                await asyncio.sleep(0)
            return await engine.sample(prompt, params)

        async def crowd():
            return await asyncio.gather(*[later(*r) for r in batch])

        got = asyncio.run(crowd())
    with computing(1, False):
        for (prompt, params, _), one in zip(batch, got, strict=True):
            assert same(one, alone(decoder, prompt, params, native))


@both
@settings(max_examples=12, deadline=None)
@given(
    turns=st.lists(st.lists(ids, min_size=1, max_size=40), min_size=2, max_size=5),
    members=st.integers(1, 5),
    slots=st.sampled_from([2, 16]),
    name=st.sampled_from(sorted(MODELS)),
)
def test_later_turns_give_the_same_bits_cached_or_not(native, turns, members, slots, name):
    decoder = MODELS[name]
    engine = EmbeddedEngine(decoder, EngineConfig(slots=slots, native=native))

    async def episode(member: int):
        prompt, out = SYSTEM, []
        for t, new in enumerate(turns):
            prompt = (*prompt, *new)
            params = SamplingParams(max_tokens=6, seed=member * 100 + t, cache_key=f"e{member}")
            got = await engine.sample(prompt, params)
            out.append((prompt, params, got))
            prompt = (*prompt, *got.ids)
        return out

    async def play():
        return await asyncio.gather(*[episode(m) for m in range(members)])

    for out in asyncio.run(play()):
        for t, (prompt, params, got) in enumerate(out):
            assert same(got, alone(decoder, prompt, params, native))
            if t > 0 and slots >= members:
                assert got.cached_tokens >= len(out[t - 1][0]) + len(out[t - 1][2].ids) - 1


@both
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_the_sampled_logprobs_bit_for_bit(native, name):
    engine = EmbeddedEngine(MODELS[name], EngineConfig(native=native))

    async def go():
        params = [SamplingParams(max_tokens=100, seed=s, temperature=t) for s, t in ((1, 1.0), (2, 0.6))]
        return await asyncio.gather(*[engine.sample(SYSTEM * 9, p) for p in params])

    cold, warm = asyncio.run(go()), engine.score_many([(*SYSTEM, 3)])
    assert len(warm[0]) == len(SYSTEM)
    for got, temperature in zip(cold, (1.0, 0.6), strict=True):
        whole = (*SYSTEM * 9, *got.ids)
        scores = engine.score_many([SYSTEM, whole, whole[:9]], temperature)
        assert scores[1][len(SYSTEM) * 9 - 1 :] == got.logprobs
        assert scores[1][:8] == scores[2]
        assert asyncio.run(engine.score(whole, temperature)) == scores[1]


def test_shared_prompts_of_a_group_are_computed_once():
    engine = EmbeddedEngine(MODELS["two"])
    prompt = SYSTEM * 3

    async def group():
        return await asyncio.gather(*[engine.sample((*prompt, 1, 2), SamplingParams(max_tokens=3, seed=s)) for s in range(8)])

    got = asyncio.run(group())
    computed = len(prompt) + 1  # all but the last id, which the first step consumes
    assert engine.counters.prefilled == computed
    assert engine.counters.reused == 7 * computed
    assert [g.cached_tokens for g in got] == [0] + [computed] * 7
    assert len({g.ids for g in got}) > 1


def test_a_system_prompt_is_shared_across_groups():
    engine = EmbeddedEngine(MODELS["two"])

    async def groups():
        return await asyncio.gather(
            *[engine.sample((*SYSTEM, *[g] * 20), SamplingParams(max_tokens=2, seed=s)) for g in range(3) for s in range(2)]
        )

    asyncio.run(groups())
    assert engine.counters.prefilled == len(SYSTEM) + 19 + 2 * 19
    assert engine.counters.evicted == 0


@pytest.mark.parametrize(("threads", "team"), [(1, False), (2, False), (2, True), (3, True)])
def test_several_ids_in_one_call_are_those_of_single_steps(threads, team, monkeypatch):
    """Rows that end by a stop id, by their limit and by the context, next to rows with forced ids that join later."""
    decoder = MODELS["two"]

    def play(most: int) -> tuple[list[Completion], int]:
        monkeypatch.setattr("phronesis.engine.runner.MOST_AHEAD", most)
        engine = EmbeddedEngine(decoder, EngineConfig(native=True, context=120))
        calls, inner = [], engine._runner.compute.next
        monkeypatch.setattr(engine._runner.compute, "next", lambda *a: calls.append(1) or inner(*a))

        async def go():
            asked = [
                engine.sample(
                    (*SYSTEM[: 5 + i], i % V),
                    SamplingParams(max_tokens=(200, 17, 60)[i % 3], seed=i, stop_ids=(i,) if i % 2 else (), temperature=1.3),
                )
                for i in range(40)
            ]
            late = engine.sample((1, 2, 3), SamplingParams(max_tokens=30, seed=99, forced=(7, 8)))
            return [*await asyncio.gather(*asked), await late]

        return asyncio.run(go()), len(calls)

    with computing(threads, team):
        (one, single), (many, fewer) = play(1), play(32)
    assert all(same(a, b) for a, b in zip(one, many, strict=True))
    assert {c.finish.value for c in one} == {"stop", "length", "context"}
    assert fewer < single
