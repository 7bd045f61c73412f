"""SIGKILL at 32 random moments, half of them known to lie inside playing, learning, saving a checkpoint or pushing weights.
Nothing is lost and nothing counts twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import killed_runs
from test_async import check_once
from tiny_jobs import essence

from phronesis.store import Run
from phronesis.train import job

KILLS = 32


def check_kills(folder: Path, counts: dict[str, int]) -> None:
    """Every phase was hit, and there was something to lose: the policy learned in many of the steps."""
    assert counts["killed"] == KILLS and counts["late"] >= KILLS // 2, counts
    assert {phase: counts.get(phase, 0) for phase in killed_runs.PHASES} == dict.fromkeys(killed_runs.PHASES, KILLS // 8)
    with Run.open(folder) as run:
        learned = [tokens > 0 for _, tokens in run.curve("update/tokens")]
    assert len(learned) == killed_runs.STEPS and sum(learned) > killed_runs.STEPS // 4, sum(learned)


def killed(folder: Path, staleness: str) -> dict[str, int]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    program = [sys.executable, killed_runs.__file__, str(folder), str(KILLS), staleness]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_synchronous_run_comes_out_the_same_to_the_bit(tmp_path):
    job.run(killed_runs.settings("none"), tmp_path / "whole")
    counts = killed(tmp_path / "killed", "none")
    check_kills(tmp_path / "killed", counts)
    assert essence(tmp_path / "killed", killed_runs.STEPS) == essence(tmp_path / "whole", killed_runs.STEPS)


def test_the_asynchronous_run_learns_from_every_group_once(tmp_path):
    counts = killed(tmp_path / "killed", "2")
    check_kills(tmp_path / "killed", counts)
    check_once(tmp_path / "killed", killed_runs.STEPS, 2)
    with Run.open(tmp_path / "killed") as run:
        assert run.damage().bytes == 0
        assert len([r for r in run.rows() if r.kind == "train"]) == killed_runs.STEPS * 2 * 4
        assert max(v for _, v in run.curve("age/max")) <= 2
