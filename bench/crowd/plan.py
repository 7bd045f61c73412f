"""What every side of the comparison simulates, and how it is judged. Needs only Python, since peers run it too.

An episode has `TURNS` turns; each waits for the model (lognormal, median 0.5 s: nine of ten between 0.22 and 1.14 s) and then
for a tool (evenly 50-500 ms). The ideal is the time in which these waits alone would be over: episodes start in order, as
many at once as `concurrency` says, each as soon as another one ends.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import math
import os
import random
import statistics
import time
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

TURNS = 8
MODEL_MEDIAN, MODEL_SIGMA = 0.5, 0.5
TOOL_LOW, TOOL_HIGH = 0.05, 0.5
TICK = 0.005
"""Seconds between two looks at the event loop."""
WORDS = ("amber", "basin", "cedar", "delta", "ember", "flint", "grove", "haven", "inlet", "jetty", "knoll", "ledge")


class Waits(NamedTuple):
    """Seconds one turn waits."""

    model: float
    tool: float


def waits(episode: int) -> list[Waits]:
    """What episode number `episode` waits for, turn by turn: the same on every side."""
    rng = random.Random(episode)
    return [
        Waits(rng.lognormvariate(math.log(MODEL_MEDIAN), MODEL_SIGMA), rng.uniform(TOOL_LOW, TOOL_HIGH)) for _ in range(TURNS)
    ]


def ideal_seconds(lengths: Sequence[float], concurrency: int) -> float:
    """When the last of these episodes would end, were there nothing but waiting.

    >>> ideal_seconds([3.0, 1.0, 1.0, 1.0], 2)
    3.0
    """
    ends: list[float] = []
    for length in lengths:
        begin = heapq.heappop(ends) if len(ends) == concurrency else 0.0
        heapq.heappush(ends, begin + length)
    return max(ends)


@cache
def question(task: int, words: int) -> str:
    """A task's text of so many words, which no other task shares."""
    rng = random.Random(f"task {task}")
    return f"Task {task}: look up every key you are told. " + " ".join(rng.choice(WORDS) for _ in range(words))


class Ticker:
    """How late the event loop comes to what is due."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            self.late.append(max(0.0, loop.time() - due))

    def lag(self, share: float) -> float:
        """Milliseconds not exceeded by this share of all moments; a moment inside a long pause counts as such.

        A loop that stops for a second is looked at once in that second, so each look counts as many moments as it covers.
        """
        total, seen = sum(late + TICK for late in self.late), 0.0
        for late in sorted(self.late, reverse=True):
            seen += late + TICK
            if seen >= (1 - share) * total:
                return 1000 * late
        return 0.0


def resident() -> int:
    """Bytes of memory this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Found(NamedTuple):
    """What one run of a side measured."""

    attained: float
    """Ideal seconds over the seconds taken: 1 is as fast as the waits allow."""
    stretch: float
    """Median over episodes of the waits of one over the seconds it took once it began."""
    lag_p99: float
    """Milliseconds."""
    lag_max: float
    """Milliseconds."""
    cpu_per_turn: float
    """CPU-milliseconds of the whole process, divided by the turns."""
    kib_per_episode: float
    """Growth of resident memory while all episodes are in flight, over their number."""
    seconds: float
    episodes: int
    concurrency: int

    @staticmethod
    def of(lengths: Sequence[float], taken: Sequence[float], concurrency: int, ticker: Ticker, clock: Clock) -> Found:
        """From the waits of the episodes in the order they began, and the seconds each took."""
        n = len(lengths)
        return Found(
            attained=ideal_seconds(lengths, concurrency) / clock.wall,
            stretch=statistics.median(a / b for a, b in zip(lengths, taken, strict=True)) if taken else 0.0,
            lag_p99=ticker.lag(0.99),
            lag_max=ticker.lag(1.0),
            cpu_per_turn=1000 * clock.cpu / (n * TURNS),
            kib_per_episode=clock.grown / 1024 / min(concurrency, n),
            seconds=clock.wall,
            episodes=n,
            concurrency=concurrency,
        )


class Clock:
    """Wall and CPU seconds of a ``with`` block, and how much memory grew up to the moment `full` was called."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self.grown = 0

    def __enter__(self) -> Clock:
        gc.collect()
        self._memory, self._start, self._cpu = resident(), time.perf_counter(), time.process_time()
        return self

    def full(self) -> None:
        """All episodes that may be in flight are."""
        self.grown = resident() - self._memory

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._start, time.process_time() - self._cpu
