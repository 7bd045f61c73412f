"""Several environments as one: each task is played and judged by its own."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from phronesis.envs import probes
from phronesis.envs.mixture import mix, named
from phronesis.errors import ConfigError, EnvFault
from phronesis.records import Component, Episode, EpisodeGroup, Reward, Stop, Task


class Says:
    """A rubric that gives everybody one number."""

    def __init__(self, score: float):
        self.number = score

    async def score(self, group):
        return [Reward(components=(Component(name="said", score=self.number),)) for _ in group.episodes]


def pair():
    return mix({"one": replace(probes.bandit(), rubric=Says(1.0)), "two": replace(probes.copy(), rubric=Says(2.0))})


def test_tasks_come_in_turn_and_carry_the_name_of_their_part():
    mixed, bandit, copy = pair(), probes.bandit().task("train", 0).id, probes.copy()
    tasks = [mixed.task("train", i) for i in range(4)]
    assert [t.env for t in tasks] == ["one", "two", "one", "two"]
    assert [t.id for t in tasks] == [bandit, copy.task("train", 0).id, bandit, copy.task("train", 1).id]
    assert tasks[3].payload == copy.task("train", 1).payload


def test_a_group_is_judged_by_the_rubric_of_its_part():
    mixed = pair()
    for index, expected in ((0, 1.0), (1, 2.0)):
        task = mixed.task("train", index)
        group = EpisodeGroup(id="g", task=task, episodes=(Episode(id="e", task=task, seed=0, stop=Stop.completed),))
        (reward,) = asyncio.run(mixed.rubric.score(group))
        assert reward.value == expected


def test_one_of_none_of_them_is_a_fault_with_names():
    stranger = Task(id="x", env="three")
    with pytest.raises(EnvFault, match=r"'three'.*one, two"):
        pair().of(stranger)
    with pytest.raises(EnvFault, match="'three'"):
        asyncio.run(pair().rubric.score(EpisodeGroup(id="g", task=stranger, episodes=())))


def test_a_part_plays_as_it_would_alone():
    """Same opening, same reply, though the name is another."""
    mixed, alone = pair(), probes.copy()

    async def opening(spec, task):
        env = spec.of(task).make()
        reply = await env.reset(task, 7)
        await env.close()
        return reply

    assert asyncio.run(opening(mixed, mixed.task("train", 1))) == asyncio.run(opening(alone, alone.task("train", 0)))
    assert alone.of(Task(id="any", env="any")) is alone


def test_what_the_parts_promise_is_averaged_where_all_do():
    bandit = probes.bandit()
    both = mix(
        {
            "a": replace(bandit, oracle_reward=1.0, chance_reward=0.5),
            "b": replace(bandit, oracle_reward=0.4, chance_reward=None),
        }
    )
    assert both.oracle_reward == pytest.approx(0.7) and both.chance_reward is None


def test_a_part_with_fewer_tasks_begins_again():
    """The bandit has one task, the copy probe several; the whole is as long as twice the longer one."""
    mixed = pair()
    longest = max(probes.bandit().sizes["train"] or 0, probes.copy().sizes["train"] or 0)
    assert probes.bandit().sizes["train"] == 1 and mixed.sizes["train"] == 2 * longest
    assert mixed.task("train", 0).id == mixed.task("train", 2).id != mixed.task("train", 1).id
    endless = mix({"a": replace(probes.bandit(), sizes={"train": None}), "b": probes.copy()})
    assert endless.sizes == {"train": None}


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        mix({})
    with pytest.raises(ConfigError, match="is a mixture itself"):
        mix({"a": pair()})
    with pytest.raises(ConfigError, match="agents outside"):
        mix({"a": replace(probes.bandit(), playable=False)})
    with pytest.raises(ConfigError, match="of\\(task\\)"):
        pair().make()


def test_a_name_reaches_every_task():
    assert named(probes.bandit(), "mine").task("heldout", 0).env == "mine"
