"""A task source that passes over tasks which are solved nearly always or nearly never, as far as anyone can tell.

Passing over tasks changes which tasks are learned from; the counts `drawn` and `skipped` say by how much.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from phronesis.data.curriculum import worth_playing
from phronesis.env import TaskSource
from phronesis.errors import CheckpointError, ConfigError
from phronesis.records import EpisodeGroup, Task

log = logging.getLogger(__name__)

State = dict[str, int | float | str]


class PassRateTasks:
    """Tasks of another source whose pass rate may still lie in a window.   See `phronesis.data.curriculum.worth_playing`.

    A task never attempted is drawn. Each time a task is passed over, what is known of it fades, so that it is tried again
    after a while: the policy changes. The more attempts said the same, the longer it rests.
    """

    def __init__(
        self,
        base: TaskSource,
        *,
        success: float = 1.0,
        low: float = 0.2,
        high: float = 0.8,
        z: float = 1.96,
        fade: float = 0.9,
        memory: int = 64,
        patience: int = 256,
    ):
        """Wraps a source.

        Args:
            base: where tasks come from; of use only if it comes back to the same tasks.
            success: the reward from which an attempt counts as solved.
            low: lower end of the window.
            high: upper end of the window.
            z: normal quantile of the interval.
            fade: share of the attempts remembered when a task is passed over, in (0, 1); ours.
            memory: most attempts remembered per task, at least 1; ours.
            patience: most tasks passed over in a row, at least 1; the next one is drawn whatever is known; ours.

        Raises:
            ConfigError: a number out of range.
        """
        worth_playing(0, 0, low=low, high=high, z=z)
        if not 0.0 < fade < 1.0 or memory < 1 or patience < 1:
            raise ConfigError(f"need 0 < fade < 1, memory >= 1, patience >= 1, got {fade!r}, {memory!r}, {patience!r}")
        self.base, self.success = base, success
        self.low, self.high, self.z = low, high, z
        self.fade, self.memory, self.patience = fade, memory, patience
        self.drawn = self.skipped = 0
        self._rates: dict[str, tuple[float, float]] = {}

    def draw(self, n: int) -> Sequence[Task]:
        """The next `n` tasks worth playing; fewer only when the other source is exhausted."""
        found: list[Task] = []
        before = self.skipped
        while len(found) < n:
            task = self._next()
            if task is None:
                break
            found.append(task)
        self.drawn += len(found)
        if self.skipped > before:
            log.info("passed over %d tasks outside pass rates %g to %g", self.skipped - before, self.low, self.high)
        return found

    def report(self, task: Task, group: EpisodeGroup) -> None:
        """Remembers how often a task was solved; faulty and unscored attempts do not count."""
        values = [e.reward.value for e in group.valid if e.reward is not None and e.reward.value is not None]
        solved, n = self._rates.get(_key(task), (0.0, 0.0))
        solved, n = solved + sum(v >= self.success for v in values), n + len(values)
        if n:
            scale = min(1.0, self.memory / n)
            self._rates[_key(task)] = (solved * scale, n * scale)
        self.base.report(task, group)

    def state(self) -> State:
        """The other source's state, and what is known of each task."""
        return {
            "base": msgspec.json.encode(self.base.state()).decode(),
            "rates": msgspec.json.encode(self._rates).decode(),
            "drawn": self.drawn,
            "skipped": self.skipped,
        }

    def restore(self, state: State) -> None:
        """Continues from a saved state.

        Raises:
            CheckpointError: the state is of another source.
        """
        try:
            base = msgspec.json.decode(str(state["base"]), type=State)
            rates = msgspec.json.decode(str(state["rates"]), type=dict[str, tuple[float, float]])
            drawn, skipped = int(state["drawn"]), int(state["skipped"])
        except (KeyError, ValueError, msgspec.DecodeError) as error:
            raise CheckpointError(f"{sorted(state)!r} is no state of tasks by pass rate: {error}") from error
        self.base.restore(base)
        self._rates, self.drawn, self.skipped = rates, drawn, skipped

    def _next(self) -> Task | None:
        for _ in range(self.patience):
            drawn = self.base.draw(1)
            if not drawn:
                return None
            solved, n = self._rates.get(_key(drawn[0]), (0.0, 0.0))
            if worth_playing(min(solved, n), n, low=self.low, high=self.high, z=self.z):
                return drawn[0]
            self.skipped += 1
            self._rates[_key(drawn[0])] = (solved * self.fade, n * self.fade)
        log.warning("%d tasks in a row lie outside pass rates %g to %g; drawing the next", self.patience, self.low, self.high)
        return next(iter(self.base.draw(1)), None)


def _key(task: Task) -> str:
    return task.content_key or task.id
