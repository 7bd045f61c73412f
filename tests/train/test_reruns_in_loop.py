"""Credit by playing on, inside a run: it is paid for in the open, and a run of it is still a function of its config."""

from __future__ import annotations

import pytest
from tiny_jobs import Stopped, config, essence, stop_at

from phronesis.credit import CreditRule, ReMaxCredit, VinePPOCredit
from phronesis.rollout.limits import Limits
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.config import EnvChoice, EvalConfig


def chosen(rule: CreditRule, **changes):
    base = {"env": EnvChoice(name="lessons:memory"), "limits": Limits(max_turns=2, max_turn_tokens=5)}
    return config(credit=rule, evaluation=EvalConfig(tasks=0), **(base | changes))


def curve(folder, key: str) -> list[float]:
    with Run.open(folder) as run:
        return [value for _, value in run.curve(key)]


def test_every_turn_pays_for_its_continuations(tmp_path):
    """Two before each turn of each episode, and each replays what lies before it."""
    job.run(chosen(VinePPOCredit(rollouts=2)), tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        episodes = list(run.episodes())
    for step, (played, env_steps) in enumerate(
        zip(curve(tmp_path / "run", "rerun/episodes"), curve(tmp_path / "run", "rerun/env_steps"), strict=True)
    ):
        turns = [len(e.turns) for e in episodes if e.step == step]
        assert len(turns) == 8 and played == 2 * sum(turns)
        assert env_steps == 2 * sum(n * 2 for n in turns), "from any turn to the end of two, the prefix included"
    assert curve(tmp_path / "run", "rerun/faults") == [0.0] * 4 and min(curve(tmp_path / "run", "rerun/tokens")) > 0


@pytest.mark.parametrize("rule", [VinePPOCredit(rollouts=2), ReMaxCredit()])
def test_resumed_it_comes_out_the_same(tmp_path, rule):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    job.run(chosen(rule), whole)
    with pytest.raises(Stopped):
        job.run(chosen(rule), stopped, listener=stop_at("train", 3))
    job.run(chosen(rule), stopped, resume=True)
    assert essence(stopped, 4) == essence(whole, 4)


def test_a_run_on_few_hands_comes_out_the_same(tmp_path):
    """How many continuations are in flight changes no reward and no weight."""
    few, many = tmp_path / "few", tmp_path / "many"
    job.run(chosen(VinePPOCredit(rollouts=3), concurrency=2), few)
    job.run(chosen(VinePPOCredit(rollouts=3), concurrency=64), many)
    assert essence(few, 4)["weights"] == essence(many, 4)["weights"]
