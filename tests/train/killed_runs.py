"""``killed_runs.py FOLDER KILLS STALENESS``: a run killed with SIGKILL at random moments and resumed until it is done.

Everything is imported once; each attempt is a fork of this process. STALENESS ``none`` is the synchronous run. Prints how many
attempts were killed, and after how many of these the run folder held a checkpoint.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from msgspec.structs import replace
from test_async import later
from tiny_jobs import config

from phronesis.train import checkpoint, job
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.config import EvalConfig, RunConfig

STEPS = 120


def settings(staleness: str) -> RunConfig:
    """Many steps, a checkpoint after every second one."""
    if staleness == "none":
        return config(steps=STEPS, prime=None, checkpoint_every=2, evaluation=EvalConfig(tasks=3, every=60))
    return replace(
        later(STEPS, prime=None, checkpoint_every=2, keep_checkpoints=3), asynchrony=AsyncConfig(staleness=int(staleness))
    )


def attempt(run: RunConfig, folder: Path, marks: int, seconds: float) -> bool:
    """Starts or resumes the run and kills it so many seconds after it has made so many signs of progress (steps, episodes of
    an evaluation); whether it was done before."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            again = (folder / "config.toml").exists()
            job.run(run, folder, resume=again, listener=lambda _: os.write(writing, b".") and None)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    seen = 0
    while seen < marks:
        news = os.read(reading, marks - seen)
        if not news:  # it has ended
            break
        seen += len(news)
    time.sleep(seconds if seen == marks else 0.0)
    done = seen < marks
    if not done:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the run failed: {code}"
    return code == 0


def main(arguments: list[str]) -> None:
    """Kills, resumes, and says how often."""
    folder, kills, run = Path(arguments[0]), int(arguments[1]), settings(arguments[2])
    torch.set_num_threads(1)
    with TemporaryDirectory() as spare:  # what is imported and compiled late is there before anything is killed
        job.run(replace(run, steps=0, prime=None, asynchrony=None), Path(spare) / "run")
    draw, killed, late = random.Random(7), 0, 0
    while not attempt(run, folder, draw.randint(0, 9) if killed < kills else 10**6, draw.uniform(0.0, 0.03)):
        killed += 1
        late += checkpoint.latest(folder / "checkpoints") is not None
    print(json.dumps({"killed": killed, "late": late}))


if __name__ == "__main__":
    main(sys.argv[1:])
