"""Playing groups and judging them.

Pinned: seeds depend on (seed, stream, step, group, member) alone; who else is playing changes no bit of an episode, down to
the logprobs of a real engine; a rubric that raises, hangs, returns garbage makes its whole group a fault without reward; a
fault never gets a reward, whatever the rubric says.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace as replace_data

import pytest
from rollout_worlds import TASK, Ones, Walk, policy_of, stage_of, thinking
from test_session_tokens import strip_times

from phronesis.chat.qwen import QwenFormat
from phronesis.engine.embedded import EmbeddedEngine
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.envs import probes
from phronesis.models.tiny import TinyModel, tiny
from phronesis.models.tokenizer import train_tokenizer
from phronesis.reason.react import ReAct
from phronesis.records import Component, Episode, EpisodeGroup, Failure, Reward, Stop
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.play import Stage, play_groups, score
from phronesis.seeding import stream

TINY = TinyModel(width=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_width=32, embed_std=0.4, matrix_std=0.1)


@pytest.fixture(scope="module")
def real():
    """A real, tiny engine on the recovery probe: several turns, tools, replies that depend on what is said."""
    spec = probes.recovery(busy=2)
    tokenizer = train_tokenizer(["look", "Look up the letter, then say it."] * 2, 290)
    decoder = tiny(TINY, len(tokenizer), 0)

    def stage() -> Stage:
        limits = Limits(max_turns=3, max_turn_tokens=6, context=512)
        engine = EmbeddedEngine(decoder)
        return Stage(spec=spec, policy=engine, chat=QwenFormat(tokenizer), agent=ReAct(), limits=limits)

    return stage


def groups_of(stage, n=2, size=3, **options):
    tasks = [stage.spec.task("train", i) for i in range(n)]
    return asyncio.run(play_groups(stage, tasks, size=size, seed=5, name="train", step=4, **options))


def bare(groups):
    return [strip_times(e) for g in groups for e in g.episodes]


def test_concurrency_changes_no_bit(real):
    alone, crowd = groups_of(real(), concurrency=1), groups_of(real(), concurrency=64)
    assert bare(alone) == bare(crowd)
    assert any(len(e.turns) > 1 or e.stop is Stop.completed for g in alone for e in g.episodes)
    again = groups_of(real(), n=1, size=2)
    assert bare(again) == [e for e in bare(crowd) if e.group == "train-4-0"][:2]


def test_ids_groups_and_seeds(real):
    stage = replace_data(real(), policy=ScriptedPolicy(lambda prompt: (5,), vocab_size=300))
    groups = groups_of(stage)
    assert [(g.id, [e.id for e in g.episodes]) for g in groups] == [
        ("train-4-0", ["train-4-0-0", "train-4-0-1", "train-4-0-2"]),
        ("train-4-1", ["train-4-1-0", "train-4-1-1", "train-4-1-2"]),
    ]
    assert [e.seed for g in groups for e in g.episodes] == [stream(5, "train", 4, g, m) for g in range(2) for m in range(3)]
    assert all(e.group == g.id and e.step == 4 and e.task is g.task for g in groups for e in g.episodes)
    tasks = [stage.spec.task("heldout", 0)]
    a = asyncio.run(play_groups(stage, tasks, size=1, seed=5, name="heldout_before", stream_name="heldout"))
    b = asyncio.run(play_groups(stage, tasks, size=1, seed=5, name="heldout_after", stream_name="heldout"))
    assert a[0].episodes[0].seed == b[0].episodes[0].seed == stream(5, "heldout", -1, 0, 0)
    assert (a[0].episodes[0].id, b[0].episodes[0].step) == ("heldout_before-0-0", None)


def test_no_more_episodes_than_allowed_are_in_flight():
    now, most = 0, 0

    class Crowded(Walk):
        async def reset(self, task, seed):
            nonlocal now, most
            now += 1
            most = max(most, now)
            return await super().reset(task, seed)

        async def close(self):
            nonlocal now
            now -= 1

    talk = policy_of(*[thinking(None, "stop")] * 12)
    heard: list[Episode] = []
    stage = stage_of(Crowded, talk)
    groups = asyncio.run(play_groups(stage, [TASK] * 4, size=3, seed=0, name="x", concurrency=5, on_episode=heard.append))
    assert most == 5 and now == 0
    assert sorted(e.id for e in heard) == sorted(e.id for g in groups for e in g.episodes)
    assert all(e.reward == Reward(components=(Component(name="one", score=1.0),)) for e in heard)


class Judge:
    """Returns, or does, what it is told."""

    def __init__(self, verdict):
        self.verdict = verdict

    async def score(self, group):
        return await self.verdict(group) if callable(self.verdict) else self.verdict


async def explode(group):
    raise LookupError("no reference answer")


async def hang(group):
    await asyncio.sleep(60)


def one(**changes):
    return Reward(components=(Component(**{"name": "a", "score": 1.0, **changes}),))


@pytest.mark.parametrize(
    ("verdict", "kind", "text"),
    [
        (explode, "LookupError", "no reference answer"),
        (hang, "Hung", "no answer within 0.05 s"),
        (None, "TypeError", ""),
        ([one()], "EnvFault", "1 rewards for 2 episodes"),
        ([one(), 1.0], "EnvFault", "'float' for 'x-0-1', expected Reward"),
        ([one(), one(score=math.nan)], "EnvFault", "'x-0-1' is nan"),
        ([one(), one(score=1.0, weight=math.inf)], "EnvFault", "'x-0-1' is 1.0"),
        ([one(), one(turn=1)], "EnvFault", "is for turn 1 of 1 turns"),
        ([one(), one(turn=-1)], "EnvFault", "is for turn -1 of 1 turns"),
    ],
)
def test_a_rubric_that_fails_makes_the_whole_group_a_fault(verdict, kind, text):
    stage = stage_of(Walk, policy_of(*[thinking(None, "stop")] * 2), rubric=Judge(verdict), rubric_seconds=0.05)
    (group,) = asyncio.run(play_groups(stage, [TASK], size=2, seed=0, name="x"))
    for episode in group.episodes:
        assert (episode.stop, episode.reward) == (Stop.env_fault, None)
        assert (episode.failure.where, episode.failure.kind) == ("rubric.score", kind)
        assert text in episode.failure.message
    assert group.valid == ()


def test_a_fault_keeps_its_own_cause_and_gets_no_reward():
    class Flaky(Walk):
        made = 0

        async def step(self, action):
            Flaky.made += 1
            if Flaky.made == 1:
                raise OSError("gone")
            return await super().step(action)

    async def generous(group):
        return [one() for _ in group.episodes]

    for rubric in (Judge(generous), Ones()):
        Flaky.made = 0
        stage = stage_of(Flaky, policy_of(*[thinking(None, "stop")] * 2), rubric=rubric)
        (group,) = asyncio.run(play_groups(stage, [TASK], size=2, seed=0, name="x"))
        faulty, fine = group.episodes
        assert (faulty.stop, faulty.failure.kind, faulty.reward) == (Stop.env_fault, "OSError", None)
        assert fine.reward.value == 1.0 and group.valid == (fine,)


def test_judging_can_be_called_off():
    async def give_up():
        failure = Failure(where="env.step", kind="X", message="")
        episode = Episode(id="e", task=TASK, seed=0, stop=Stop.env_fault, failure=failure)
        group = EpisodeGroup(id="g", task=TASK, episodes=(episode,))
        task = asyncio.create_task(score(stage_of(Walk, policy_of(), rubric=Judge(hang)).spec, group))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())


def test_greedy_and_sampled_are_told_apart(real):
    stage = replace_data(real(), sampling=Sampling(temperature=0.0))
    first, second = (bare(groups_of(stage, n=1, size=2)) for _ in range(2))
    assert first == second
    assert all(t.temperature == 0.0 for e in first for t in e.turns)
    assert [t.completion for t in first[0].turns] == [t.completion for t in first[1].turns]
