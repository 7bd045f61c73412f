"""Players inside a run: what they play is stored, paid for in the open, learned from, and a function of the config."""

from __future__ import annotations

import asyncio
from random import Random
from statistics import correlation

import pytest
from tiny_jobs import Stopped, config, essence, stop_at

from phronesis.chat.qwen import QwenFormat
from phronesis.credit import ARPOCredit, EARLCredit, TreeCredit
from phronesis.credit.trees.tree import branch_reward
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.envs.bifurcation import LETTERS, RIGHT, bifurcation, exact_advantages
from phronesis.envs.native import from_env
from phronesis.errors import ConfigError
from phronesis.models.tokenizer import train_tokenizer
from phronesis.reason.players.arpo import ARPOPlayer
from phronesis.reason.players.earl import EARLPlayer
from phronesis.reason.players.tree import TreePlayer
from phronesis.reason.react import ReAct
from phronesis.records import Reply, Stop, Task, say
from phronesis.rollout.forks import split
from phronesis.rollout.limits import Limits
from phronesis.rollout.play import Stage, play_groups
from phronesis.rollout.prefix import PlayOn
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.config import EnvChoice, EvalConfig
from phronesis.train.metrics import undefined


def branching(player, rule, **changes):
    base = {"env": EnvChoice(name="lessons:memory"), "limits": Limits(max_turns=2, max_turn_tokens=5)}
    return config(credit=rule, player=player, evaluation=EvalConfig(tasks=0), **(base | changes))


PLAYERS = [
    (ARPOPlayer(initial=2, threshold=1.0), ARPOCredit()),
    (TreePlayer(widths=(2, 2)), TreeCredit()),
    (EARLPlayer(failed=1.0), EARLCredit()),
]


@pytest.mark.parametrize(("player", "rule"), PLAYERS, ids=lambda v: type(v).__name__)
def test_resumed_it_comes_out_the_same(tmp_path, player, rule):
    """Also what EARL remembers of its routes."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    job.run(branching(player, rule), whole)
    with pytest.raises(Stopped):
        job.run(branching(player, rule), stopped, listener=stop_at("train", 3))
    job.run(branching(player, rule), stopped, resume=True)
    assert essence(stopped, 4) == essence(whole, 4)
    with Run.open(whole) as run:
        assert undefined(k for s in run.steps() for k in s.values) == ()


def test_forks_are_stored_and_attempts_are_counted(tmp_path):
    """Two families of two branches in each of two groups; every branch counts as an episode, shared tokens once."""
    job.run(branching(*PLAYERS[1]), tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        episodes = [e for e in run.episodes() if e.step == 0]
        counts = {key: run.curve(key)[0][1] for key in ("episode/count", "player/leaves", "player/replayed", "tokens/sampled")}
        reward = run.curve("reward/mean")[0][1]
    assert len(episodes) == 4 and all(len(e.ends) == 2 and len(e.turns) == 3 for e in episodes)
    attempts = [a for e in episodes for a in split(e)]
    assert counts == {
        "episode/count": 8.0, "player/leaves": 8.0, "player/replayed": 4.0,
        "tokens/sampled": float(sum(e.sampled_tokens for e in episodes)),
    }  # fmt: skip
    assert sum(a.sampled_tokens for a in attempts) > counts["tokens/sampled"]
    assert reward == pytest.approx(sum(a.reward.value for a in attempts) / 8)


@pytest.mark.parametrize(("player", "rule"), PLAYERS, ids=lambda v: type(v).__name__)
def test_a_clock_that_runs_out_where_a_branch_begins_ends_no_run(tmp_path, monkeypatch, player, rule):
    """Every third play from inside an episode runs out of time before a turn of its own."""
    replay, brought = PlayOn._replay, []

    async def late(self, session, cut):
        brought.append(cut)
        number = len(brought)  # others may be brought while this one is
        await replay(self, session, cut)
        if number % 3 == 0:
            raise session.attempt.end(Stop.timeout)

    monkeypatch.setattr(PlayOn, "_replay", late)
    job.run(branching(player, rule), tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        for e in run.episodes():
            assert e.reward.branches in ((), e.ends) and e.turns and e.stop is not Stop.timeout
        lost = sum(value for _, value in run.curve("player/cut_off"))
        assert lost == len(brought) // 3 > 0
        assert undefined(k for s in run.steps() for k in s.values) == ()


class Dice:
    """Greets with a number nobody can know."""

    async def reset(self, task, seed):
        return Reply(messages=(say("user", f"{Random().random()}"),))

    async def step(self, action):
        return Reply(done=True, reward=0.0)

    async def close(self):
        pass


def test_a_world_that_cannot_be_played_on_from_inside_is_refused_before_anything_is_written(tmp_path):
    task = Task(id="t", env="dice")
    spec = from_env(Dice, {"train": [task], "heldout": [task]}, name="dice", max_turns=1)
    with pytest.raises(ConfigError, match="'dice' cannot be played on from inside an episode"):
        job.run(branching(*PLAYERS[1], prime=None), tmp_path / "run", spec=spec)
    assert not (tmp_path / "run").exists()


def test_a_group_of_another_size_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has 6 leaves, and group_size is 4"):
        job.run(branching(TreePlayer(widths=(2, 3)), TreeCredit()), tmp_path / "run")


TOKENIZER = train_tokenizer(["Say a, b, c or d in every room. A room. The vault."] * 3, 290)
CHAT = QwenFormat(TOKENIZER, "preserve")


@pytest.mark.parametrize(
    ("player", "rule", "least"),
    [
        (TreePlayer(widths=(1, 4)), TreeCredit(), 0.6),
        (TreePlayer(widths=(2, 2), every=1), TreeCredit(), 0.3),
        (ARPOPlayer(initial=2, threshold=1.0), ARPOCredit(), 0.3),
    ],
)
def test_credit_points_where_the_exact_advantage_does(player, rule, least):
    """Random letters in three rooms, the vault in the second; branches begin just before it."""
    spec, random = bifurcation(3), Random(0)
    policy = ScriptedPolicy(lambda prompt: CHAT.render(say("assistant", random.choice(LETTERS))), vocab_size=len(TOKENIZER))
    stage = Stage(spec=spec, policy=policy, chat=CHAT, agent=ReAct(), limits=Limits(max_turns=3), vocabulary=len(TOKENIZER))
    tasks = [spec.task("train", 1)] * 60
    groups = asyncio.run(
        play_groups(stage, tasks, size=4, seed=1, name="train", concurrency=1, player=player.begin())
    )  # fmt: skip
    given, exact, decisive = [], [], []
    for group in groups:
        credit = asyncio.run(rule.assign(group))
        for e, episode in enumerate(group.episodes):
            for end in episode.ends:
                line = episode.line(end)
                given += [credit.values[e][k][0] for k in line]
                exact += exact_advantages(1, 3, branch_reward(episode, end), 1 / len(LETTERS))
                right = episode.turns[line[1]].action.text == RIGHT
                decisive.append((right, credit.values[e][line[1]][0]))
    assert correlation(given, exact) > least
    assert all(a >= 0 if right else a <= 0 for right, a in decisive) or not isinstance(rule, TreeCredit)
    mean = {r: sum(a for x, a in decisive if x is r) for r in (True, False)}
    assert mean[True] > 0 > mean[False]
