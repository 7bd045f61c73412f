"""Soft overlong punishment and the rewards of self-play."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.errors import ConfigError
from phronesis.records import Component, Episode, EpisodeGroup, Finish, Reward, Stop, Task, Turn
from phronesis.rewards import AllOf, FunctionRubric, Overlong, formatted_reward, overlong, proposal_reward

TASK = Task(id="t", env="e")


def spoken(sampled, given=0, stop=Stop.completed):
    turn = Turn(
        parent=None,
        context=(1,),
        completion=(7,) * (sampled + given),
        sampled=(True,) * sampled + (False,) * given,
        logprobs=(-1.0,) * (sampled + given),
        finish=Finish.stop,
        prompt_crc=0,
    )
    return Episode(id=f"e{sampled}", task=TASK, seed=0, turns=(turn,), stop=stop)


def test_overlong_numbers():
    assert [overlong(n, 20480, 4096) for n in (0, 16384, 18432, 20480, 20481)] == [0, 0, -0.5, -1, -1]
    assert [overlong(n, 1000, 100) for n in (100, 900, 950, 1000, 1001)] == [0, 0, -0.5, -1, -1]
    assert [overlong(n, 10, 0) for n in (10, 11)] == [0, -1], "without a cushion it is a cliff"


@given(st.integers(0, 300), st.integers(1, 200), st.data())
def test_overlong_never_rises(length, longest, data):
    cushion = data.draw(st.integers(0, longest))
    assert -1 <= overlong(length + 1, longest, cushion) <= overlong(length, longest, cushion) <= 0


def test_the_rubric_counts_sampled_tokens_and_joins_others():
    right = FunctionRubric(lambda episode: 1.0, name="right")
    rubric = AllOf(right, Overlong(longest=100, cushion=20, weight=0.5))
    episodes = (spoken(80), spoken(90, given=50), spoken(101), spoken(90, stop=Stop.env_fault))
    found = asyncio.run(rubric.score(EpisodeGroup(id="g", task=TASK, episodes=episodes)))
    assert [r.value for r in found] == [1.0, 0.75, 0.5, None]
    assert found[1] == Reward(
        components=(Component(name="right", score=1.0), Component(name="overlong", score=-0.5, weight=0.5))
    )


@pytest.mark.parametrize(("longest", "cushion"), [(0, 0), (10, 11), (10, -1)])
def test_lengths_that_cannot_be(longest, cushion):
    with pytest.raises(ConfigError, match="cushion"):
        Overlong(longest=longest, cushion=cushion)


def test_self_play():
    assert [proposal_reward(a) for a in (0.0, 0.125, 0.5, 0.875, 1.0)] == [0, 0.875, 0.5, 0.125, 0]
    pairs = [(0.5, True), (0.0, True), (0.5, False), (1.0, True), (-2.0, True)]
    assert [formatted_reward(r, formatted=f) for r, f in pairs] == [0.5, -0.5, -1, 1, -0.5]
