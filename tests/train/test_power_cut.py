"""Pins: a power cut never leaves less than what is said to be there, e.g. a checkpoint without the episodes before it."""

import json
import os
import stat
from pathlib import Path

import pytest
from msgspec import Struct
from tiny_jobs import config

from phronesis.records import Episode, Stop, Task
from phronesis.store import Run, write_whole
from phronesis.train import job


class Disk:
    """What a power cut would leave at the worst: the contents of files and the names in folders as last synced."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.sizes, self.names = dict[int, int](), dict[int, set[str]]()
        self._real = os.fsync
        patch.setattr(os, "fsync", self.fsync)

    def fsync(self, fd: int) -> None:
        self._real(fd)
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            self.names[found.st_ino] = set(os.listdir(fd))
        else:
            self.sizes[found.st_ino] = found.st_size

    def left(self, path: Path, root: Path) -> int:
        """Bytes of a file that would be left; -1 where nothing would lead to it from `root`."""
        for at in (path, *path.parents):
            if at == root:
                return self.sizes.get(path.stat().st_ino, 0)
            if at.name not in self.names.get(at.parent.stat().st_ino, ()):
                return -1
        raise AssertionError(path)

    def lost(self, root: Path, *patterns: str) -> set[str]:
        """Files, of those found by the patterns below `root`, that would not be left whole."""
        files = [p for pattern in patterns for p in root.glob(pattern) if p.is_file()]
        assert files
        return {p.relative_to(root).as_posix() for p in files if self.left(p, root) != p.stat().st_size}


@pytest.fixture
def disk(monkeypatch) -> Disk:
    return Disk(monkeypatch)


class Config(Struct, frozen=True):
    """A run's."""

    steps: int = 1


APPENDED = ("runs/*/episodes/*", "runs/*/*.jsonl")


def episode(name: str) -> Episode:
    return Episode(id=name, task=Task(id="t", env="walk"), seed=0, stop=Stop.completed)


def write(run, name: str) -> None:
    run.append(episode(name))
    run.append(episode(name), "heldout")
    run.metrics(0, {"reward/mean": 1.0})
    run.event("phase", name)


def test_synced_everything_is_left_also_the_names_of_new_files_and_folders(disk, tmp_path):
    with Run.create(tmp_path / "runs" / "a", Config()) as run:
        assert disk.lost(tmp_path, "runs/*/*.toml", "runs/*/*.json") == set(), "whole files wait for the disk"
        write(run, "one")
        files = {f"runs/a/{f}" for f in ("episodes/train-00000.jsonl.zst", "episodes/heldout-00000.jsonl.zst")}
        assert disk.lost(tmp_path, *APPENDED) == files | {"runs/a/metrics.jsonl", "runs/a/events.jsonl"}
        run.sync()
        assert disk.lost(tmp_path, *APPENDED) == set()
        run.event("phase", "two")
        assert disk.lost(tmp_path, *APPENDED) == {"runs/a/events.jsonl"}
        run.write_summary({"done": True})
        assert disk.lost(tmp_path, *APPENDED, "runs/*/summary.json") == set()


def test_a_new_process_syncs_what_another_left_behind(disk, tmp_path):
    with Run.create(tmp_path / "runs" / "a", Config()) as run:
        write(run, "one")
    disk.sizes.clear()
    with Run.create(tmp_path / "runs" / "a", Config(), resume=True) as run:
        run.append(episode("two"))
        run.append(episode("two"), "heldout")
        run.sync()
        assert disk.lost(tmp_path, *APPENDED) == set()


def test_a_file_that_is_replaced(disk, tmp_path):
    for content in (b"old", b"newer"):
        write_whole(tmp_path / "a.json", content)
        assert disk.lost(tmp_path, "a.json") == set()


def test_what_is_moved_aside_is_left_before_it_is_cut_off(disk, tmp_path, monkeypatch):
    path = tmp_path / "runs" / "a"
    with Run.create(path, Config()) as run:
        write(run, "one")
    (path / "metrics.jsonl").write_bytes(b"junk")
    cut = list[int]()
    real = os.ftruncate

    def ftruncate(fd: int, size: int) -> None:
        if os.path.samestat(os.fstat(fd), (path / "metrics.jsonl").stat()):
            cut.append(size)
            assert disk.lost(tmp_path, "runs/a/metrics.jsonl.damaged-0") == set()
        real(fd, size)

    monkeypatch.setattr(os, "ftruncate", ftruncate)
    Run.create(path, Config(), resume=True).close()
    assert cut == [0]


def test_no_checkpoint_and_no_result_outlives_what_came_before_it(disk, tmp_path, monkeypatch):
    """Whenever a checkpoint gets its name, or an evaluation is noted as done, all that was stored before is on the disk."""
    run, saved, noted = tmp_path / "runs" / "a", list[str](), list[str]()
    rename, replace = os.rename, os.replace

    def named(source, target, **options) -> None:
        if Path(source).name.startswith(".saving-step-"):
            saved.append(Path(target).name)
            assert disk.lost(run, "episodes/*", "*.jsonl", "checkpoints/tokenizer/*", "config.toml") == set(), saved
        rename(source, target, **options)

    def replaced(source, target, **options) -> None:
        if Path(target).name == "phases.json":
            done = [name for name in json.loads(Path(source).read_bytes()) if name.startswith("heldout")]
            if len(done) > len(noted):
                noted[:] = done
                assert disk.lost(run, "episodes/*", "*.jsonl") == set(), noted
        replace(source, target, **options)

    monkeypatch.setattr(os, "rename", named)
    monkeypatch.setattr(os, "replace", replaced)
    job.run(config(), run)
    assert saved == ["step-00000000", "step-00000002", "step-00000004"]
    assert noted[0] == "heldout_before" and "heldout_after" in noted
