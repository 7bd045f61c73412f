"""``killed_runs.py FOLDER KILLS STALENESS``: a run killed with SIGKILL at random moments and resumed until it is done.

Everything is imported once; each attempt is a fork of this process. STALENESS ``none`` is the synchronous run. Half of the
kills come at any time at all; the others inside one phase: while groups are played, while the learner computes, while a
checkpoint is written, while the weights are pushed. There a timer of the system is set at the phase's beginning to a random
part of what the phase usually takes, and taken back at its end, so that it can only strike inside. Prints how many attempts
were killed, how many in which phase, and after how many of them the run folder held a checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from msgspec.structs import replace
from test_async import later
from tiny_jobs import config

from phronesis.train import async_loop, checkpoint, job, loop
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.config import EvalConfig, RunConfig
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.seat import Seat

STEPS = 120
PHASES = ("play", "learning", "checkpoint", "push")


def settings(staleness: str) -> RunConfig:
    """Many steps, a checkpoint after every second one; primed, since without rewards nothing would be learned or lost."""
    if staleness == "none":
        slowly = LearnerConfig(optimizer=AdamWConfig(lr=1e-3), epochs=2, minibatches=2)  # or it has soon learned all there is
        return config(steps=STEPS, checkpoint_every=2, learner=slowly, evaluation=EvalConfig(tasks=3, every=60))
    return replace(later(STEPS, checkpoint_every=2, keep_checkpoints=3), asynchrony=AsyncConfig(staleness=int(staleness)))


class Timer:
    """The system kills this process after some time, whatever it does then."""

    def __init__(self) -> None:
        """A timer that is not set."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        event = (ctypes.c_int * 16)()  # struct sigevent: value (two words), signal, how (0: a signal)
        event[2] = signal.SIGKILL
        self._timer = ctypes.c_void_p()
        if self._libc.timer_create(1, event, ctypes.byref(self._timer)):  # 1: the monotonic clock
            raise OSError(ctypes.get_errno(), "timer_create")

    def set(self, seconds: float) -> None:
        """Kills after so many seconds; 0 takes it back."""
        when = (ctypes.c_long * 4)(0, 0, int(seconds), int(seconds % 1 * 1e9))
        self._libc.timer_settime(self._timer, 0, when, None)


def phases(enter: Callable[[str], None], leave: Callable[[str], None]) -> None:
    """Has the beginning and the end of every phase told."""

    def around(phase: str, owner: object, name: str) -> None:
        whole = getattr(owner, name)

        def wrapped(*given, **named):
            enter(phase)
            try:
                return whole(*given, **named)
            finally:
                leave(phase)

        async def awaited(*given, **named):
            enter(phase)
            try:
                return await whole(*given, **named)
            finally:
                leave(phase)

        setattr(owner, name, awaited if phase == "play" else wrapped)

    around("play", loop, "play_step")
    around("play", async_loop.Playing, "batch")
    around("learning", Learner, "update")
    around("checkpoint", checkpoint, "save")
    around("push", Seat, "push")


def aim(phase: str, share: float, usual: float, skip: int, tell: Callable[[bytes], None]) -> None:
    """Sets the timer whenever the phase begins, after the first `skip` times."""
    timer, seen = Timer(), 0

    def enter(begun: str) -> None:
        nonlocal seen
        if begun == phase:
            seen += 1
            if seen > skip:
                tell(b"(")
                timer.set(max(share * usual, 1e-6))

    def leave(ended: str) -> None:
        if ended == phase and seen > skip:
            timer.set(0.0)
            tell(b")")

    phases(enter, leave)


def rehearse(run: RunConfig, folder: Path) -> dict[str, float]:
    """What the phases usually take, in seconds. What is imported and compiled late is there afterwards."""
    begun, took = dict[str, float](), {phase: list[float]() for phase in PHASES}
    kept = (loop.play_step, async_loop.Playing.batch, Learner.update, checkpoint.save, Seat.push)
    phases(
        lambda phase: begun.update({phase: time.perf_counter()}),
        lambda phase: took[phase].append(time.perf_counter() - begun[phase]),
    )
    job.run(replace(run, steps=12, prime=None, evaluation=EvalConfig(tasks=0)), folder)
    loop.play_step, async_loop.Playing.batch, Learner.update, checkpoint.save, Seat.push = kept
    return {phase: median(times) for phase, times in took.items()}


def attempt(run: RunConfig, folder: Path, marks: int, seconds: float, inside: Callable[[Callable[[bytes], None]], None] | None):
    """Starts or resumes the run, and kills it so many seconds after it has made so many signs of progress (steps, episodes of
    an evaluation), or lets `inside` do it. How it ended: ``done``, ``killed``, or ``inside`` when a phase had begun and not
    ended then."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if inside is not None:
                inside(lambda said: os.write(writing, said) and None)
            again = (folder / "config.toml").exists()
            job.run(run, folder, resume=again, listener=lambda _: os.write(writing, b".") and None)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    seen, last = 0, b""
    while seen < marks:
        news = os.read(reading, min(4096, marks - seen))
        if not news:  # it has ended
            break
        seen, last = seen + news.count(b"."), (news.replace(b".", b"") or last)[-1:]
    if seen >= marks:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the run failed: {code}"
    if code == 0:
        assert seen < marks
        return "done"
    return "inside" if last == b"(" else "killed"


def main(arguments: list[str]) -> None:
    """Kills, resumes, and says how often."""
    folder, kills, run = Path(arguments[0]), int(arguments[1]), settings(arguments[2])
    torch.set_num_threads(1)
    with TemporaryDirectory() as spare:
        usual = rehearse(run, Path(spare) / "run")
    draw, landed, late = random.Random(7), Counter[str](), 0
    for number in range(kills):
        inside, marks = None, draw.randint(0, 9)
        if number % 2:
            phase, share, skip = PHASES[number // 2 % len(PHASES)], draw.random(), draw.randint(0, 3)
            marks = sys.maxsize
            inside = lambda tell, p=phase, s=share, k=skip: aim(p, s, usual[p], k, tell)  # noqa: E731
        how = attempt(run, folder, marks, draw.uniform(0.0, 0.03), inside)
        if how == "done":
            break
        landed[phase if how == "inside" else "anywhere"] += 1
        late += checkpoint.latest(folder / "checkpoints") is not None
    while attempt(run, folder, sys.maxsize, 0.0, None) != "done":
        pass
    print(json.dumps({"killed": landed.total(), "late": late, **landed}))


if __name__ == "__main__":
    main(sys.argv[1:])
