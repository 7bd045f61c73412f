"""Full disks, limits and folders that cannot be written, at every kind of write: a clear error, a whole checkpoint before it,
and a resumed run that ends like one without trouble, to the bit. The failures are the system's own, nothing pretends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import full_disks
import pytest

BEFORE_A_RUN = ["lock", "code", "config"]
"""Moments when the folder is no run yet: the same command starts it again."""
NO_CHECKPOINT = ["tokenizer", "generation", "priming", "first checkpoint"]
ONE_AT_0 = ["new file", "first episode", "phases", "weights", "optimiser", "manifest", "publish"]
ONE_AT_2 = ["metrics", "episode"]
ONE_AT_4 = ["evaluation", "summary", "report"]
EXPECTED = {
    **dict.fromkeys(NO_CHECKPOINT + BEFORE_A_RUN, "none"),
    **dict.fromkeys(ONE_AT_0, "step 0"),
    **dict.fromkeys(ONE_AT_2, "step 2"),
    **dict.fromkeys(ONE_AT_4, "step 4"),
}
WRITTEN = {
    "lock": "code.json",
    "code": "code.json",
    "config": "config.toml",
    "tokenizer": "tokenizer",
    "generation": "tokenizer",
    "priming": "metrics.jsonl",
    "first checkpoint": "step-00000000",
    "new file": "heldout_before-00000.jsonl.zst",
    "first episode": "heldout_before-00000.jsonl.zst",
    "phases": "phases.json",
    "weights": "step-00000002",
    "optimiser": "step-00000002",
    "manifest": "step-00000002",
    "publish": "step-00000002",
    "metrics": "metrics.jsonl",
    "episode": "train-00000.jsonl.zst",
    "evaluation": "heldout_after-00000.jsonl.zst",
    "summary": "summary.json",
    "report": "report.html",
}
"""What the message names."""


def troubled(folder: Path, kind: str, moments: list[str], around: list[str]) -> dict[str, dict[str, str]]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    program = [*around, sys.executable, full_disks.__file__, str(folder), kind, *moments]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LOOSE = ["metrics", "episode"]
"""A line may still fit into the last page of its file when the disk is full; then the next write fails."""


def check(found: dict[str, dict[str, str]], reason: str, loose: Sequence[str] = ()) -> None:
    """Every moment gave an error that helps, and cost nothing."""
    whole = found.pop("")["essence"]
    for moment, seen in found.items():
        said, step = seen["message"], seen["checkpoint"].removeprefix("step ")
        saving = seen["error"] == "CheckpointError"
        assert seen["error"] in ("CheckpointError", "DiskError") and reason in said, (moment, seen)
        if moment not in loose:
            assert saving == WRITTEN[moment].startswith("step-"), (moment, seen)
            assert WRITTEN[moment] in said and seen["checkpoint"] == EXPECTED[moment], (moment, seen)
        if moment in BEFORE_A_RUN:
            assert "the same command" in said, (moment, said)
        elif moment == "report":
            assert "phronesis report" in said
        else:
            known = "there is no" if step == "none" else f"step-0000000{step}' is whole" if saving else f"step {step} is whole"
            assert "--resume" in said and known in said, (moment, said)
        assert seen["resumed"] == "finished" and seen["essence"] == whole, (moment, seen)


def test_a_limit_on_the_size_of_files(tmp_path):
    moments = [m for m in EXPECTED if m not in ("publish", "new file")]  # where a limit on sizes has nothing to limit
    check(troubled(tmp_path, "limit", moments, []), "File too large")


def test_a_write_that_is_cut_off_in_its_middle(tmp_path):
    moments = ["metrics", "episode"]
    check(troubled(tmp_path, "torn", moments, []), "File too large")


def test_a_full_disk(tmp_path):
    mount = f'mount -t tmpfs -o size=6m none {tmp_path} && exec "$@"'
    around = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*around, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small file system for themselves")
    moments = ["code", "tokenizer", "first checkpoint", "first episode", "phases", "optimiser", "summary", *LOOSE]
    found = troubled(tmp_path, "full", moments, around)
    for moment, seen in found.items():  # its last words found some space
        if moment not in ("", "report", *BEFORE_A_RUN):
            assert seen["status"].startswith(f"failed: {seen['error']}: cannot write"), (moment, seen)
    check(found, "No space left on device", LOOSE)


def test_folders_that_cannot_be_written():
    with TemporaryDirectory() as place:  # of another owner from here on, and the folders above it are everybody's
        os.chmod(place, 0o755)
        moments = ["lock", "config", "new file", "phases", "weights", "publish", "report"]
        check(troubled(Path(place), "readonly", moments, []), "Permission denied")
