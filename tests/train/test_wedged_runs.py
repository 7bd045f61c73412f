"""Real processes that are stuck on purpose, or dead, or done: `phronesis status` says which, and why."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wedged_runs

from phronesis.alive.watchdog import SECONDS
from phronesis.cli.main import main

WAYS = ["await", "sleep", "gil", "deadlock", "kill", "fail", "finish"]
EXPECTED = {
    "await": ("waiting", 6),
    "sleep": ("wedged", 5),
    "gil": ("wedged", 5),
    "deadlock": ("wedged", 5),
    "kill": ("killed", 4),
    "fail": ("failed", 3),
    "finish": ("finished", 0),
}
PATIENCE = "2"


class Runs:
    """Seven runs at once."""

    def __init__(self, folder: Path, pids: dict[str, int]):
        self.folder, self.pids = folder, pids

    def verdict(self, how: str, capsys: pytest.CaptureFixture[str]) -> dict:
        """What the command says once it says what it should, or at last."""
        deadline = time.monotonic() + 90
        while True:
            capsys.readouterr()
            code = main(["status", str(self.folder / how), "--patience", PATIENCE, "--json"])
            printed = capsys.readouterr().out
            found = json.loads(printed) if printed else {"state": "no run yet", "exit_code": code}
            assert found["exit_code"] == code
            if (found["state"], code) == EXPECTED[how] or time.monotonic() > deadline:
                assert (found["state"], code) == EXPECTED[how], found
                return found
            time.sleep(0.2)

    def page(self, how: str, capsys: pytest.CaptureFixture[str]) -> str:
        """What a person reads."""
        capsys.readouterr()
        assert main(["status", str(self.folder / how), "--patience", PATIENCE]) == EXPECTED[how][1]
        return capsys.readouterr().out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("runs")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), SECONDS: "0.2"}
    program = [sys.executable, wedged_runs.__file__, str(folder), *WAYS]
    with (
        (folder / "log.txt").open("w") as log,
        subprocess.Popen(
            program, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "log.txt").read_text()
        yield Runs(folder, json.loads(line))
        process.stdin.close()
        process.wait(60)


def test_an_environment_that_never_answers(runs, capsys):
    found = runs.verdict("await", capsys)
    assert "in env.step" in found["why"] and "play" in found["why"]
    status = found["facts"]["status"]
    assert any("Stuck.step_await > tests/train/wedged_runs.py:" in p["where"] and p["count"] == 8 for p in status["places"])
    page = runs.page("await", capsys)
    assert "8 x " in page and "Stuck.step_await" in page and "train: 1 of 4" in page


def test_one_that_blocks_the_event_loop(runs, capsys):
    found = runs.verdict("sleep", capsys)
    assert found["at"]["function"] == "Stuck.step_sleep" and found["at"]["file"].endswith("wedged_runs.py")
    assert found["why"].startswith("the event loop is blocked for ") and found["seconds"] >= 2
    assert f"kill {runs.pids['sleep']}" in found["todo"] and "--resume (from the checkpoint of step 1)" in found["todo"]
    assert "Stuck.step_sleep" in runs.page("sleep", capsys)


def numberless(text: str) -> list[str]:
    """The lines of a page without its numbers, and without what depends on the machine and the moment."""
    cut = re.sub(r"; the longest for .*", "", re.sub(r"\d[\d.,]*", "N", text), flags=re.MULTILINE)
    return [line for line in cut.splitlines() if line and not line.startswith("process ")]


def test_the_page_in_the_docs_is_such_a_page(runs, capsys):
    runs.verdict("sleep", capsys)
    docs = (Path(__file__).parents[2] / "docs" / "status.md").read_text()
    sample = docs.split("```text\n")[1].split("```")[0]
    for theirs, ours in (
        ("runs/mine", str(runs.folder / "sleep")),
        ("worlds/my_env.py", "tests/train/wedged_runs.py"),
        ("MyEnv.step", "Stuck.step_sleep"),
    ):
        sample = sample.replace(theirs, ours)
    shown = numberless(runs.page("sleep", capsys))
    assert [line for line in numberless(sample) if line not in shown] == []


def test_c_code_that_keeps_the_interpreter(runs, capsys):
    found = runs.verdict("gil", capsys)
    assert "C code keeps the interpreter" in found["why"]
    assert found["at"]["function"] == "step_gil" and found["at"]["file"].endswith("wedged_runs.py")
    assert any(f["function"] == "step_gil" for t in found["facts"]["dumped"] for f in t["frames"])
    again = runs.verdict("gil", capsys)  # asking has not set it free
    assert again["at"] == found["at"] and again["seconds"] > found["seconds"]


def test_a_lock_that_nobody_gives_back(runs, capsys):
    found = runs.verdict("deadlock", capsys)
    assert found["why"].startswith("update has not used the processor for ")
    assert found["at"]["function"] == "Trap.wait_for_a_lock"
    threads = found["facts"]["status"]["threads"]
    assert any(f["function"] == "Trap.wait_for_a_lock" for t in threads for f in t["frames"])


def test_killed(runs, capsys):
    found = runs.verdict("kill", capsys)
    assert f"process {runs.pids['kill']} is gone" in found["why"]
    assert found["todo"].endswith("--resume (from the checkpoint of step 1)")


def test_failed(runs, capsys):
    found = runs.verdict("fail", capsys)
    assert found["why"] == "TrainingError: a loss that is no number" and "--resume" in found["todo"]


def test_finished(runs, capsys):
    found = runs.verdict("finish", capsys)
    assert found["todo"] == "" and found["facts"]["status"]["ended"] == "finished"
    assert runs.page("finish", capsys).splitlines()[0].endswith("finish: finished")


def test_stopped_by_a_signal_and_continued(runs, capsys):
    pid = runs.pids["await"]
    os.kill(pid, signal.SIGSTOP)
    try:
        capsys.readouterr()
        assert main(["status", str(runs.folder / "await"), "--json"]) == 5
        found = json.loads(capsys.readouterr().out)
        assert found["state"] == "stopped" and found["todo"] == f"kill -CONT {pid}"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert runs.verdict("await", capsys)["state"] == "waiting"
