"""Trains the agent of `agent.py` from end to end: makes a small model, starts a run with a gateway, sends the agent to it.

    python demo.py --seed 0

About a minute on two free cores. Prints how often the agent succeeds on held-out tasks before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from pathlib import Path

import agent
import httpx
from prime import prime

HERE = Path(__file__).parent


def await_gateway(address: str, run: subprocess.Popen[bytes], seconds: float = 300.0) -> None:
    """Returns when the run listens."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and run.poll() is None:
        try:
            httpx.get(f"{address}/health", timeout=5).raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit(f"the run does not listen at {address}")


def demo(out: Path, seed: int, port: int, settings: list[str]) -> int:
    """The whole story; the run's exit code."""
    model = out / "model"
    if not model.exists():
        prime(model, seed)
    words = ["train", str(HERE / "pantry.toml"), "--from-gateway", "--seed", str(seed), "--out", str(out / "run")]
    phronesis = str(Path(sys.executable).with_name("phronesis"))
    command = [phronesis, *words, f"model.path={model}", f"gateway.port={port}", *settings]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command) as run:
        try:
            await_gateway(address, run)
            asyncio.run(agent.main(address, 32, "unused"))
            return run.wait()
        finally:
            run.terminate()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=None, help="folder  [default: runs/pantry-seedN]")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--port", type=int, default=8300)
    options.add_argument("settings", nargs="*", help="settings of the run to change, e.g. steps=5")
    given = options.parse_args()
    sys.exit(demo(given.out or Path("runs") / f"pantry-seed{given.seed}", given.seed, given.port, given.settings))
