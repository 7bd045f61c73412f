"""Whole runs whose learner is held by two processes: in turns and overlapped, saved by two and continued by one."""

import json
import os
import signal

import pytest
import torch
from test_group_processes import gone
from tiny_jobs import Stopped, config, events, stop_at

from phronesis.config import config_hash
from phronesis.errors import ConfigError, RankFailed
from phronesis.models.lora import LoraConfig
from phronesis.models.opening import open_model
from phronesis.store import Run
from phronesis.train import checkpoint, job
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.config import EvalConfig, ModelConfig
from phronesis.train.group import learner as module
from phronesis.train.group.config import LearnerGroupConfig
from phronesis.train.group.processes import Processes
from phronesis.train.learner import LearnerConfig
from phronesis.train.lessons.pairs import PairsLesson

TWO = LearnerGroupConfig(ranks=2, threads=1, timeout=60.0)


@pytest.fixture
def started(monkeypatch):
    """Process ids of every group that a run starts."""
    pids = []

    class Noted(Processes):
        def __init__(self, config):
            super().__init__(config)
            pids.extend(self.pids)

    original = module.GroupLearner.__init__
    monkeypatch.setattr(module.GroupLearner, "__init__", lambda self, *a, **k: original(self, *a, **{"start": Noted} | k))
    return pids


def updates(folder):
    with Run.open(folder) as run:
        return {s.step: {k: v for k, v in s.values.items() if k.startswith("update/")} for s in run.steps() if s.step >= 0}


def weights(folder, step):
    loaded = checkpoint.load(folder / "checkpoints" / f"step-{step:08d}")
    return dict(loaded.decoder.named_parameters()), loaded.learner


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run by one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    job.run(config(evaluation=EvalConfig(tasks=0)), folder)
    return folder


def test_a_run_in_turns(tmp_path, alone, started):
    """The first step plays with the same weights, so its update agrees; the rest follows as closely as sampling allows."""
    job.run(config(evaluation=EvalConfig(tasks=0), learners=TWO), tmp_path / "run")
    mine, theirs = updates(alone), updates(tmp_path / "run")
    assert theirs.keys() == mine.keys() == {0, 1, 2, 3}
    assert theirs[0] == pytest.approx(mine[0], rel=1e-3, abs=1e-6)
    one, two = weights(alone, 2)[0], weights(tmp_path / "run", 2)[0]
    assert max(float((one[n] - two[n]).detach().abs().max()) for n in one) < 0.05
    assert len(started) == 2 and gone(started)


def test_an_overlapped_run_that_another_number_continues(tmp_path, started):
    """Stopped after two steps of two processes (spread), finished by one."""
    settings = {"asynchrony": AsyncConfig(staleness=1), "learner": LearnerConfig(mismatch_error=100.0, mismatch_warn=100.0)}
    spread = config(**settings, learners=LearnerGroupConfig(ranks=2, threads=1, method="fsdp", timeout=60.0))
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        job.run(spread, folder, listener=stop_at("train", 3))
    assert len(started) == 2 and gone(started)
    saved, state = weights(folder, 2)
    assert all(torch.is_tensor(v) for part in state["stepper"]["parts"] for s in part["state"].values() for v in s.values())
    assert open_model(folder / "checkpoints" / "step-00000002").config.layers == 1
    assert config_hash(spread) == config_hash(config(**settings))
    summary = job.run(config(**settings), folder, resume=True)
    assert summary.steps == 4 and len(started) == 2
    assert json.loads((folder / "checkpoints" / "step-00000004" / "checkpoint.json").read_text())["step"] == 4
    moved = weights(folder, 4)[0]
    assert any(not torch.equal(moved[n], saved[n]) for n in saved)


def test_a_run_of_one_is_continued_by_two(tmp_path, started):
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        job.run(config(evaluation=EvalConfig(tasks=0)), folder, listener=stop_at("train", 2))
    job.run(config(evaluation=EvalConfig(tasks=0), learners=TWO), folder, resume=True)
    assert set(updates(folder)) == {0, 1, 2, 3} and len(started) == 2 and gone(started)


def test_a_run_whose_rank_dies_ends_and_goes_on(tmp_path, started):
    """A typed error that says how to go on; the newest checkpoint is whole, and the run ends as if nothing had been."""
    folder = tmp_path / "run"

    def listen(progress):
        if (progress.phase, progress.done) == ("train", 3):
            os.kill(started[1], signal.SIGKILL)

    overlapped = config(evaluation=EvalConfig(tasks=0), learners=TWO)
    with pytest.raises(RankFailed, match=r"rank 1 of the learner group.*SIGKILL"):
        job.run(overlapped, folder, listener=listen)
    assert gone(started) and any("RankFailed" in e for e in events(folder, "failure"))
    job.run(overlapped, folder, resume=True)
    assert set(updates(folder)) == {0, 1, 2, 3} and len(started) == 4 and gone(started)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lora": LoraConfig()}, "lora"),
        ({"lesson": PairsLesson()}, "lesson"),
        ({"model": ModelConfig(generic=True)}, "model.generic"),
        ({"learner": LearnerConfig(average=0.1)}, "learner.average"),
        ({"learner": LearnerConfig(baseline="variance")}, "learner.baseline"),
    ],
)
def test_what_does_not_go_with_a_group_is_refused_by_name(changes, named):
    with pytest.raises(ConfigError, match=named):
        config(learners=TWO, **changes).validate()
