"""Task orders and teachers inside whole runs: what an order knows survives a resume, a teacher's credit trains the student."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_jobs import Stopped, config, essence, stop_at

from phronesis.credit import OPDCredit, VerifiedCredit
from phronesis.data.order import DumpOrder, PassRateWindow
from phronesis.errors import CheckpointError, ConfigError
from phronesis.losses import LossConfig, SupervisedLoss
from phronesis.store import Run
from phronesis.train import checkpoint, job
from phronesis.train.config import EvalConfig, ModelConfig
from phronesis.train.learner import LearnerConfig

QUIET = EvalConfig(tasks=0)


def test_pass_rates_survive_a_resume(tmp_path: Path):
    chosen = config(evaluation=QUIET, tasks=PassRateWindow(z=0.5))
    job.run(chosen, tmp_path / "whole")
    with pytest.raises(Stopped):
        job.run(chosen, tmp_path / "cut", listener=stop_at("train", 3))
    job.run(chosen, tmp_path / "cut", resume=True)
    assert essence(tmp_path / "whole", 4) == essence(tmp_path / "cut", 4)
    states = [checkpoint.load(tmp_path / f / "checkpoints" / "step-00000004").manifest.source for f in ("whole", "cut")]
    assert states[0] == states[1] and states[0]["drawn"] == 8 and states[0]["rates"] != "{}"


def test_an_order_the_environment_does_not_allow_is_refused_at_once(tmp_path: Path):
    with pytest.raises(ConfigError, match="difficulties"):
        job.run(config(tasks=DumpOrder()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_student_learns_from_the_checkpoint_it_names(tmp_path: Path):
    job.run(config(evaluation=QUIET), tmp_path / "first")
    start, end = (tmp_path / "first" / "checkpoints" / f"step-0000000{k}" for k in (0, 4))
    student = {"evaluation": QUIET, "prime": None, "steps": 2, "model": ModelConfig(path=str(start))}
    job.run(config(**student, credit=OPDCredit(teacher=str(end))), tmp_path / "second")
    job.run(config(**student, credit=OPDCredit(teacher=str(start))), tmp_path / "own")
    with Run.open(tmp_path / "second") as taught, Run.open(tmp_path / "own") as own:
        first, second = ([v for _, v in run.curve("update/advantage_std")] for run in (taught, own))
    # a teacher that is the student has nothing to say at first; the other has
    assert first[0] > 1e-3 > 1e-4 > second[0]


def test_a_missing_teacher_is_found_before_anything_is_played(tmp_path: Path):
    with pytest.raises(CheckpointError):
        job.run(config(credit=OPDCredit(teacher=str(tmp_path / "nothing"))), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_on_verified_attempts_alone(tmp_path: Path):
    loss = LossConfig(objective=SupervisedLoss())
    chosen = config(evaluation=QUIET, credit=VerifiedCredit(cap=2), learner=LearnerConfig(loss=loss))
    job.run(chosen, tmp_path / "run")
    with Run.open(tmp_path / "run") as run:
        left_out, success = ([v for _, v in run.curve(key)] for key in ("signal/dropped", "reward/mean"))
        means = [v for _, v in run.curve("update/advantage_mean")]
        tokens = [v for _, v in run.curve("update/tokens")]
    assert all(m == 1.0 for m, n in zip(means, tokens, strict=True) if n) and max(tokens) > 0
    # of 8 attempts a step at most 2 groups x 2 are learned from, and the failed ones never
    assert all(8 - d <= min(4, round(8 * s)) for d, s in zip(left_out, success, strict=True))
