"""What a person, or a program, sees of a running job: bars and step lines on a terminal, JSON lines otherwise."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from phronesis.cli.sources_table import SourcesTable, sources_of
from phronesis.log import Column, log_step, setup
from phronesis.train.progress import Progress

logger = logging.getLogger("phronesis.cli")

COLUMNS = (
    Column("reward/mean", "reward", "6.3f"),
    Column("success/rate", "success", "4.0%"),
    Column("signal/zero_variance", "flat", "4.0%"),
    Column("policy/entropy", "entropy", "5.2f"),
    Column("mismatch/max_logprob_difference", "dlogp", "5.0e"),
    Column("time/step", "s", "5.1f"),
)
"""The console line of a training step: is there a signal, is the update sane, what does it cost."""

PHASES = {
    "prime": "prime by supervised learning",
    "train": "reinforcement learning",
    "heldout_before": "evaluate before",
    "heldout_before_greedy": "evaluate before, greedily",
    "heldout_after": "evaluate after",
    "heldout_after_greedy": "evaluate after, greedily",
    "heldout_swapped": "evaluate with swapped thoughts",
    "evaluate": "evaluate",
}
"""What a phase is called in front of a person."""

_QUIET_SECONDS = 5.0
"""Phases other than training say at most so often how far they are, when they say it in lines."""


class Watch(AbstractContextManager["Watch"]):
    """A listener of a job. Use it as a context manager around the job."""

    def __init__(self, as_json: bool):
        """With `as_json`, or when standard error is not a terminal, everything is JSON lines."""
        self._terminal = sys.stderr.isatty() and not as_json
        self._bars: Bars | None = None
        self._live: Live | None = None
        self._sources = SourcesTable()
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> Self:
        """Starts drawing."""
        if self._terminal:
            self._bars = Bars(
                TextColumn("{task.description:<30}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._live = Live(self._bars, console=Console(stderr=True), refresh_per_second=4)
            self._live.start()
        setup(as_json=not self._terminal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stops drawing and leaves the last state on the screen."""
        if self._live is not None:
            self._live.stop()
            self._bars = self._live = None
            setup(as_json=False)

    def __call__(self, progress: Progress) -> None:
        """Shows one sign of life."""
        if self._bars is not None:
            if progress.phase not in self._tasks:
                self._tasks[progress.phase] = self._bars.add_task(PHASES.get(progress.phase, progress.phase), total=None)
            self._bars.update(self._tasks[progress.phase], completed=progress.done, total=progress.total or None)
            if self._live is not None and sources_of(progress.values):
                self._sources.add(progress.values)
                self._live.update(Group(self._sources.table(), Text(self._sources.line(), style="dim"), self._bars))
        if progress.phase == "train" and progress.values:
            log_step(logger, progress.done, progress.total, progress.values, COLUMNS)
        elif self._bars is None:
            self._say(progress)

    def _say(self, progress: Progress) -> None:
        """A line when a phase begins and ends, and now and then between."""
        now = time.monotonic()
        ended = progress.total > 0 and progress.done >= progress.total
        if not ended and now - self._said.get(progress.phase, -_QUIET_SECONDS) < _QUIET_SECONDS:
            return
        self._said[progress.phase] = now
        name = PHASES.get(progress.phase, progress.phase)
        text = f"{name}: {progress.done} of {progress.total}" if progress.total else name
        fields = {"phase": progress.phase, "done": progress.done, "total": progress.total, **progress.values}
        logger.info("%s", text, extra={"fields": fields})
