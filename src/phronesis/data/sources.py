"""Task sources: which task comes next."""

from __future__ import annotations

from collections.abc import Sequence

from phronesis.env import EnvSpec
from phronesis.errors import CheckpointError, ConfigError, UnknownName
from phronesis.records import EpisodeGroup, Task
from phronesis.seeding import rng


class SpecTasks:
    """The tasks of one split of an environment, in a seeded order.

    An unlimited split is read index by index; a finite one is shuffled anew every epoch.
    """

    def __init__(self, spec: EnvSpec, split: str, seed: int):
        if split not in spec.sizes:
            raise UnknownName(f"split of environment {spec.name!r}", split, spec.sizes)
        size = spec.sizes[split]
        if size is not None and size < 1:
            raise ConfigError(f"split {split!r} of environment {spec.name!r} has no tasks")
        self.spec, self.split, self.seed, self.size = spec, split, seed, size
        self.cursor = 0
        self._epoch, self._order = -1, list[int]()

    def draw(self, n: int) -> Sequence[Task]:
        """The next `n` tasks; never fewer."""
        return [self._next() for _ in range(n)]

    def report(self, task: Task, group: EpisodeGroup) -> None:
        """Order does not depend on outcomes; nothing to learn."""

    def state(self) -> dict[str, int | float | str]:
        """The cursor; the order follows from the seed."""
        return {"cursor": self.cursor, "split": self.split}

    def restore(self, state: dict[str, int | float | str]) -> None:
        """Continues at a saved cursor.

        Raises:
            CheckpointError: the state is of another source.
        """
        cursor = state.get("cursor")
        if not isinstance(cursor, int) or state.get("split") != self.split:
            raise CheckpointError(f"{state!r} is no state of the {self.split!r} tasks of {self.spec.name!r}")
        self.cursor = cursor

    def _next(self) -> Task:
        index, self.cursor = self.cursor, self.cursor + 1
        if self.size is not None:
            epoch, at = divmod(index, self.size)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, list(range(self.size))
                rng(self.seed, "order", self.split, epoch).shuffle(self._order)
            index = self._order[at]
        return self.spec.task(self.split, index)
