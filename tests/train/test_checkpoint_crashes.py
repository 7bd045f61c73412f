"""A save that is killed anywhere, or that the disk refuses: the newest checkpoint is whole and training continues from it."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sampled_groups import make_decoder, make_group

from phronesis.credit import GroupStandard, TrajectoryCredit
from phronesis.errors import CheckpointError
from phronesis.train.batching import build_batch
from phronesis.train.checkpoint import Manifest, latest, load, save, steps, tidy
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig

HERE = Path(__file__).parent
CONFIG = LearnerConfig(optimizer=AdamWConfig(lr=1e-2))
REMOVING = ("unlink", "rmdir")
ON_DISK = ("mkdir", "rename", "replace", "fsync", *REMOVING)
"""What of `os` a save changes the disk with, besides writing files."""


def train(learner, first, last):
    for step in range(first, last):
        groups = [make_group(learner.decoder, 10 * step + i) for i in range(2)]
        learner.update(build_batch(groups, [asyncio.run(TrajectoryCredit(baseline=GroupStandard()).assign(g)) for g in groups]))


def put(folder, learner, step, attempt, keep=2):
    return save(folder, learner.decoder, learner, Manifest(step=step, counters={"attempt": attempt}), keep=keep)


def resumed(path):
    found = load(path)
    learner = Learner(found.decoder, CONFIG)
    learner.restore(found.learner)
    return learner, found.manifest


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """Checkpoints of steps 2 and 3, the learner at step 3, the one at step 4, and the weights at step 5."""
    folder = tmp_path_factory.mktemp("history") / "checkpoints"
    learner = Learner(make_decoder(), CONFIG)
    train(learner, 0, 2)
    put(folder, learner, 2, 1)
    train(learner, 2, 3)
    put(folder, learner, 3, 1)
    at = {3: resumed(folder / "step-00000003")[0]}
    train(learner, 3, 4)
    put(folder.parent / "later", learner, 4, 1)
    at[4] = resumed(folder.parent / "later" / "step-00000004")[0]
    train(learner, 4, 5)
    return folder, at, [p.detach().clone() for p in learner.decoder.parameters()]


class Killed(BaseException):
    """Stands for the end of the process: nothing on the disk changes any more."""


def saving_until(monkeypatch, moment, act):
    """Runs `act`, which dies before change number `moment` of the disk; True when it got through."""
    done = 0

    def dying(real):
        def call(*arguments, **options):
            nonlocal done
            done += 1
            if done >= moment:
                raise Killed
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ON_DISK:
            patch.setattr(os, name, dying(getattr(os, name)))
        patch.setattr(torch, "save", dying(torch.save))
        try:
            act()
        except Killed:
            return False
    return True


@pytest.mark.parametrize("step", [3, 4])
def test_killed_before_every_change_of_the_disk(history, tmp_path, monkeypatch, step):
    """Saving step 3 again replaces it; saving step 4 is new and removes step 2."""
    source, at, end = history
    moment, arrived, seen = 0, False, []
    while not arrived:
        moment += 1
        folder = shutil.copytree(source, tmp_path / str(moment))
        arrived = saving_until(monkeypatch, moment, lambda folder=folder: put(folder, at[step], step, 2))
        learner, manifest = resumed(latest(folder))
        seen.append((manifest.step, manifest.counters["attempt"]))
        train(learner, manifest.step, 5)
        for a, b in zip(learner.decoder.parameters(), end, strict=True):
            assert torch.equal(a, b), f"killed before change {moment}, resumed at {seen[-1]}"
        put(folder, at[step], step, 3)
        names = sorted(p.name for p in folder.iterdir())
        assert names == [f"step-{step - 1:08d}", f"step-{step:08d}"], f"killed before change {moment}"
        assert load(latest(folder)).manifest.counters == {"attempt": 3}
        shutil.rmtree(folder)
    assert seen == sorted(seen) and seen[0] == (3, 1) and seen[-1] == (step, 2), "from the old to the new and never back"
    assert moment > 15


def test_between_the_two_renames_the_old_one_counts(history, tmp_path):
    folder = shutil.copytree(history[0], tmp_path / "c")
    (folder / "step-00000003").rename(folder / ".saving-old-step-00000003")
    shutil.copytree(folder / "step-00000002", folder / ".saving-step-00000003")
    assert [p.name for p in steps(folder)] == ["step-00000002", ".saving-old-step-00000003"]
    assert load(latest(folder)).manifest.step == 3
    (latest(folder) / "learner.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"continue from '.*step-00000002'"):
        load(latest(folder))
    tidy(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_half_removed_old_one_never_hides_the_new_one(history, tmp_path):
    folder = shutil.copytree(history[0], tmp_path / "c")
    shutil.copytree(folder / "step-00000002", folder / ".saving-old-step-00000003")
    (folder / ".saving-old-step-00000003" / "model.safetensors").unlink()
    assert load(latest(folder)).manifest.step == 3 and len(steps(folder)) == 2
    tidy(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000002", "step-00000003"]


SIGKILLED = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
from test_checkpoint_crashes import ON_DISK, latest, load, put, resumed
source = Path(sys.argv[1])
learner, _ = resumed(source / "step-00000003")

def dying(real, moment):
    def call(*arguments, **options):
        dying.done += 1
        if dying.done == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call

dying.done = moment = 0
while True:
    moment += 1
    folder = shutil.copytree(source, source.parent / f"killed-{moment}")
    child = os.fork()
    if not child:
        for name in ON_DISK:
            setattr(os, name, dying(getattr(os, name), moment))
        put(folder, learner, 3, 2)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    manifest = load(latest(folder)).manifest
    again = put(folder, learner, 3, 3)
    load(again)
    left = sorted(p.name for p in folder.iterdir())
    print(moment, os.WTERMSIG(status) if os.WIFSIGNALED(status) else "done", manifest.step, manifest.counters["attempt"], *left)
    shutil.rmtree(folder)
    if not os.WIFSIGNALED(status):
        break
"""


