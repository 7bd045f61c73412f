"""Trouble is none of the task's: what it does not break is the episode there would have been, and what it breaks is a fault."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from phronesis.env import Expert, Legal, Snapshots
from phronesis.envs import probes
from phronesis.envs.demonstrations import imperfect, with_demonstrations
from phronesis.envs.guess import make as guess
from phronesis.envs.scripted import Clock, expert, play_scripted
from phronesis.envs.trouble import Trouble, troubled
from phronesis.errors import ConfigError


async def outcome(spec, seed: int = 3) -> str:
    """How one attempt of the expert ends: its length, or what broke it."""
    try:
        played = await asyncio.wait_for(play_scripted(spec, spec.task("train", 1), seed, expert(), clock=Clock(9.0)), 0.2)
    except TimeoutError:
        return "hung"
    except Exception as error:
        return "broken" if "injected" in str(error) else f"else: {error!r}"
    return f"{len(played.actions)} actions"


def test_faults_and_hangs_come_as_often_as_asked():
    """300 attempts at .3 and .1: binomial, so 90 and 30 give or take three deviations; the rest is the plain episode."""
    plain, chance = guess(), random.Random(5)
    spec = troubled(plain, Trouble(faults=0.3, hangs=0.1, within=1), chance)

    async def all_of_them():
        return await asyncio.gather(*(outcome(spec) for _ in range(300)))

    found = asyncio.run(all_of_them())
    whole = asyncio.run(outcome(plain))
    assert set(found) == {"broken", "hung", whole}
    assert abs(found.count("broken") - 90) < 24 and abs(found.count("hung") - 30) < 16


def test_answers_are_held_back():
    spec = troubled(probes.copy(), Trouble(latency=(0.03, 0.05)))
    began = time.monotonic()
    assert asyncio.run(outcome(spec)) == "1 actions" and time.monotonic() - began >= 0.03


def test_capabilities_are_those_of_the_world():
    plain = guess().make()
    behind = troubled(guess(), Trouble(faults=0.5)).make()
    for capability in (Expert, Legal, Snapshots):
        assert isinstance(behind, capability) == isinstance(plain, capability)


@pytest.mark.parametrize(
    "bad", [Trouble(latency=(2.0, 1.0)), Trouble(faults=0.7, hangs=0.4), Trouble(faults=-0.1), Trouble(within=0)]
)
def test_what_cannot_be_is_refused(bad):
    with pytest.raises(ConfigError, match="trouble"):
        troubled(probes.bandit(), bad)


def test_demonstrations_of_an_imperfect_expert():
    """At 1 every guess is the bisecting expert's; at 0 the first guesses spread over the whole range."""

    def firsts(expertise: float) -> list[object]:
        spec = with_demonstrations(guess(), imperfect(expertise))
        assert spec.demonstrate is not None
        shown = [asyncio.run(spec.demonstrate(i, i)) for i in range(40)]
        return [c.exchanges[0][0].tool_calls[0].arguments["number"] for c in shown if c.exchanges[0][0].tool_calls]

    assert set(firsts(1.0)) == {4}
    assert len(set(firsts(0.0))) >= 6
    with pytest.raises(ConfigError, match="expertise"):
        imperfect(1.5)
