"""Pins: what an environment's rewards become, that faults stay unscored, which turns count, and functions as rubrics."""

from __future__ import annotations

import asyncio
import math

import pytest

from phronesis.errors import ConfigError, EnvFault
from phronesis.records import Component, Episode, EpisodeGroup, Finish, Reply, Reward, Stop, Task, Turn
from phronesis.rewards import AllOf, EnvReward, FunctionRubric, acted_turns

TASK = Task(id="t", env="e", payload={"answer": 4})


def turn(parent, reply):
    return Turn(
        parent=parent, context=(), completion=(), sampled=(), logprobs=(), finish=Finish.stop, prompt_crc=0, reply=reply
    )  # fmt: skip


def episode(*rewards, stop=Stop.completed, parents=None, metrics=()):
    parents = parents or [None, *range(len(rewards) - 1)]
    metrics = metrics or [{}] * len(rewards)
    replies = [None if r == "unacted" else Reply(reward=r, metrics=m) for r, m in zip(rewards, metrics, strict=True)]
    return Episode(id="e", task=TASK, seed=0, stop=stop, turns=tuple(map(turn, parents, replies)))


def score(rubric, *episodes):
    group = EpisodeGroup(id="g", task=TASK, episodes=episodes)
    return list(asyncio.run(rubric.score(group)))


def test_turn_rewards_stay_at_their_turns():
    (reward,) = score(EnvReward(), episode(None, 0.25, 0.5))
    assert [(c.score, c.turn) for c in reward.components] == [(0.25, 1), (0.5, 2)]
    assert reward.value == 0.75
    assert reward.by_turn(3) == (0.0, 0.25, 0.5)


def test_episode_reward_is_the_sum_and_falls_on_the_last_turn():
    (reward,) = score(EnvReward(by="episode", name="game", weight=2.0), episode(None, 0.25, 0.5))
    assert reward == Reward(components=(Component(name="game", score=0.75, weight=2.0),))
    assert reward.by_turn(3) == (0.0, 0.0, 1.5)


def test_differences_of_a_running_total_give_the_total_back_exactly():
    totals = [0.1, 0.2, 0.9]
    differences = [b - a for a, b in zip([0.0, *totals], totals, strict=False)]
    assert math.fsum(differences) == 0.8999999999999999
    (reward,) = score(EnvReward(by="episode"), episode(*differences))
    assert reward.value == 0.9


@pytest.mark.parametrize("stop", [Stop.env_fault, Stop.infra_fault, Stop.cancelled])
def test_faults_stay_unscored(stop):
    rewards = score(EnvReward(), episode(1.0, stop=stop), episode(1.0))
    assert (rewards[0].components, rewards[0].value) == ((), None)
    assert rewards[1].value == 1.0
    assert score(FunctionRubric(lambda e: 1.0), episode(1.0, stop=stop))[0].value is None


@pytest.mark.parametrize("stop", [Stop.completed, Stop.max_turns, Stop.timeout])
def test_an_attempt_that_earned_nothing_is_a_failure_not_a_gap(stop):
    assert score(EnvReward(), episode(None, None, stop=stop))[0].value == 0.0
    assert score(EnvReward(), episode(stop=stop))[0].value == 0.0
    assert score(EnvReward(unrewarded=None), episode(None, stop=stop))[0].value is None


def test_metrics_for_people_are_audit_components():
    rubric = EnvReward(audit_metrics=("raw",))
    (reward,) = score(rubric, episode(1.0, 0.0, metrics=[{"raw": -2.0}, {"raw": -1.0}]))
    assert reward.value == 1.0
    assert reward.component("raw") == Component(name="raw", score=-3.0, audit=True)
    assert score(rubric, episode(1.0))[0].component("raw").score is None


def test_rewritten_history_counts_every_turn_and_a_fork_only_the_last_line():
    rewritten = episode(1.0, 2.0, 4.0, parents=[None, None, 1])
    assert acted_turns(rewritten) == (0, 1, 2)
    assert score(EnvReward(), rewritten)[0].value == 7.0
    forked = episode(1.0, 2.0, 4.0, 8.0, parents=[None, 0, 0, 2])
    assert acted_turns(forked) == (0, 2, 3)
    assert score(EnvReward(), forked)[0].value == 13.0
    assert acted_turns(episode(1.0, "unacted")) == (0,)


def test_functions_may_return_numbers_names_or_rewards_sync_or_async():
    async def later(e):
        return {"right": 1.0, "short": 0.5, "hack": 3.0}

    rubric = FunctionRubric(later, weights={"short": 0.1}, audit=["hack"])
    (reward,) = score(rubric, episode(None))
    assert [(c.name, c.score, c.weight, c.audit) for c in reward.components] == [
        ("right", 1.0, 1.0, False),
        ("short", 0.5, 0.1, False),
        ("hack", 3.0, 1.0, True),
    ]
    assert reward.value == pytest.approx(1.05)

    def right(e):
        return e.task.payload["answer"] == 4

    (reward,) = score(FunctionRubric(right, weights=2.0), episode(None))
    assert (reward.components[0].name, reward.value) == ("right", 2.0)
    own = Reward(components=(Component(name="own", score=0.5, turn=0),))
    assert score(FunctionRubric(lambda e: own), episode(None)) == [own]


def test_unscored_is_not_zero():
    assert score(FunctionRubric(lambda e: None), episode(None))[0].value is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "1.0", [1.0], {"a": "b"}])
def test_a_judgement_that_is_no_number_is_a_fault_of_the_rubric(bad):
    with pytest.raises(EnvFault, match=r"rubric 'judge' failed on 'e'"):
        score(FunctionRubric(lambda e: bad, name="judge"), episode(None))


def test_a_raising_function_names_the_episode():
    def judge(e):
        raise KeyError("bug")

    with pytest.raises(EnvFault, match="rubric 'judge' failed on 'e': KeyError: 'bug'") as error:
        score(FunctionRubric(judge), episode(None))
    assert isinstance(error.value.__cause__, KeyError)


def test_rubrics_join():
    rubric = AllOf(EnvReward(), FunctionRubric(lambda e: 0.5, name="style", weights=0.2))
    (reward,) = score(rubric, episode(1.0))
    assert [c.name for c in reward.components] == ["env", "style"]
    assert reward.value == pytest.approx(1.1)
    assert score(rubric, episode(1.0, stop=Stop.env_fault))[0].value is None
    with pytest.raises(ConfigError):
        AllOf()
