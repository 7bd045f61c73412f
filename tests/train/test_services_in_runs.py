"""Pins whole runs whose episodes are played by services: equal to a run that plays here, also when a service is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace
from tiny_jobs import config, essence, events

from phronesis.envs.services.config import ServicesConfig
from phronesis.errors import ConfigError
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.config import EnvChoice, EvalConfig
from phronesis.train.progress import Progress

SERVED = EnvChoice(name="served", args={"env": "lessons:slow_copy", "wait_seconds": 60.0})
QUICK = ServicesConfig(heartbeat_seconds=0.2, suspect_seconds=1.0, lost_seconds=3.0)
EVALUATED = EvalConfig(tasks=3, swapped=False)


class Hands:
    """Two services, started before the run that they register with. One is killed while the first steps are played."""

    def __init__(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        words = ["env", "serve", "lessons:slow_copy", "--register", f"http://127.0.0.1:{self.port}", "--capacity", "3"]
        command = [sys.executable, "-c", "from phronesis.cli.main import main; raise SystemExit(main())", *words]
        variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        self.processes = [subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL) for _ in range(2)]
        self.killed = 0

    def __enter__(self) -> Hands:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def told(self, progress: Progress) -> None:
        """Listens to a run."""
        if progress.phase != "train" or self.killed:
            return
        while sum(row["state"] == "alive" for row in httpx.get(f"http://127.0.0.1:{self.port}/services").json()) < 2:
            time.sleep(0.05)
        self.killed = self.processes[0].pid
        threading.Timer(0.03, lambda: os.kill(self.killed, signal.SIGKILL)).start()


def compared(folder: Path, steps: int) -> dict[str, object]:
    """What two runs must agree on, but for what is said of the service itself."""
    found = essence(folder, steps)
    ignored = ("retries/", "breaker/", "buffer/")
    found["metrics"] = {k: {m: v for m, v in row.items() if not m.startswith(ignored)} for k, row in found["metrics"].items()}
    results = dict(found["results"])
    for field in ("config_hash", "config", "env"):
        results.pop(field, None)
    found["results"] = results
    return found


@pytest.mark.parametrize("overlapped", [False, True])
def test_a_killed_service_changes_nothing_of_what_is_played_and_learned(tmp_path: Path, overlapped: bool):
    changes = {"evaluation": EVALUATED, "asynchrony": AsyncConfig(staleness=0) if overlapped else None, "steps": 6}
    here = tmp_path / "here"
    job.run(config(env=EnvChoice(name="lessons:slow_copy"), **changes), here)
    there = tmp_path / "there"
    with Hands() as hands:
        services = replace(QUICK, port=hands.port)
        job.run(config(env=SERVED, services=services, **changes), there, listener=hands.told)
        assert hands.processes[0].wait(10) == -signal.SIGKILL and hands.processes[1].poll() is None
    assert compared(there, 6) == compared(here, 6)
    with Run.open(there) as run:
        played = list(run.episodes())
    assert not any(e.stop.is_fault for e in played) and all(e.reward is not None for e in played)
    said = " ".join(events(there, "services"))
    assert "suspected" in said and "register at" in said and said.count(" registered: ") >= 2


def test_a_served_world_without_a_registrar_and_a_registrar_without_one_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"set services\.port"):
        job.run(config(env=SERVED), tmp_path / "a")
    with pytest.raises(ConfigError, match='no environment of this run is "served"'):
        job.run(config(services=QUICK), tmp_path / "b")
    with pytest.raises(ConfigError, match=r"services\.lost_seconds"):
        job.run(config(env=SERVED, services=ServicesConfig(lost_seconds=1.0)), tmp_path / "c")
    assert not (tmp_path / "a").exists()
