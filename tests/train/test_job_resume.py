"""A run is a function of its config: stopped anywhere and resumed, or done twice, it comes out the same, bit for bit.

Compared are the final weights, every metric but times and speeds, every episode but its times, and the summary.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from tiny_jobs import Stopped, config, essence, events, stop_at, weights

from phronesis.errors import CheckpointError, RunFolderError
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.progress import Progress


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory):
    """The run nobody interrupted, and every moment it passed."""
    folder, moments = tmp_path_factory.mktemp("reference") / "run", []

    def listen(progress: Progress) -> None:
        moments.append((progress.phase, progress.done))

    summary = job.run(config(), folder, listener=listen)
    return folder, moments, summary


def test_what_a_whole_run_leaves(reference):
    folder, moments, summary = reference
    phases = list(dict.fromkeys(phase for phase, _ in moments))
    assert phases == [
        "prime", "heldout_before", "heldout_before_greedy", "train", "heldout_step2", "heldout_after", "heldout_after_greedy"
    ]  # fmt: skip
    assert [done for phase, done in moments if phase == "train"] == [1, 2, 3, 4]
    assert (summary.steps, summary.episodes, summary.faults) == (4, 32, 0)
    assert summary.references == {"optimum": 1.0, "chance": 0.5}
    assert summary.heldout_before.n == summary.heldout_after.n == 3 and summary.heldout_swapped is None
    assert events(folder, "skipped") == ["no two held-out episodes attempt different tasks with thoughts to swap"]
    assert events(folder, "resume") == events(folder, "failure") == []
    listed = set(summary.seconds)
    assert listed == {
        "make", "prime", "heldout_before", "heldout_before_greedy", "train", "heldout_step2", "heldout_after",
        "heldout_after_greedy", "total",
    }  # fmt: skip
    assert summary.seconds["total"] == pytest.approx(sum(v for k, v in summary.seconds.items() if k != "total"))
    with Run.open(folder) as run:
        steps = [s for s in run.steps() if "time/step" in s.values]
        assert len(steps) == 4
        # training's seconds hold its steps and checkpoints, not the evaluation between them
        assert sum(s.values["time/step"] for s in steps) <= summary.seconds["train"]
    assert summary.mismatch_kl < 1e-6 and summary.max_logprob_difference < 1e-3


@pytest.mark.parametrize(
    ("phase", "done"),
    [("prime", 2), ("heldout_before", 1), ("train", 1), ("train", 3), ("heldout_step2", 2), ("train", 4), ("heldout_after", 3)],
)
def test_stopped_by_an_error_and_resumed(reference, tmp_path, phase, done):
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        job.run(config(), folder, listener=stop_at(phase, done))
    assert events(folder, "failure") == [f"Stopped: {phase} {done}"]
    with pytest.raises(RunFolderError, match="already holds a run; continue it with --resume"):
        job.run(config(), folder)
    job.run(config(), folder, resume=True)
    assert len(events(folder, "resume")) == 1
    assert essence(folder, 4) == essence(reference[0], 4)


@pytest.mark.parametrize(("phase", "done"), [("prime", 3), ("heldout_before_greedy", 1), ("train", 3)])
def test_killed_and_resumed(reference, tmp_path, phase, done):
    folder = tmp_path / "run"
    script = Path(__file__).with_name("tiny_jobs.py")
    killed = subprocess.run([sys.executable, script, folder, phase, str(done)], capture_output=True, text=True, timeout=240)
    assert killed.returncode == -9, killed.stderr
    job.run(config(), folder, resume=True)
    assert essence(folder, 4) == essence(reference[0], 4)


def test_stopped_twice_and_a_finished_run_resumed(reference, tmp_path):
    folder = tmp_path / "run"
    for phase, done in (("train", 1), ("train", 3)):
        with pytest.raises(Stopped):
            job.run(config(), folder, resume=folder.exists(), listener=stop_at(phase, done))
    job.run(config(), folder, resume=True)
    job.run(config(), folder, resume=True, listener=stop_at("train", 4))  # nothing is left to be done
    assert essence(folder, 4) == essence(reference[0], 4)
    assert len(events(folder, "resume")) == 3


def test_the_same_seed_repeats_and_another_differs(reference, tmp_path):
    same, other, named = tmp_path / "same", tmp_path / "other", tmp_path / "named"
    short = config(steps=2)
    job.run(short, same)
    job.run(replace(short, seed=1), other)
    job.run(replace(short, name="another name"), named)
    assert weights(same, 2) == weights(reference[0], 2) == weights(named, 2) != weights(other, 2)
    assert weights(same, 0) != weights(other, 0)


@pytest.mark.parametrize("part", ["learner", "prime"])
def test_seeds_of_the_parts_count_too(reference, tmp_path, part):
    """They follow the run's seed, and can be set apart from it."""
    base = config(steps=1, evaluation=replace(config().evaluation, tasks=0))
    learner = replace(base.learner, seed=5)
    prime = replace(base.prime, supervised=replace(base.prime.supervised, seed=5))
    job.run(replace(base, **{part: learner if part == "learner" else prime}), tmp_path / "a")
    job.run(base, tmp_path / "b")
    assert (weights(tmp_path / "a", 0) == weights(tmp_path / "b", 0)) == (part == "learner")
    assert weights(tmp_path / "a", 1) != weights(tmp_path / "b", 1)


def test_another_config_is_not_resumed(reference, tmp_path):
    folder = shutil.copytree(reference[0], tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"started with another config \(groups: 2 -> 3\)"):
        job.run(config(groups=3), folder, resume=True)
    with pytest.raises(RunFolderError, match="no run"):
        job.run(config(), tmp_path / "absent", resume=True)


def test_a_lost_evaluation_before_training_is_made_again_with_the_first_weights(reference, tmp_path):
    folder = shutil.copytree(reference[0], tmp_path / "run")
    known = json.loads((folder / "phases.json").read_text())
    (folder / "phases.json").write_text(json.dumps({k: v for k, v in known.items() if not k.startswith("heldout_before")}))
    job.run(config(), folder, resume=True)
    again = json.loads((folder / "phases.json").read_text())
    assert again["heldout_before"] == known["heldout_before"] != known["heldout_after"]
    shutil.rmtree(next((folder / "checkpoints").glob("step-*0")))
    (folder / "phases.json").unlink()
    with pytest.raises(RunFolderError, match="the evaluation before training is missing"):
        job.run(config(), folder, resume=True)


def test_damaged_folders_are_told(reference, tmp_path):
    folder = shutil.copytree(reference[0], tmp_path / "run")
    (folder / "phases.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"phases\.json cannot be read .* delete it to redo the evaluations"):
        job.run(config(), folder, resume=True)
    (folder / "phases.json").write_text('{"heldout_before": {"success": "high"}}')
    with pytest.raises(RunFolderError, match=r"'heldout_before' in phases\.json cannot be read"):
        job.run(config(), folder, resume=True)
    (folder / "phases.json").unlink()
    (folder / "checkpoints" / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no 'tokenizer\.json'"):
        job.run(config(), folder, resume=True)
    shutil.rmtree(folder / "checkpoints")
    job.run(config(), folder, resume=True)  # without checkpoints it begins again, and comes out the same
    assert essence(folder, 4) == essence(reference[0], 4)
