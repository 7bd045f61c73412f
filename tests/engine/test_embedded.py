"""What the embedded engine promises: endings, forced ids, thought budgets, weights that change, faults, cancellation."""

from __future__ import annotations

import asyncio

import pytest
import torch

from phronesis.engine.embedded import EmbeddedEngine, EngineConfig
from phronesis.errors import ConfigError, PolicyFault
from phronesis.models.tiny import TinyModel, tiny
from phronesis.policy import Policy, Releases, SamplingParams, Scores, ThoughtBudget, Versioned, prompt_crc
from phronesis.records import Finish

V = 40


@pytest.fixture
def decoder():
    return tiny(
        TinyModel(
            width=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp_width=24, max_positions=64, embed_std=1.0, matrix_std=0.4
        ),
        V,
        1,
    )


def run(engine, prompt, **params):
    return asyncio.run(engine.sample(prompt, SamplingParams(**{"max_tokens": 10, **params})))


def text(ids):
    return "".join(chr(97 + i % 26) for i in ids)


def test_it_is_everything_it_should_be(decoder):
    engine = EmbeddedEngine(decoder)
    for contract in (Policy, Scores, Versioned, Releases):
        assert isinstance(engine, contract)


def test_endings(decoder):
    engine = EmbeddedEngine(decoder, decode=text)
    free = run(engine, (1, 2, 3))
    assert (len(free.ids), free.finish, free.prompt_crc) == (10, Finish.length, prompt_crc((1, 2, 3)))
    third = free.ids[2]
    at = free.ids.index(third)
    stopped = run(engine, (1, 2, 3), stop_ids=(39 if third != 39 else 38, third))
    assert (stopped.ids, stopped.finish) == (free.ids[: at + 1], Finish.stop)
    assert stopped.logprobs == free.logprobs[: at + 1]
    wanted = text(free.ids)[3:6]
    until = text(free.ids).index(wanted) + 3
    by_text = run(engine, (1, 2, 3), stop_strings=("not there", wanted))
    assert (by_text.ids, by_text.finish) == (free.ids[:until], Finish.stop)
    full = run(engine, tuple(range(30)) * 2, max_tokens=50)
    assert (len(full.ids), full.finish) == (4, Finish.context)
    assert run(engine, tuple(range(30)) * 2, max_tokens=4).finish == Finish.length


def test_a_stop_on_the_last_token_counts_as_a_stop(decoder):
    engine = EmbeddedEngine(decoder)
    free = run(engine, (1, 2), max_tokens=1)
    assert run(engine, (1, 2), max_tokens=1, stop_ids=free.ids).finish == Finish.stop


def test_seeds_and_greedy(decoder):
    engine = EmbeddedEngine(decoder)
    assert run(engine, (1,), seed=1) == run(engine, (1,), seed=1)
    assert len({run(engine, (1,), seed=s).ids for s in range(5)}) > 1
    greedy = [run(engine, (1,), seed=s, temperature=0.0) for s in range(3)]
    assert greedy[0].ids == greedy[1].ids == greedy[2].ids
    scores = engine.score_many([(1, *greedy[0].ids)])[0]
    assert scores == greedy[0].logprobs  # those of temperature 1


def test_the_draw_of_a_token_depends_on_seed_and_index_only(decoder):
    engine = EmbeddedEngine(decoder)
    free = run(engine, (1, 2, 3), seed=9)
    forced = run(engine, (1, 2, 3), seed=9, forced=free.ids[:4])
    assert forced.ids == free.ids and forced.logprobs == free.logprobs
    assert forced.sampled == (False,) * 4 + (True,) * 6


def test_forced_ids_do_not_stop_and_are_cut_by_the_limit(decoder):
    engine = EmbeddedEngine(decoder)
    got = run(engine, (1,), forced=(7, 7, 7), stop_ids=(7,), max_tokens=2)
    assert (got.ids, got.sampled, got.finish) == ((7, 7), (False, False), Finish.length)


