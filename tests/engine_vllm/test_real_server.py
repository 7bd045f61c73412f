"""A real vLLM server behind the policy: what it samples, what it says of it, and what new weights do to it."""

from __future__ import annotations

import asyncio

import pytest
from vllm_worlds import VOCAB, Player, off

from phronesis.engine.vllm.config import VLLMConfig
from phronesis.engine.vllm.engine import VLLMEngine
from phronesis.engine.vllm.fleet import Fleet
from phronesis.errors import ConfigError, PolicyFault
from phronesis.policy import SamplingParams, ThoughtBudget, prompt_crc
from phronesis.records import Finish

PROMPT = tuple(range(40, 70))
pytestmark = pytest.mark.timeout(900)  # the first test waits for the server to start
NEAR = 2e-4
"""Nats between two programs that compute the same in float32."""


def attached(player: Player, **changes) -> VLLMEngine:
    """An engine on the same server, as if somebody else had started it."""
    player_fleet = player.engine.fleet
    url = player_fleet.servers[0].url
    fleet = Fleet(VLLMConfig(urls=(url,), health_seconds=0.5, **({"reload": "phronesis_reload"} | changes)))
    return VLLMEngine(fleet, vocab_size=VOCAB, save=player.engine._save, score=player.engine._score)


SETTINGS = {
    "plain": {},
    "cold": {"temperature": 0.6},
    "hot": {"temperature": 1.7},
    "nucleus": {"top_p": 0.8},
    "few": {"top_k": 5},
    "floor": {"min_p": 0.1},
    "cold nucleus": {"temperature": 0.6, "top_p": 0.9},
    "greedy": {"temperature": 0.0},
}


async def test_logprobs_are_those_of_the_distribution_sampled_from(player: Player):
    for name, how in SETTINGS.items():
        params = SamplingParams(max_tokens=24, seed=5, forced=(50, 51, 52), **how)
        said = await player.engine.sample(PROMPT, params)
        again = await player.here.sample(PROMPT, SamplingParams(max_tokens=24, forced=said.ids, **how))
        assert off(said.logprobs, again.logprobs) < (NEAR if name != "nucleus" else 1e-2), name
        assert said.ids[:3] == (50, 51, 52) and said.sampled == (False,) * 3 + (True,) * 21
        assert (said.finish, said.prompt_crc) == (Finish.length, prompt_crc(PROMPT))
        assert (await player.engine.sample(PROMPT, params)).ids == said.ids, name  # the seed decides
    other = [await player.engine.sample(PROMPT, SamplingParams(max_tokens=24, seed=s)) for s in (1, 2)]
    assert other[0].ids != other[1].ids


async def test_draws_follow_the_distribution(player: Player):
    params = [SamplingParams(max_tokens=1, seed=s) for s in range(300)]
    said = await asyncio.gather(*(player.engine.sample(PROMPT, p) for p in params))
    expected = {i: (await player.here.score((*PROMPT, i)))[-1] for i in {s.ids[0] for s in said}}
    top = max(expected, key=lambda i: expected[i])
    p = 2.718281828 ** expected[top]
    seen = sum(s.ids[0] == top for s in said) / len(said)
    assert abs(seen - p) < 4 * (p * (1 - p) / len(said)) ** 0.5


async def test_scores_stops_budgets_and_the_context(player: Player):
    engine = player.engine
    ids = [*PROMPT, *range(100, 140)]
    for temperature in (1.0, 0.7):
        assert off(await engine.score(ids, temperature), await player.here.score(ids, temperature)) < NEAR
    free = await engine.sample(PROMPT, SamplingParams(max_tokens=30, seed=3))
    stop = free.ids[10]
    first = free.ids.index(stop)
    said = await engine.sample(PROMPT, SamplingParams(max_tokens=30, seed=3, stop_ids=(stop,)))
    assert (said.ids, said.finish) == (free.ids[: first + 1], Finish.stop)
    budget = ThoughtBudget(max_tokens=6, open_id=PROMPT[-1], close_ids=(20, 21))
    thought = await engine.sample(PROMPT, SamplingParams(max_tokens=30, seed=3, thought=budget))
    assert thought.ids[6:8] == (20, 21) and thought.sampled == (True,) * 6 + (False,) * 2 + (True,) * 22
    again = await player.here.sample(PROMPT, SamplingParams(max_tokens=30, forced=thought.ids))
    assert off(thought.logprobs, again.logprobs) < NEAR
    full = await engine.sample([7] * 505, SamplingParams(max_tokens=30))
    assert (len(full.ids), full.finish) == (7, Finish.context)
    with pytest.raises(PolicyFault, match="context holds"):
        await engine.sample([7] * 512, SamplingParams(max_tokens=1))
    with pytest.raises(PolicyFault, match="vocabulary"):
        await engine.sample([VOCAB], SamplingParams(max_tokens=1))


