"""Verified attempts as credit: which are kept, how the others are counted, and that it is supervised learning on them."""

from __future__ import annotations

import asyncio

import pytest

from phronesis.credit import VerifiedCredit, why_left_out
from phronesis.errors import ConfigError
from phronesis.records import Component, Episode, EpisodeGroup, Failure, Finish, Reward, Stop, Task, Turn

TASK = Task(id="t", env="toy")


def attempt(said: tuple[int, ...], reward: float | None) -> Episode:
    turn = Turn(
        parent=None, context=(1,), completion=said, sampled=(True, *[False] * (len(said) - 1)),
        logprobs=(-1.0,) * len(said), finish=Finish.stop, prompt_crc=0,
    )  # fmt: skip
    if reward is None:
        broken = Failure(where="env.step", kind="E", message="")
        return Episode(id="x", task=TASK, seed=0, turns=(turn,), stop=Stop.env_fault, failure=broken)
    scored = Reward(components=(Component(name="r", score=reward),))
    return Episode(id="e", task=TASK, seed=0, turns=(turn,), stop=Stop.completed, reward=scored)


def test_worked_numbers():
    said = [("a",), ("a",), ("b",), ("c",)]
    assert why_left_out([1, 1, 0, 1], said) == [None, "duplicate", "failed", None]
    assert why_left_out([1, 1, 0, 1], said, cap=1) == [None, "duplicate", "failed", "over_cap"]
    assert why_left_out([0.5, 0.4], said[2:], success=0.5) == [None, "failed"] and why_left_out([], []) == []
    assert why_left_out([float("nan")], said[:1]) == ["failed"]


def test_credit_is_one_for_kept_attempts_and_the_others_say_why():
    attempts = (attempt((2, 3), 1.0), attempt((2, 3), 1.0), attempt((4,), None), attempt((5,), 0.0), attempt((6,), 1.0))
    credit = asyncio.run(VerifiedCredit().assign(EpisodeGroup(id="g", task=TASK, episodes=attempts)))
    assert credit.values == (((1.0, 0.0),), None, None, None, ((1.0,),))
    assert credit.reasons == (None, "duplicate", "env_fault", "failed", None) and not credit.zero_variance
    none = asyncio.run(VerifiedCredit().assign(EpisodeGroup(id="g", task=TASK, episodes=attempts[3:4])))
    assert none.values == (None,) and none.zero_variance
    with pytest.raises(ConfigError, match="cap 0"):
        VerifiedCredit(cap=0)
