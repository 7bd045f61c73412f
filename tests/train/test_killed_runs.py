"""SIGKILL at twenty random moments: while playing, learning, saving or starting. Nothing is lost and nothing counts twice."""

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


def killed(folder: Path, staleness: str) -> dict[str, int]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    program = [sys.executable, killed_runs.__file__, str(folder), "20", staleness]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_synchronous_run_comes_out_the_same_to_the_bit(tmp_path):
    job.run(killed_runs.settings("none"), tmp_path / "whole")
    counts = killed(tmp_path / "killed", "none")
    assert counts["killed"] == 20 and counts["late"] >= 10, counts
    assert essence(tmp_path / "killed", killed_runs.STEPS) == essence(tmp_path / "whole", killed_runs.STEPS)


def test_the_asynchronous_run_learns_from_every_group_once(tmp_path):
    counts = killed(tmp_path / "killed", "2")
    assert counts["killed"] == 20 and counts["late"] >= 10, counts
    check_once(tmp_path / "killed", killed_runs.STEPS, 2)
    with Run.open(tmp_path / "killed") as run:
        assert run.damage().bytes == 0
        assert len([r for r in run.rows() if r.kind == "train"]) == killed_runs.STEPS * 2 * 4
        assert max(v for _, v in run.curve("age/max")) <= 2
