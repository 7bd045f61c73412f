"""In which order a run's tasks come, as configured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from phronesis.data.families import Bandit, FamilyTasks, RunningValue, UpperConfidence
from phronesis.data.pass_rates import PassRateTasks
from phronesis.data.sources import SpecTasks
from phronesis.env import EnvSpec, TaskSource
from phronesis.errors import ConfigError
from phronesis.records import EpisodeGroup, Task

_LOOK = 512
_PATIENCE = 100_000


class Listed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="listed"):
    """As the environment lists them, a finite split shuffled anew every epoch; outcomes change nothing."""

    def source(self, spec: EnvSpec, split: str, seed: int) -> TaskSource:
        """The source this describes."""
        return SpecTasks(spec, split, seed)


class PassRateWindow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="pass_rates"):
    """Without tasks that are surely too easy or too hard by now.   See `PassRateTasks`. For finite splits."""

    low: float = 0.2
    """Lower end of the window of pass rates."""
    high: float = 0.8
    """Upper end."""
    z: float = 1.96
    """Normal quantile of the interval around a pass rate; smaller decides sooner."""
    fade: float = 0.9
    """Share of the attempts remembered each time a task is passed over, in (0, 1); ours."""

    def source(self, spec: EnvSpec, split: str, seed: int) -> TaskSource:
        """The source this describes.

        Raises:
            ConfigError: an unlimited split, where no task comes back, or a number out of range.
        """
        base = SpecTasks(spec, split, seed)
        if base.size is None:
            raise ConfigError(
                f"split {split!r} of environment {spec.name!r} is unlimited: no task comes back, so none can be known to be "
                'too easy or too hard; use tasks.type = "dump" or "sec" over its difficulties'
            )
        return PassRateTasks(base, success=spec.success, low=self.low, high=self.high, z=self.z, fade=self.fade)


class DumpOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dump"):
    """By difficulty, chosen by upper confidence bound on what can be learned.   Source: DUMP, arXiv 2504.09710."""

    window: int = 300
    """Attempts a level's mean |A| is taken over, at least 1."""
    temperature: float = 0.1
    """Of the softmax over scores, above 0."""

    def source(self, spec: EnvSpec, split: str, seed: int) -> TaskSource:
        """The source this describes."""
        return by_difficulty(spec, split, seed, lambda n: UpperConfidence(n, window=self.window, temperature=self.temperature))


class SecOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="sec"):
    """By difficulty, chosen by a running mean of what can be learned.   Source: SEC, arXiv 2505.14970; constants are ours."""

    alpha: float = 0.5
    """How fast a level's value follows, in (0, 1]."""
    temperature: float = 0.2
    """Of the softmax over values, above 0."""

    def source(self, spec: EnvSpec, split: str, seed: int) -> TaskSource:
        """The source this describes."""
        return by_difficulty(spec, split, seed, lambda n: RunningValue(n, alpha=self.alpha, temperature=self.temperature))


TaskOrder = Listed | PassRateWindow | DumpOrder | SecOrder
"""The built-in orders, told apart by their tag in configs."""


class LevelTasks:
    """The tasks of one difficulty, found by looking through all tasks in their order."""

    def __init__(self, base: SpecTasks, level: str):
        self.base, self.level = base, level

    def draw(self, n: int) -> Sequence[Task]:
        """The next `n` tasks of the level.

        Raises:
            ConfigError: there is none among very many.
        """
        return [self._next() for _ in range(n)]

    def report(self, task: Task, group: EpisodeGroup) -> None:
        """Order within a level does not depend on outcomes."""

    def state(self) -> dict[str, int | float | str]:
        """How far it has looked."""
        return self.base.state()

    def restore(self, state: dict[str, int | float | str]) -> None:
        """Continues from a `state`."""
        self.base.restore(state)

    def _next(self) -> Task:
        for _ in range(_PATIENCE):
            (task,) = self.base.draw(1)
            if level_of(task) == self.level:
                return task
        raise ConfigError(f"none of {_PATIENCE} tasks of environment {self.base.spec.name!r} has difficulty {self.level}")


def level_of(task: Task) -> str:
    """A task's difficulty as a name; tasks without one are ``none``."""
    return "none" if task.difficulty is None else f"{task.difficulty:g}"


def by_difficulty(spec: EnvSpec, split: str, seed: int, bandit: Callable[[int], Bandit]) -> FamilyTasks:
    """One family per difficulty found among the first tasks of the split.

    Raises:
        ConfigError: there are fewer than two difficulties.
    """
    first = SpecTasks(spec, split, seed)
    tasks = first.draw(_LOOK if first.size is None else min(first.size, _LOOK))
    difficulties = sorted({t.difficulty for t in tasks if t.difficulty is not None})
    if len(difficulties) < 2:
        raise ConfigError(
            f"environment {spec.name!r} shows {len(difficulties)} difficulties in its {split!r} tasks; a curriculum over "
            'difficulties needs 2 or more, so use tasks.type = "listed" or "pass_rates"'
        )
    levels = [f"{d:g}" for d in difficulties]
    families = {level: LevelTasks(SpecTasks(spec, split, seed), level) for level in levels}
    return FamilyTasks(families, level_of, bandit(len(levels)), seed)
