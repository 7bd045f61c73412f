"""Pins: demonstrations show real exchanges of the environment, repeat for equal arguments, and follow the chosen speaker."""

from __future__ import annotations

import asyncio

import pytest

from phronesis.env import Env
from phronesis.envs import guess, probes
from phronesis.envs.demonstrations import with_demonstrations
from phronesis.envs.scripted import expert
from phronesis.records import Message, ToolSpec


def show(spec, index, seed=0):
    assert spec.demonstrate is not None
    return asyncio.run(spec.demonstrate(index, seed))


def test_a_random_agent_shows_calls_and_their_answers():
    spec = with_demonstrations(guess.make())
    shown = [show(spec, i, seed=i) for i in range(40)]
    assert shown[0].tools[0].name == "guess" and "hidden number from 0 to 9" in shown[0].opening[0].text
    calls = [said.tool_calls[0] for c in shown for said, _ in c.exchanges]
    assert {call.arguments["number"] for call in calls} == set(range(10))  # uniform: every number shows up
    secret_0 = [(said.tool_calls[0].arguments["number"], heard[0].text) for said, heard in shown[0].exchanges]
    assert all(answer == ("correct" if number == 0 else "lower") for number, answer in secret_0)


def test_equal_arguments_show_the_same_and_seeds_differ():
    spec = with_demonstrations(guess.make())
    assert show(spec, 3, seed=5) == show(spec, 3, seed=5)
    assert len({str(show(spec, 3, seed=s).exchanges) for s in range(6)}) > 1


def test_indices_beyond_a_finite_split_begin_again():
    spec = with_demonstrations(probes.copy(2))
    size = spec.sizes["train"]
    assert size is not None
    assert show(spec, size + 1) == show(spec, 1)


def test_a_chosen_speaker_is_followed():
    spec = with_demonstrations(guess.make(), lambda _: expert())
    said = [m.tool_calls[0].arguments["number"] for m, _ in show(spec, 7).exchanges]
    assert said == [4, 7]  # bisection: lower half end first


def test_a_speaker_that_raises_is_not_hidden():
    async def speak(env: Env, tools: tuple[ToolSpec, ...]) -> Message:
        raise LookupError("nothing to say")

    with pytest.raises(LookupError, match="nothing to say"):
        show(with_demonstrations(guess.make(), lambda _: speak), 0)
