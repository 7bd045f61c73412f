"""Dynamic sampling: replaces groups without signal, within bounds, counted; without it nothing changes."""

import asyncio

import pytest
from msgspec.structs import replace
from tiny_jobs import Stopped, config, essence, stop_at

from phronesis.credit import ReinforcePPCredit
from phronesis.errors import ConfigError
from phronesis.records import Component, Episode, EpisodeGroup, Reward, Stop, Task
from phronesis.store import Run
from phronesis.store.index import Where
from phronesis.train import job
from phronesis.train.config import EnvChoice, EvalConfig
from phronesis.train.dynamic import DynamicConfig, sample
from phronesis.train.metrics import undefined

TASK = Task(id="t", env="toy")


def played(name, *rewards):
    episodes = tuple(
        Episode(
            id=f"{name}-{i}", task=TASK, seed=0, stop=Stop.completed, reward=Reward(components=(Component(name="r", score=r),))
        )
        for i, r in enumerate(rewards)
    )
    return EpisodeGroup(id=name, task=TASK, episodes=episodes)


def script(*signals):
    """Plays groups whose signal is written down, and remembers what was asked."""
    left, asked = list(signals), []

    async def play(n, first):
        asked.append((n, first))
        groups = [played(f"{first + i}", 1.0, 0.0 if live else 1.0) for i, live in enumerate(left[:n])]
        del left[:n]
        return groups

    return play, asked


def sampled(signals, wanted, rounds):
    play, asked = script(*signals)
    found = asyncio.run(sample(play, wanted, rounds))
    return [g.id for g in found.groups], [g.id for g in found.spare], found.rounds, asked


def test_one_round_takes_what_comes_in_order():
    assert sampled([0, 1, 0, 1], 4, 1) == (["0", "1", "2", "3"], [], 1, [(4, 0)])


def test_missing_groups_are_replaced():
    found = sampled([1, 0, 0, 1, 0, 1, 1], 4, 5)
    assert found == (["0", "3", "5", "6"], ["1", "2", "4"], 3, [(4, 0), (2, 4), (1, 6)])


def test_the_bound_holds_and_the_rest_is_filled_up_in_order():
    assert sampled([0, 1, 0, 1, 0, 1], 4, 2) == (["0", "1", "3", "5"], ["2", "4"], 2, [(4, 0), (2, 4)])
    assert sampled([0] * 9, 2, 3) == (["0", "1"], ["2", "3", "4", "5"], 3, [(2, 0), (2, 2), (2, 4)])


def test_tasks_may_run_out():
    assert sampled([1, 0], 3, 9) == (["0", "1"], [], 1, [(3, 0), (2, 2)])
    assert sampled([], 3, 9) == ([], [], 0, [(3, 0)])


def test_faults_are_no_signal():
    broken = replace(played("b", 1.0, 0.0), episodes=(replace(played("b", 1.0).episodes[0], stop=Stop.env_fault, reward=None),))

    async def play(n, first):
        return [broken] * n

    assert asyncio.run(sample(play, 1, 2)).rounds == 2


def test_the_bound_must_allow_one_round():
    with pytest.raises(ConfigError, match="max_rounds 0"):
        DynamicConfig(max_rounds=0)


def test_a_group_of_one_never_differs():
    with pytest.raises(ConfigError, match="dynamic sampling with group_size 1"):
        config(groups=8, group_size=1, credit=ReinforcePPCredit(), dynamic=DynamicConfig()).validate()


def tiny(**changes):
    changes = {"env": EnvChoice(name="own_worlds:sometimes"), "evaluation": EvalConfig(tasks=0), "steps": 2} | changes
    return config(**changes)


def test_a_run_learns_from_groups_with_signal_and_counts_the_others(tmp_path):
    job.run(tiny(dynamic=DynamicConfig(max_rounds=6)), tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        assert [v for _, v in run.curve("signal/groups")] == [2.0, 2.0]
        replaced = [v for _, v in run.curve("signal/replaced")]
        counts = [v for _, v in run.curve("episode/count")]
        assert counts == [4 * (2 + r) for r in replaced] and sum(replaced) > 0
        rounds = [v for _, v in run.curve("signal/rounds")]
        assert max(rounds) > 1 and undefined(k for s in run.steps() for k in s.values) == ()
        rows = run.rows(Where(kind="train"))
        assert len({r.id for r in rows}) == len(rows) == sum(counts), "every episode is kept, under a name of its own"


def test_one_round_is_the_plain_loop_bit_for_bit(tmp_path):
    plain = config(evaluation=EvalConfig(tasks=0))
    job.run(plain, tmp_path / "plain")
    job.run(replace(plain, dynamic=DynamicConfig(max_rounds=1)), tmp_path / "one")
    a, b = essence(tmp_path / "plain", plain.steps), essence(tmp_path / "one", plain.steps)
    assert a["weights"] == b["weights"] and a["episodes"] == b["episodes"]


def test_a_resumed_run_samples_the_same(tmp_path):
    chosen = tiny(dynamic=DynamicConfig(max_rounds=4), steps=4, checkpoint_every=2)
    job.run(chosen, tmp_path / "whole")
    with pytest.raises(Stopped):
        job.run(chosen, tmp_path / "cut", listener=stop_at("train", 3))
    job.run(chosen, tmp_path / "cut", resume=True)
    assert essence(tmp_path / "whole", 4) == essence(tmp_path / "cut", 4)