def test_sigkill_at_every_change_of_the_disk(history, tmp_path):
    folder = shutil.copytree(history[0], tmp_path / "c")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SIGKILLED, str(folder), str(HERE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[1] for line in lines] == ["9"] * (len(lines) - 1) + ["done"] and len(lines) > 15
    assert {line[2] for line in lines} == {"3"} and [line[3] for line in lines] == sorted(line[3] for line in lines)
    assert (lines[0][3], lines[-1][3]) == ("1", "2")
    assert all(line[4:] == ["step-00000002", "step-00000003"] for line in lines)


@pytest.mark.parametrize("name", [*(n for n in ON_DISK if n not in REMOVING), "save", "copy", "write"])
def test_a_full_disk_is_told_and_leaves_the_earlier_ones(history, tmp_path, monkeypatch, name):
    """Each kind of change in turn finds no space."""
    source, at, _ = history
    folder = shutil.copytree(source, tmp_path / "c")
    extra = tmp_path / "tokenizer.json"
    extra.write_text("{}")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if name in ON_DISK:
            patch.setattr(os, name, full)
        else:
            owner = {"save": torch, "copy": shutil, "write": Path}[name]
            patch.setattr(owner, {"save": "save", "copy": "copyfile", "write": "write_bytes"}[name], full)
        with pytest.raises(CheckpointError, match=r"cannot write checkpoint '.*step-00000004': .*No space left.*free some"):
            save(folder, at[4].decoder, at[4], Manifest(step=4), beside=[extra])
    assert load(folder / "step-00000003").manifest.step == 3
    assert put(folder, at[4], 4, 2) == latest(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize(("name", "step"), [("unlink", 3), ("rmdir", 3), ("unlink", 4), ("rmdir", 4), ("rename", 4)])
def test_what_cannot_be_removed_stops_nothing(history, tmp_path, monkeypatch, caplog, name, step):
    """Saving step 3 again replaces it, saving step 4 removes step 2; where that fails, the new one counts all the same."""
    source, at, _ = history
    folder = shutil.copytree(source, tmp_path / "c")
    real = getattr(os, name)

    def refused(path, *arguments, **options):
        if name == "unlink":
            removing = options.get("dir_fd") is not None
        else:
            removing = any(mark in str(arguments[0] if name == "rename" else path) for mark in ("-gone-", "-old-"))
        if removing:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch, caplog.at_level("WARNING", "phronesis"):
        patch.setattr(os, name, refused)
        new = put(folder, at[step], step, 2)
        assert new == latest(folder) and load(new).manifest.counters == {"attempt": 2}
        assert tidy(folder) is None and load(new).manifest.counters == {"attempt": 2}
    told = [r.getMessage() for r in caplog.records if "cannot be removed" in r.getMessage()]
    assert told
    assert all("Permission denied" in t and "remove it by hand" in t and "is no longer needed" in t for t in told)
    put(folder, at[step], step, 4)
    assert sorted(p.name for p in folder.iterdir()) == [f"step-{step - 1:08d}", f"step-{step:08d}"]


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoint_crashes import latest, load, put, resumed
source = Path(sys.argv[1])
learner, _ = resumed(source / "step-00000003")
for limit in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        put(source, learner, 4, 1)
    except Exception as error:
        print(type(error).__name__, error, sorted(p.name for p in source.iterdir()))
"""


def test_files_that_really_cannot_be_written(history, tmp_path):
    """The system refuses to let files grow: the errors of safetensors and torch become ours, the draft's space is freed."""
    folder = shutil.copytree(history[0], tmp_path / "c")
    sizes = {p.name: p.stat().st_size for p in (folder / "step-00000003").iterdir()}
    limits = [10, sizes["model.safetensors"] - 10, sizes["learner.pt"] - 100]
    assert limits == sorted(limits), "the first file that is too large: the model, the model's end, the learner"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder), str(HERE), *map(str, limits)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("CheckpointError cannot write checkpoint") and "step-00000003' is whole" in line
        assert line.endswith("['step-00000002', 'step-00000003']")
    assert load(latest(folder)).manifest.step == 3


def test_a_read_only_folder(history, tmp_path, monkeypatch):
    source, at, _ = history
    folder = shutil.copytree(source, tmp_path / "c")
    real = os.mkdir

    def refused(path, *arguments, **options):
        if Path(path).parent == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    folder.chmod(0o555)
    with monkeypatch.context() as patch:
        if os.geteuid() == 0:  # whom permissions do not stop
            patch.setattr(os, "mkdir", refused)
        with pytest.raises(CheckpointError, match=r"Permission denied.*step-00000003' is whole; .*fix the permissions"):
            put(folder, at[4], 4, 1)
    folder.chmod(0o755)
    assert load(latest(folder)).manifest.step == 3 and len(list(folder.iterdir())) == 2


def test_where_no_folder_can_be(history, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint '.*file/c/step-00000004': .*there is no earlier one"):
        put(tmp_path / "file" / "c", history[1][4], 4, 1)
