"""SPEED-RL's player: who is screened, who goes on, what is counted, and that a run with it learns, drops and resumes."""

from __future__ import annotations

import asyncio
from statistics import fmean

import pytest
from msgspec.structs import replace
from test_learning import SHORT, lesson, rewards
from tiny_jobs import Stopped, config, essence, stop_at, weights

from phronesis.chat.qwen import QwenFormat
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.envs.probes import copy
from phronesis.errors import ConfigError
from phronesis.models.tokenizer import train_tokenizer
from phronesis.reason.players.speed import Speed, SpeedPlayer
from phronesis.reason.react import ReAct
from phronesis.records import say
from phronesis.rollout.limits import Limits
from phronesis.rollout.play import LeavesOut, Stage, play_groups
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.config import EnvChoice, EvalConfig
from phronesis.train.dynamic import DynamicConfig
from phronesis.train.metrics import undefined

TOKENIZER = train_tokenizer(["Say a or b. The letter is a. The letter is b."] * 3, 290)
CHAT = QwenFormat(TOKENIZER, "preserve")
SPEC = copy(2)


def group_of(*passes, size=6, n_screen=4, faults=0):
    """A group of one task whose attempts pass as written; the first `faults` break."""
    task = SPEC.task("train", 1)
    right = task.payload["letter"]
    wrong = "b" if right == "a" else "a"
    said = iter(passes)

    def speak(prompt):
        return CHAT.render(say("assistant", right if next(said) else wrong))

    stage = Stage(
        spec=SPEC, policy=ScriptedPolicy(speak, vocab_size=len(TOKENIZER)), chat=CHAT, agent=ReAct(), limits=Limits(max_turns=1)
    )  # fmt: skip
    player = SpeedPlayer(n_screen=n_screen).begin()
    assert isinstance(player, LeavesOut)
    (group,) = asyncio.run(play_groups(stage, [task], size=size, seed=1, name="t", concurrency=1, player=player))
    return group, player.leaves_out(group), player.metrics()


@pytest.mark.parametrize(
    ("passes", "why"), [((1, 1, 1, 1), "dropped_solved"), ((0, 0, 0, 0), "dropped_failed")], ids=["solved", "failed"]
)
def test_a_task_all_attempts_agree_on_is_left_out(passes, why):
    group, left_out, counts = group_of(*passes)
    assert left_out and [e.reward.value for e in group.episodes] == [float(p) for p in passes]
    assert counts == {"player/screened": 1.0, f"player/{why}": 1.0}


def test_a_promising_task_gets_the_other_attempts():
    group, left_out, counts = group_of(1, 0, 0, 0, 1, 0)
    assert not left_out and [e.reward.value for e in group.episodes] == [1, 0, 0, 0, 1, 0]
    assert [e.id for e in group.episodes] == [f"t-0-{m}" for m in range(6)]
    assert len({e.seed for e in group.episodes}) == 6
    assert counts == {"player/screened": 1.0, "player/continued": 1.0}


def test_the_decision_is_forgotten_when_the_step_is_over():
    player = Speed(SpeedPlayer())
    player._left_out.add("t-0")
    player.metrics()
    group, _, _ = group_of(1, 1, 1, 1)
    assert not player.leaves_out(group)


def test_sizes_that_screen_nothing_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="screens with 4 attempts, and group_size is 4"):
        job.run(config(player=SpeedPlayer()), tmp_path / "run")
    with pytest.raises(ConfigError, match="one attempt always agrees"):
        SpeedPlayer(n_screen=1)


WITH = {"player": SpeedPlayer(n_screen=2), "group_size": 6, "groups": 3, "evaluation": EvalConfig(tasks=0)}


@pytest.mark.parametrize("dynamic", [None, DynamicConfig(max_rounds=3)])
def test_a_run_counts_what_it_drops_and_resumes_bit_for_bit(tmp_path, dynamic):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    chosen = config(dynamic=dynamic, **WITH)
    job.run(chosen, whole)
    with pytest.raises(Stopped):
        job.run(chosen, stopped, listener=stop_at("train", 3))
    job.run(chosen, stopped, resume=True)
    assert essence(stopped, 4) == essence(whole, 4)
    with Run.open(whole) as run:
        steps = [s.values for s in run.steps() if "player/screened" in s.values]
        assert undefined(k for s in run.steps() for k in s.values) == ()
    assert len(steps) == 4
    for s in steps:
        dropped = sum(s.get(f"player/dropped_{why}", 0.0) for why in ("solved", "failed", "faulted"))
        kept = s.get("player/continued", 0.0)
        assert s["player/screened"] == dropped + kept
        assert s["episode/count"] == 2 * dropped + 6 * kept
        assert dynamic is not None or s["player/screened"] == 3
    assert any(s["player/screened"] > s.get("player/continued", 0.0) for s in steps)


def test_it_learns_with_fewer_attempts(tmp_path):
    """Copy, optimum 1; near the end most tasks are solved and dropped."""
    chosen = replace(lesson("copy", 0, steps=24, lr=3e-3, shown=SHORT), player=SpeedPlayer(n_screen=4), group_size=12)
    curve = rewards(chosen, tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        counts = [n for _, n in run.curve("episode/count")]
    assert curve[0] < 0.75 and fmean(curve[-4:]) > 0.9
    assert fmean(counts[:3]) > 30 > fmean(counts[-3:])


def test_a_step_of_which_every_task_is_dropped_changes_nothing(tmp_path):
    chosen = config(env=EnvChoice(name="own_worlds:flat"), steps=2, checkpoint_every=1, keep_checkpoints=9, **WITH)
    job.run(chosen, tmp_path / "run")
    assert weights(tmp_path / "run", 0) == weights(tmp_path / "run", 2)
    with Run.open(tmp_path / "run") as run:
        assert [v for _, v in run.curve("player/dropped_failed")] == [3.0, 3.0]
        assert [v for _, v in run.curve("update/tokens")] == [0.0, 0.0]
