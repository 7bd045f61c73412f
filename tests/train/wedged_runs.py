"""``wedged_runs.py FOLDER HOW...``: runs that are stuck, or end, each in a way of its own; the second step is where it happens.

HOW: ``await`` an environment's step never answers; ``sleep`` one blocks the event loop in Python; ``gil`` one calls C code that
keeps the interpreter; ``deadlock`` the learner waits for a lock that nobody gives back; ``kill`` the process is killed;
``fail`` the learner raises; ``finish`` nothing happens.

Everything is imported once; each run is a fork of this process, in FOLDER/HOW. Prints their numbers as JSON, and ends them when
its own input ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace as replace_data
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from msgspec.structs import replace
from test_async import later
from tiny_jobs import config

from phronesis.envs import registry
from phronesis.errors import TrainingError
from phronesis.rollout.limits import Limits
from phronesis.train import job
from phronesis.train.config import EvalConfig
from phronesis.train.learner import Learner

PATIENT = Limits(max_turns=2, max_turn_tokens=5, env_seconds=9000.0, rubric_seconds=9000.0, policy_seconds=9000.0)
FOREVER = 9000.0


class Stuck:
    """An environment that plays as another one until the policy has learned once."""

    learned = False

    def __init__(self, inner, how):
        self.inner, self.how = inner, how

    async def reset(self, task, seed):
        return await self.inner.reset(task, seed)

    async def step(self, message):
        if Stuck.learned:
            await getattr(self, f"step_{self.how}")()
        return await self.inner.step(message)

    async def step_await(self):
        await asyncio.sleep(FOREVER)

    async def step_sleep(self):
        time.sleep(FOREVER)

    async def step_gil(self):
        reading, _ = os.pipe()
        ctypes.PyDLL(None).read(reading, ctypes.create_string_buffer(1), 1)  # goes on after a signal, unlike sleep

    async def close(self):
        await self.inner.close()


class Trap:
    """What happens in the learner at its second update."""

    def __init__(self, how):
        self.how, self.update, self.lock = how, Learner.update, threading.Lock()

    def __call__(self, learner, batch, *more):
        if Stuck.learned and self.how == "deadlock":
            self.wait_for_a_lock()
        if Stuck.learned and self.how == "kill":
            time.sleep(0.5)  # something has been said by then
            os.kill(os.getpid(), signal.SIGKILL)
        if Stuck.learned and self.how == "fail":
            raise TrainingError("a loss that is no number")
        Stuck.learned = True
        return self.update(learner, batch, *more)

    def wait_for_a_lock(self):
        self.lock.acquire()
        self.lock.acquire()


def run(folder: Path, how: str) -> None:
    """Runs, until something happens."""
    trap = Trap(how)
    Learner.update = lambda *given: trap(*given)
    base = config(steps=4, prime=None, checkpoint_every=1, evaluation=EvalConfig(tasks=0))
    if how == "deadlock":
        base = later(4, prime=None)
    spec = registry.get(base.env.name, base.env.args)
    make = spec.make
    if hasattr(Stuck, f"step_{how}"):
        spec = replace_data(spec, make=lambda: Stuck(make(), how))
    job.run(replace(base, limits=PATIENT), folder, spec=spec)


def child(folder: Path, how: str) -> int:
    """Forks one run."""
    pid = os.fork()
    if pid == 0:
        try:
            run(folder / how, how)
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def main(arguments: list[str]) -> None:
    """Starts them all."""
    folder, ways = Path(arguments[0]), arguments[1:]
    torch.set_num_threads(1)
    with TemporaryDirectory() as spare:  # what is imported and compiled late is there before
        job.run(config(steps=1, prime=None, evaluation=EvalConfig(tasks=0)), Path(spare) / "run")
    pids = {how: child(folder, how) for how in ways}
    print(json.dumps(pids), flush=True)
    sys.stdin.read()
    for pid in pids.values():
        if os.waitpid(pid, os.WNOHANG) == (0, 0):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