def test_thought_budget_closes_an_open_block(decoder):
    engine = EmbeddedEngine(decoder)
    budget = ThoughtBudget(max_tokens=3, open_id=35, close_ids=(36, 37))
    plain = run(engine, (1, 35), seed=4)
    assert not {35, 36, 37} & set(plain.ids[:3])
    got = run(engine, (1, 35), seed=4, thought=budget)
    assert got.ids[:5] == (*plain.ids[:3], 36, 37)
    assert got.sampled == (True,) * 3 + (False,) * 2 + (True,) * 5
    inside = run(engine, (1,), seed=4, thought=budget, forced=(35,))
    assert inside.ids[0] == 35 and inside.ids[4:6] == (36, 37)
    at_once = run(engine, (1, 35), seed=4, thought=ThoughtBudget(max_tokens=0, open_id=35, close_ids=(36,)))
    assert (at_once.ids[0], at_once.sampled[:2]) == (36, (False, True))
    closed = run(engine, (35, 37), seed=4, thought=budget)
    assert closed == run(engine, (35, 37), seed=4)
    cut = run(engine, (1, 35), seed=4, thought=budget, max_tokens=4)
    assert (cut.ids[3], cut.finish) == (36, Finish.length)


def test_bad_requests_say_what_is_wrong(decoder):
    engine = EmbeddedEngine(decoder)
    for prompt, says in (
        ((), "empty"),
        (tuple(range(39)) * 2, "context holds 64"),
        ((40,), "vocabulary"),
        ((-1,), "vocabulary"),
    ):
        with pytest.raises(PolicyFault, match=says):
            run(engine, prompt)
    wrong = (
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1e-30}, "temperature must be 0"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 1.0}, "min_p"),
        ({"stop_strings": ("x",)}, "decode"),
        ({"stop_strings": ("",)}, "empty stop string"),
        ({"forced": (99,)}, "vocabulary"),
        ({"thought": ThoughtBudget(max_tokens=1, open_id=1, close_ids=())}, "close_ids"),
    )
    for params, says in wrong:
        with pytest.raises(ConfigError, match=says):
            run(engine, (1,), **params)
    with pytest.raises(PolicyFault, match="context holds"):
        engine.score_many([(1,) * 65])
    assert len(engine.score_many([(1,) * 64, (2,)])[0]) == 63
    for config in (EngineConfig(slots=0), EngineConfig(context=65), EngineConfig(context=1)):
        with pytest.raises(ConfigError, match="engine"):
            EmbeddedEngine(decoder, config)


def test_new_weights_are_used_at_once_and_nothing_old_is_reused(decoder):
    engine = EmbeddedEngine(decoder)
    old = run(engine, (1, 2, 3, 4), cache_key="a")
    with torch.no_grad():
        decoder.blocks[0].qkv.mul_(1.5)
        decoder.final_norm.mul_(0.5)
    assert engine.advance() == engine.version == 1
    new = run(engine, (1, 2, 3, 4), cache_key="a")
    assert new.cached_tokens == 0 and new.version == (1, 1) and new.logprobs != old.logprobs
    fresh = run(EmbeddedEngine(decoder), (1, 2, 3, 4))
    assert (new.ids, new.logprobs) == (fresh.ids, fresh.logprobs)


def test_a_running_request_goes_on_with_new_weights(decoder):
    engine = EmbeddedEngine(decoder)

    async def go():
        task = asyncio.create_task(engine.sample((1, 2, 3), SamplingParams(max_tokens=30)))
        while engine.counters.decoded < 10:
            await asyncio.sleep(0)
        with torch.no_grad():
            decoder.embed.mul_(0.7)
        engine.advance()
        return engine.counters.decoded, await task

    before, got = asyncio.run(go())
    assert got.version == (0, 1) and 10 <= before < 30
    scores = engine.score_many([(1, 2, 3, *got.ids)])[0][2:]
    assert scores[:before] != got.logprobs[:before] and scores[before:] == got.logprobs[before:]


def test_least_recently_used_sequences_give_way_and_released_ones_first(decoder):
    engine = EmbeddedEngine(decoder, EngineConfig(slots=2))
    base = tuple(range(20))
    run(engine, (*base, 1), cache_key="a")
    run(engine, (30, *base, 2), cache_key="b")
    run(engine, (*base, 1), cache_key="a")
    run(engine, (31, *base, 3), cache_key="c")  # takes b's place
    assert engine.counters.evicted == 1
    assert run(engine, (*base, 1), cache_key="a").cached_tokens == 20
    engine.release("a")
    engine.release("unknown")
    run(engine, (32, *base, 4), cache_key="d")  # takes the released place
    assert engine.counters.evicted == 1
    assert run(engine, (31, *base, 3), cache_key="c").cached_tokens == 21


