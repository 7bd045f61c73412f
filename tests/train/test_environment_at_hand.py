"""Pins: a job takes an environment object, and its folder never claims that another environment was played."""

from __future__ import annotations

from pathlib import Path

import lessons
import pytest
from tiny_jobs import config

from phronesis.errors import RunFolderError
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.config import EnvChoice, EvalConfig

QUICK = {"steps": 1, "evaluation": EvalConfig(tasks=0)}


def played(folder: Path) -> tuple[object, set[str]]:
    """What the config names, and what the episodes were of."""
    with Run.open(folder) as run:
        return run.config()["env"], {episode.task.env for episode in run.episodes()}


def test_a_config_that_names_nothing_records_the_name_of_the_environment_played(tmp_path: Path):
    job.run(config(env=EnvChoice(), **QUICK), tmp_path / "run", spec=lessons.copy())
    named, seen = played(tmp_path / "run")
    assert named == {"name": "probe-copy", "args": {}} and seen == {"probe-copy"}  # not the default, ledger


def test_an_import_path_in_the_config_is_kept(tmp_path: Path):
    chosen = EnvChoice(name="lessons:copy", args={"letters": 3})
    job.run(config(env=chosen, **QUICK), tmp_path / "run", spec=lessons.copy(3))
    assert played(tmp_path / "run")[0] == {"name": "lessons:copy", "args": {"letters": 3}}


def test_such_a_run_can_be_resumed_with_the_same_arguments_only(tmp_path: Path):
    asked = config(env=EnvChoice(), **QUICK)
    first = job.run(asked, tmp_path / "run", spec=lessons.copy())
    assert job.run(asked, tmp_path / "run", spec=lessons.copy(), resume=True).config_hash == first.config_hash
    with pytest.raises(RunFolderError, match=r"env\.name"):
        job.run(asked, tmp_path / "run", spec=lessons.memory(), resume=True)
