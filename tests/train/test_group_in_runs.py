"""Whole runs whose learner is held by two processes: in turns and overlapped, saved by two and continued by one."""

import json
import os
import signal

import pytest
import torch
from msgspec.structs import replace
from test_group_processes import gone
from tiny_jobs import Stopped, config, events, stop_at

from phronesis.config import config_hash
from phronesis.credit import GAECredit
from phronesis.errors import ConfigError, RankFailed
from phronesis.models.lora import LoraConfig
from phronesis.models.opening import open_model
from phronesis.store import Run
from phronesis.train import checkpoint, job
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.config import EvalConfig, ModelConfig, PrimeConfig
from phronesis.train.critic import CriticConfig
from phronesis.train.group import learner as module
from phronesis.train.group.config import LearnerGroupConfig
from phronesis.train.group.processes import Processes
from phronesis.train.learner import LearnerConfig
from phronesis.train.lessons.pairs import PairsLesson
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.supervised import SupervisedConfig

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


UNSURE = config(
    evaluation=EvalConfig(tasks=0),
    prime=PrimeConfig(
        demonstrations=20, supervised=SupervisedConfig(batch_tokens=60, warmup=1, optimizer=AdamWConfig(lr=1e-2))
    ),
)
"""Primed so little that three of its four steps have something to learn."""


def test_a_run_in_turns(tmp_path, started):
    """Every update and the weights at the end are those of one process. After the first, both play with weights that differ in
    the last digits; that draws another token only where a random number falls between the two."""
    job.run(UNSURE, tmp_path / "alone")
    job.run(replace(UNSURE, learners=TWO), tmp_path / "run")
    mine, theirs = updates(tmp_path / "alone"), updates(tmp_path / "run")
    assert theirs.keys() == mine.keys() == {0, 1, 2, 3}
    assert sum("update/grad_norm" in values for values in mine.values()) == 3
    for step, values in mine.items():
        assert theirs[step] == pytest.approx(values, rel=1e-3, abs=1e-6)
    first = weights(tmp_path / "alone", 0)[0]
    one, two = weights(tmp_path / "alone", 4)[0], weights(tmp_path / "run", 4)[0]
    with torch.no_grad():
        assert max(float((one[n] - two[n]).norm() / (one[n] - first[n]).norm()) for n in one) < 1e-4
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


def test_a_run_of_one_is_continued_by_two_and_when_a_rank_dies_by_one(tmp_path, started):
    """The death is a typed error that says how to go on; the newest checkpoint is whole, and the run ends as if nothing had
    been. Its critic stays in the run's own process."""
    alone = config(evaluation=EvalConfig(tasks=0), critic=CriticConfig(), credit=GAECredit())
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        job.run(alone, folder, listener=stop_at("train", 2))
    assert not started

    def listen(progress):
        if (progress.phase, progress.done) == ("train", 3):
            os.kill(started[1], signal.SIGKILL)

    with pytest.raises(RankFailed, match=r"rank 1 of the learner group.*SIGKILL"):
        job.run(replace(alone, learners=TWO), folder, resume=True, listener=listen)
    assert len(started) == 2 and gone(started) and any("RankFailed" in e for e in events(folder, "failure"))
    job.run(alone, folder, resume=True)
    assert set(updates(folder)) == {0, 1, 2, 3} and len(started) == 2
    with Run.open(folder) as run:
        assert all("critic/loss" in s.values for s in run.steps() if s.step >= 0)


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