def test_a_cache_key_is_never_trusted(decoder):
    engine = EmbeddedEngine(decoder)
    run(engine, tuple(range(20)), cache_key="a")
    other = run(engine, tuple(range(10, 30)), cache_key="a")
    assert other.cached_tokens == 0
    assert other == run(EmbeddedEngine(decoder), tuple(range(10, 30)))


def test_cancelled_requests_free_their_place(decoder):
    engine = EmbeddedEngine(decoder, EngineConfig(slots=1))

    async def go():
        first = asyncio.create_task(engine.sample((1, 2), SamplingParams(max_tokens=60)))
        second = asyncio.create_task(engine.sample((3,), SamplingParams(max_tokens=60)))
        third = asyncio.create_task(engine.sample((4,), SamplingParams(max_tokens=5)))
        while engine.counters.decoded < 3:
            await asyncio.sleep(0)
        first.cancel()
        second.cancel()
        done = await asyncio.gather(first, second, return_exceptions=True)
        return done, await third

    cancelled, got = asyncio.run(go())
    assert all(isinstance(c, asyncio.CancelledError) for c in cancelled)
    assert got == run(EmbeddedEngine(decoder), (4,), max_tokens=5)
    assert engine.counters.decoded < 15


def test_a_failing_step_reaches_everyone_and_the_engine_recovers(decoder, monkeypatch):
    engine = EmbeddedEngine(decoder, EngineConfig(slots=2))
    good = engine._runner.compute.next

    def broken(*args):
        if engine.counters.decoded >= 4:
            raise RuntimeError("out of luck")
        return good(*args)

    monkeypatch.setattr(engine._runner.compute, "next", broken)

    async def three():
        return await asyncio.gather(
            *[engine.sample((s,), SamplingParams(max_tokens=9)) for s in range(3)], return_exceptions=True
        )

    faults = asyncio.run(three())
    assert [type(f) for f in faults] == [PolicyFault] * 3
    assert "out of luck" in str(faults[0]) and isinstance(faults[0].__cause__, RuntimeError)
    monkeypatch.setattr(engine._runner.compute, "next", good)
    assert run(engine, (1,)) == run(EmbeddedEngine(decoder), (1,))


def test_requests_left_by_a_dead_loop_do_not_disturb(decoder):
    engine = EmbeddedEngine(decoder)

    async def abandon():
        task = asyncio.create_task(engine.sample((1, 2), SamplingParams(max_tokens=60)))
        while engine.counters.decoded < 3:
            await asyncio.sleep(0)
        del task

    asyncio.run(abandon())
    assert run(engine, (1, 2)).ids == run(EmbeddedEngine(decoder), (1, 2)).ids


def test_more_requests_than_slots_are_served_in_order(decoder):
    engine = EmbeddedEngine(decoder, EngineConfig(slots=3))
    order = []

    async def one(i):
        await engine.sample((i,), SamplingParams(max_tokens=4, seed=i))
        order.append(i)

    async def all_of_them():
        await asyncio.gather(*[one(i) for i in range(9)])

    asyncio.run(all_of_them())
    assert order == list(range(9))
    assert engine.counters.steps == 12


def test_ready_coroutines_join_the_same_step(decoder):
    engine = EmbeddedEngine(decoder)

    async def episode(i):
        prompt = (i,)
        for turn in range(3):
            got = await engine.sample(prompt, SamplingParams(max_tokens=5, seed=turn))
            for _ in range(2):
                await asyncio.sleep(0)  # an environment with a few hops of its own
            prompt = (*prompt, *got.ids, 5)

    async def play():
        await asyncio.gather(*[episode(i) for i in range(6)])

    asyncio.run(play())
    assert engine.counters.steps == 15  # never a step with only some of them


def test_more_episodes_than_slots_do_not_throw_each_other_out(decoder):
    engine = EmbeddedEngine(decoder, EngineConfig(slots=4))
    cached = []

    async def episode(i):
        prompt = (i, i + 1, i + 2)
        for turn in range(3):
            got = await engine.sample(prompt, SamplingParams(max_tokens=5, seed=turn, cache_key=str(i)))
            cached.append((turn, got.cached_tokens - len(prompt)))
            prompt = (*prompt, *got.ids, 5)
        engine.release(str(i))

    async def play():
        await asyncio.gather(*[episode(i) for i in range(12)])

    asyncio.run(play())
    assert engine.counters.evicted == 0
    assert {(t, c) for t, c in cached if t > 0} == {(1, -2), (2, -2)}  # all but the new id and the last one produced
