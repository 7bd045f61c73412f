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
from tiny_jobs import Stopped, config, essence, events

from phronesis.envs.services.config import ServicesConfig
from phronesis.errors import ConfigError
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.config import EnvChoice, EvalConfig, SourceConfig
from phronesis.train.progress import Progress

SERVED = EnvChoice(name="served", args={"env": "lessons:slow_copy", "wait_seconds": 60.0})
QUICK = ServicesConfig(heartbeat_seconds=0.2, suspect_seconds=1.0, lost_seconds=3.0)
EVALUATED = EvalConfig(tasks=3, swapped=False)


def start(port: int, capacity: int) -> subprocess.Popen[bytes]:
    """A service in a process of its own."""
    words = ["env", "serve", "lessons:slow_copy", "--register", f"http://127.0.0.1:{port}", "--capacity", str(capacity)]
    command = [sys.executable, "-c", "from phronesis.cli.main import main; raise SystemExit(main())", *words]
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)


class Hands:
    """Services, and the hands that start them and kill one."""

    def __init__(self):
        self.processes: list[subprocess.Popen[bytes]] = []
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        self.killed = 0

    def start(self, *capacities: int) -> None:
        """Starts services, before the run that they register with or after."""
        self.processes += [start(self.port, n) for n in capacities]

    def __enter__(self) -> Hands:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def told(self, progress: Progress) -> None:
        """Listens to a run: kills the first service while the first steps are played."""
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
        hands.start(3, 3)
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


def test_a_source_whose_services_are_full_leaves_room_to_the_others(tmp_path: Path):
    def settings(env: EnvChoice, **more: object):
        sources = {"slow": SourceConfig(env=env, concurrency=3), "other": SourceConfig(env=EnvChoice(name="lessons:copy"))}
        return config(env=EnvChoice(), sources=sources, evaluation=EvalConfig(tasks=0), concurrency=4, **more)

    job.run(settings(EnvChoice(name="lessons:slow_copy")), tmp_path / "here")
    with Hands() as hands:
        hands.start(2, 1)
        job.run(settings(SERVED, services=replace(QUICK, port=hands.port)), tmp_path / "there")
    assert compared(tmp_path / "there", 4) == compared(tmp_path / "here", 4)
    with Run.open(tmp_path / "there") as run:
        assert {e.task.env for e in run.episodes()} == {"slow", "other"}


def test_a_run_that_is_resumed_is_found_again_by_its_services(tmp_path: Path):
    changes = {"evaluation": EvalConfig(tasks=0)}
    job.run(config(env=EnvChoice(name="lessons:slow_copy"), **changes), tmp_path / "here")
    there, served = tmp_path / "there", config(env=SERVED, services=QUICK, **changes)  # at any free port

    def listen(progress: Progress) -> None:
        if not hands.processes:  # now it is known where
            hands.port = int(events(there, "services")[0].rpartition(":")[2])
            hands.start(4)
        if (progress.phase, progress.done) == ("train", 3):
            raise Stopped

    with Hands() as hands:
        with pytest.raises(Stopped):
            job.run(served, there, listener=listen)
        job.run(served, there, resume=True)
        assert hands.processes[0].poll() is None
    assert compared(there, 4) == compared(tmp_path / "here", 4)
    assert [int(m.rpartition(":")[2]) for m in events(there, "services") if "register at" in m] == [hands.port] * 2
