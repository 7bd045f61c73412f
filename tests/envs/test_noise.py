"""The imperfect channel: what it does to answers, and what it leaves alone."""

import asyncio
from dataclasses import replace

import pytest

from phronesis.env import Admits, Expert, Legal, Snapshots
from phronesis.envs import registry
from phronesis.envs.noise import LOST, Noise, noisy
from phronesis.envs.scripted import Clock, expert, play_scripted
from phronesis.envs.trouble import Trouble, troubled
from phronesis.errors import ConfigError


def played(noise, index=0, seed=1):
    spec = noisy(registry.get("guess"), noise)
    return asyncio.run(play_scripted(spec, spec.task("train", index), seed, expert(), clock=Clock(5)))


def texts(found):
    return [[m.text for m in reply.messages] for reply in found.replies]


def test_a_dropped_answer_is_a_note_and_the_world_goes_on():
    clear, lossy = played(Noise()), played(Noise(drop=1.0))
    assert lossy.actions == clear.actions  # the expert sees the world itself
    assert {t for reply in texts(lossy) for t in reply} == {LOST}
    assert [r.reward for r in lossy.replies] == [r.reward for r in clear.replies]
    assert all(r.metrics["noise_dropped"] == 1 for r in lossy.replies)
    assert lossy.opening == clear.opening


def test_a_corrupted_answer_differs_in_an_eighth():
    clear, garbled = played(Noise()), played(Noise(corrupt=1.0))
    for good, bad in zip(texts(clear), texts(garbled), strict=True):
        differing = sum(a != b for a, b in zip(good[0], bad[0], strict=True))
        assert differing == max(1, sum(c.isalnum() for c in good[0]) // 8)


def test_a_delayed_answer_comes_with_the_next():
    clear, late = texts(played(Noise())), texts(played(Noise(delay=1.0)))
    assert late[0] == [LOST]
    assert late[1] == [f"(late) {clear[0][0]}\n{LOST}"]


def test_equal_seeds_hit_equal_answers():
    noise = Noise(drop=0.3, corrupt=0.3, delay=0.3)
    assert texts(played(noise, seed=4)) == texts(played(noise, seed=4))
    assert len({str(texts(played(noise, seed=s))) for s in range(6)}) > 1


def test_a_snapshot_holds_the_channel():
    spec = noisy(registry.get("guess"), Noise(delay=0.5, corrupt=0.5))

    async def run():
        env, fresh = spec.make(), spec.make()
        await env.reset(spec.task("train", 3), 2)
        first = await env.step(await env.expert())
        state = await env.snapshot()
        await fresh.restore(state)
        action = await env.expert()
        return first, await env.step(action), await fresh.step(action)

    first, there, here = asyncio.run(run())
    assert there == here
    assert first.metrics


@pytest.mark.parametrize("noise", [Noise(drop=-0.1), Noise(corrupt=1.5), Noise(drop=0.6, delay=0.6)])
def test_what_is_no_chance_is_refused(noise):
    with pytest.raises(ConfigError, match="noise"):
        noisy(registry.get("guess"), noise)


def test_a_clear_channel_is_no_channel():
    spec = registry.get("guess")
    assert noisy(spec, Noise()) is spec


def test_the_channel_has_the_capabilities_of_its_world():
    with_all = noisy(registry.get("guess"), Noise(drop=1.0)).make()
    without = noisy(registry.get("blackjack"), Noise(drop=1.0)).make()
    inner = registry.get("blackjack").make()
    for capability in (Expert, Legal, Snapshots):
        assert isinstance(with_all, capability)
        assert isinstance(without, capability) is isinstance(inner, capability)


@pytest.mark.parametrize("behind", [lambda s: noisy(s, Noise(drop=0.5)), lambda s: troubled(s, Trouble(faults=0.1))])
def test_a_world_that_waits_for_its_place_does_so_behind_channels_too(behind):
    """Else the time would be the world's, and `limits.env_seconds` would end it. What the world can do, it may learn there."""
    plain = registry.get("blackjack")

    class Waits:
        waits_for, reset, step, close = "a place", None, None, None

        async def admit(self):
            async def state(given=b"here"):
                return given

            self.snapshot = self.restore = state

    spec = behind(replace(plain, make=Waits))

    async def run():
        env = spec.make()
        assert isinstance(env, Admits) and env.waits_for == "a place" and not isinstance(env, Snapshots)
        await env.admit()
        assert isinstance(env, Snapshots) and isinstance(env, Admits)
        assert await env.snapshot()

    asyncio.run(run())
    assert not isinstance(behind(plain).make(), Admits)
