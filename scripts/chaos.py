"""Breaks a run on purpose and sees whether it learns the same: `make chaos`.

The recipe of three worlds is trained twice from the same seed. The second time three attempts in ten are broken by a lost
connection, some tools never answer, one of the worlds is played by two service processes one of which is killed again and
again without warning, and the training process itself is killed twice and resumed. What it has learned in the end must
lie inside the 95 % interval of the undisturbed run, and no fault may have become a reward.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from phronesis.store import Run
from phronesis.store.index import Where

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "multitask.toml"
PHRONESIS = [str(Path(sys.executable).with_name("phronesis"))]
SERVED = "number"
"""The source that services play."""


def train(folder: Path, settings: list[str], kills: list[float]) -> tuple[float, int]:
    """Trains to the end, killing the process after so many seconds each time; wall seconds, and how often it was killed."""
    began, killed = time.monotonic(), 0
    source = [str(RECIPE), *settings, "--out", str(folder)]
    for patience in [*kills, None]:
        resuming = (folder / "config.toml").exists()
        command = [*PHRONESIS, "train", *([str(folder), "--resume"] if resuming else source)]
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                code = process.wait(patience)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                continue
        if code:
            raise SystemExit(f"chaos: training ended with exit code {code}; see {folder.parent / (folder.name + '.log')}")
        break
    return time.monotonic() - began, killed


class Services:
    """Two service processes of one world; one of them, chosen by chance, is killed every so often and started again."""

    def __init__(self, registrar: str, env: str, args: list[str], seed: int, log: Path):
        self.command = [*PHRONESIS, "env", "serve", env, *args, "--register", registrar, "--capacity", "64"]
        self.chance, self.log, self.kills = random.Random(seed), log, 0
        self.running = [self._start() for _ in range(2)]
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._disturb, daemon=True)
        self.thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, stdout=log, stderr=log)

    def _disturb(self) -> None:
        while not self.ended.wait(self.chance.uniform(4.0, 12.0)):
            i = self.chance.randrange(2)
            self.running[i].send_signal(signal.SIGKILL)
            self.running[i].wait()
            self.kills += 1
            self.running[i] = self._start()

    def close(self) -> None:
        """Ends both."""
        self.ended.set()
        self.thread.join()
        for process in self.running:
            process.kill()
            process.wait()


def troubled(port: int) -> list[str]:
    """Settings of the disturbed run."""
    trouble = "{ faults = 0.3, hangs = 0.02, within = 3 }"
    served = '{ name = "served", args = { env = "guess" } }'
    return [
        *(f"sources.{name}.trouble={trouble}" for name in ("books", SERVED, "lake")),
        *(f"sources.{name}.limits.env_seconds=3.0" for name in ("books", SERVED, "lake")),
        f"sources.{SERVED}.env={served}",
        f"services={{ port = {port} }}",
        "checkpoint_every=5",
    ]


def results(folder: Path) -> dict[str, object]:
    """What a finished run says of itself."""
    with Run.open(folder) as run:
        summary = run.summary() or {}
        steps = [s.values for s in run.steps() if s.step >= 0]
        scored = sum(1 for e in run.episodes(Where(kind="train")) if e.stop.is_fault and e.reward is not None)
        batches = {e.step: str(e.fields["groups"]).split() for e in run.events() if e.kind == "batch"}
    used = [int(n) for groups in batches.values() for n in groups]
    totals = {key: sum(s.get(f"retries/{key}") or 0.0 for s in steps) for key in ("faults", "again", "saved", "lost", "hung")}
    return {
        "before": summary["heldout_before"],
        "after": summary["heldout_after"],
        "retries": totals,
        "rewarded_faults": scored,
        "groups": len(used),
        "learned_once": len(used) == len(set(used)),
    }


def main() -> None:
    """Both runs and the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/chaos"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*", help="settings of both runs, PATH=VALUE")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    asked.out.mkdir(parents=True, exist_ok=True)
    both = [f"seed={asked.seed}", *asked.settings]
    calm, stormy = asked.out / "calm", asked.out / "stormy"
    print("chaos: training undisturbed ...", flush=True)
    seconds, _ = train(calm, both, [])
    print(f"chaos: done in {seconds:.0f} s; training disturbed ...", flush=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chance = random.Random(asked.seed)
    kills = [seconds * chance.uniform(0.5, 0.9), seconds * chance.uniform(0.2, 0.5)]
    services = Services(f"http://127.0.0.1:{port}", "guess", [], asked.seed, asked.out / "services.log")
    try:
        stormy_seconds, killed = train(stormy, both + troubled(port), kills)
    finally:
        services.close()
    print(f"injected: {services.kills} service processes killed, the training process {killed} times")
    print(f"wall time: {seconds:.0f} s undisturbed, {stormy_seconds:.0f} s disturbed")
    judge(results(calm), results(stormy))


def judge(calm: dict[str, object], stormy: dict[str, object]) -> None:
    """Says what was learned; exit code 1 where the disturbed run learned something else, or paid for a fault."""
    reference, found = calm["after"], stormy["after"]
    assert isinstance(reference, dict) and isinstance(found, dict)
    low, high = reference["ci_low"], reference["ci_high"]
    inside = low <= found["success"] <= high and found["n"] == reference["n"]
    print(json.dumps({"calm": calm, "stormy": stormy}))
    print(f"attempts that failed, and what became of them: {stormy['retries']}")
    print(f"held-out success undisturbed {reference['success']:.1%} [{low:.1%}, {high:.1%}], disturbed {found['success']:.1%} "
          f"(n = {found['n']}): {'inside' if inside else 'OUTSIDE'} the interval")  # fmt: skip
    if not inside or stormy["rewarded_faults"] or not stormy["learned_once"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