async def test_turns_of_an_episode_find_their_prefix_in_the_cache(player: Player):
    prompt = [*range(30, 60)] * 10
    first = await player.engine.sample(prompt, SamplingParams(max_tokens=2, cache_key="e"))
    second = await player.engine.sample([*prompt, *first.ids, 9], SamplingParams(max_tokens=2, cache_key="e"))
    assert first.cached_tokens == 0 and second.cached_tokens >= 256  # whole blocks of 128
    player.engine.advance()  # nothing that older weights computed is used again
    third = await player.engine.sample([*prompt, *first.ids, 9], SamplingParams(max_tokens=2, cache_key="e"))
    assert third.cached_tokens == 0


async def test_new_weights_in_the_middle_of_completions(player: Player):
    """Every token is of the weights its version says, computed anew from all ids before it."""
    engine, old = player.engine, player.frozen()
    await engine.sample(PROMPT, SamplingParams(max_tokens=1))

    async def update():
        while engine.fleet.servers[0].load < 24:
            await asyncio.sleep(0.01)
        await engine.sample(PROMPT, SamplingParams(max_tokens=60))  # beside them: when it is done, they have said as much
        player.change(1)
        engine.advance()

    updating = asyncio.create_task(update())
    asked = [SamplingParams(max_tokens=300, seed=s) for s in range(24)]
    said = await asyncio.gather(*(engine.sample((*PROMPT, 60 + p.seed), p) for p in asked))
    await updating
    crossed = 0
    for params, s in zip(asked, said, strict=True):
        whole, start = (*PROMPT, 60 + params.seed, *s.ids), len(PROMPT)
        before, after = (await old.score(whole))[start:], (await player.here.score(whole))[start:]
        switch = next((t for t in range(len(s.ids)) if abs(before[t] - s.logprobs[t]) > NEAR), len(s.ids))
        assert off(after[switch:], s.logprobs[switch:]) < NEAR
        crossed += 0 < switch < len(s.ids)
        if switch:
            assert s.version == ((0, 1) if switch < len(s.ids) else (0, 0))
        else:  # asked before, begun or not, and without a token when the new weights came
            assert s.version in ((0, 1), (1, 1))
    assert crossed >= 8


async def test_weights_back_and_forth(player: Player):
    ids = [*PROMPT, *range(100, 120)]
    first = await player.engine.score(ids)
    state = {name: value.clone() for name, value in player.decoder.state_dict().items()}
    player.change(2)
    player.engine.advance()
    second = await player.engine.score(ids)
    assert off(first, second) > 0.1 and off(second, await player.here.score(ids)) < NEAR
    player.decoder.load_state_dict(state)
    player.engine.advance()
    assert off(await player.engine.score(ids), first) < 1e-6
    assert len(player.engine.update_seconds) == 3


async def test_the_completions_route(player: Player):
    await player.engine.settle()
    engine = attached(player, route="completions")
    try:
        said = await engine.sample(PROMPT, SamplingParams(max_tokens=12, seed=4, forced=(50,), top_p=1.0))
        again = await player.here.sample(PROMPT, SamplingParams(max_tokens=12, forced=said.ids))
        assert off(said.logprobs, again.logprobs) < NEAR and said.prompt_crc == prompt_crc(PROMPT)
        assert off(await engine.score(PROMPT), await player.here.score(PROMPT)) < NEAR
        with pytest.raises(ConfigError, match="route"):
            await engine.sample(PROMPT, SamplingParams(max_tokens=2, forced=(50,), temperature=0.5))
        player.change(3)
        engine.advance()
        new = await engine.sample(PROMPT, SamplingParams(max_tokens=12, seed=4))
        again = await player.here.sample(PROMPT, SamplingParams(max_tokens=12, forced=new.ids))
        assert new.version == (1, 1) and off(new.logprobs, again.logprobs) < NEAR
    finally:
        await engine.fleet.close()


async def test_vllm_for_the_cpu_keeps_a_tied_head_and_the_probe_finds_it(player: Player):
    """A server that somebody else started without our worker: it takes the weights, except for the output head."""
    await player.engine.settle()
    engine = attached(player, reload="reload_weights", recover_seconds=1.0)
    try:
        player.change(4, scale=0.2)
        engine.advance()
        with pytest.raises(PolicyFault, match="nats off"):
            await engine.sample(PROMPT, SamplingParams(max_tokens=2))
    finally:
        await engine.fleet.close()


async def test_an_engine_takes_over_the_fleet_of_another(player: Player):
    other = Player(player.engine.fleet, seed=8)
    for who in (player, other, player):
        said = await who.engine.sample(PROMPT, SamplingParams(max_tokens=5))
        again = await who.here.sample(PROMPT, SamplingParams(max_tokens=5, forced=said.ids))
        assert off(said.logprobs, again.logprobs) < NEAR
