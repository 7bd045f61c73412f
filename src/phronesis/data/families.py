"""A task source over families of tasks that learns which family to draw from: DUMP and SEC.

A family is a source of its own, e.g. all tasks of one difficulty. What is learned from is the mean absolute advantage of the
family's groups (GRPO's, so that families of different reward scales compare).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import fsum
from typing import Protocol

import msgspec

from phronesis.credit.baselines.group import grpo
from phronesis.data.bandits import dump_scores, sec_value, softmax
from phronesis.env import TaskSource
from phronesis.errors import CheckpointError, ConfigError
from phronesis.records import EpisodeGroup, Task
from phronesis.seeding import rng

State = dict[str, int | float | str]


class Bandit(Protocol):
    """What is known of each family."""

    def probabilities(self) -> tuple[float, ...]:
        """How likely each family is to be drawn from."""
        ...

    def learn(self, family: int, abs_advantages: Sequence[float]) -> None:
        """Another group of a family: the |A| of each of its attempts, at least one."""
        ...

    def state(self) -> str:
        """As JSON."""
        ...

    def restore(self, state: str) -> None:
        """Continues from a `state`; raises ValueError for anything else."""
        ...


class UpperConfidence:
    """DUMP's: mean |A| of the last attempts plus a bonus for families rarely tried.   See `dump_scores`."""

    def __init__(self, families: int, *, window: int = 300, temperature: float = 0.1):
        if window < 1 or not temperature > 0:
            raise ConfigError(f"dump needs window >= 1 and temperature > 0, got {window!r} and {temperature!r}")
        self.temperature, self.window = temperature, window
        self.counts: list[int] = [0] * families
        self.recent: list[deque[float]] = [deque[float](maxlen=window) for _ in range(families)]

    def probabilities(self) -> tuple[float, ...]:
        """Softmax of the scores."""
        means = [fsum(r) / len(r) if r else 0.0 for r in self.recent]
        return softmax(dump_scores(self.counts, means), self.temperature)

    def learn(self, family: int, abs_advantages: Sequence[float]) -> None:
        """Counts attempts, and remembers the last ones."""
        self.counts[family] += len(abs_advantages)
        self.recent[family].extend(abs_advantages)

    def state(self) -> str:
        """Counts and remembered values."""
        return msgspec.json.encode((self.counts, [list(r) for r in self.recent])).decode()

    def restore(self, state: str) -> None:
        """Continues from a `state`."""
        counts, recent = msgspec.json.decode(state, type=tuple[list[int], list[list[float]]])
        if not len(counts) == len(recent) == len(self.counts):
            raise ValueError(f"{len(counts)} families, expected {len(self.counts)}")
        self.counts, self.recent = counts, [deque(r, maxlen=self.window) for r in recent]


class RunningValue:
    """SEC's: a running mean of |A| per group.   See `sec_value`."""

    def __init__(self, families: int, *, alpha: float = 0.5, temperature: float = 0.2):
        if not 0.0 < alpha <= 1.0 or not temperature > 0:
            raise ConfigError(f"sec needs 0 < alpha <= 1 and temperature > 0, got {alpha!r} and {temperature!r}")
        self.alpha, self.temperature = alpha, temperature
        self.values: list[float] = [0.0] * families

    def probabilities(self) -> tuple[float, ...]:
        """Softmax of the values."""
        return softmax(self.values, self.temperature)

    def learn(self, family: int, abs_advantages: Sequence[float]) -> None:
        """One step towards the group's mean."""
        mean = fsum(abs_advantages) / len(abs_advantages)
        self.values[family] = sec_value(self.values[family], mean, alpha=self.alpha)

    def state(self) -> str:
        """The values."""
        return msgspec.json.encode(self.values).decode()

    def restore(self, state: str) -> None:
        """Continues from a `state`."""
        values = msgspec.json.decode(state, type=list[float])
        if len(values) != len(self.values):
            raise ValueError(f"{len(values)} families, expected {len(self.values)}")
        self.values = values


class FamilyTasks:
    """Draws each task from a family chosen by a bandit, in an order that follows from the seed and what was reported."""

    def __init__(self, families: Mapping[str, TaskSource], family_of: Callable[[Task], str], bandit: Bandit, seed: int):
        """Puts families together.

        Args:
            families: sources by name, at least one, in the order the bandit numbers them.
            family_of: the name of a task's family.
            bandit: for as many families.
            seed: of the choices.

        Raises:
            ConfigError: no family, or a bandit for another number of them.
        """
        if not families or len(bandit.probabilities()) != len(families):
            raise ConfigError(f"a bandit over {len(bandit.probabilities())} families cannot choose among {sorted(families)!r}")
        self.families, self.family_of, self.bandit, self.seed = dict(families), family_of, bandit, seed
        self.choices = self.unheard = 0
        self._names = list(families)

    def draw(self, n: int) -> Sequence[Task]:
        """The next `n` tasks; fewer when a chosen family is exhausted."""
        chances = self.bandit.probabilities()
        found: list[Task] = []
        for _ in range(n):
            (name,) = rng(self.seed, "family", self.choices).choices(self._names, chances)
            self.choices += 1
            found += self.families[name].draw(1)
        return found

    def report(self, task: Task, group: EpisodeGroup) -> None:
        """Tells the bandit the group's |A|; a group with fewer than two attempts that count has none (`unheard` counts it)."""
        name = self.family_of(task)
        if name not in self.families:
            raise ConfigError(f"task {task.id!r} is of family {name!r}; there are {self._names!r}")
        values = [e.reward.value for e in group.valid if e.reward is not None and e.reward.value is not None]
        if len(values) < 2:
            self.unheard += 1
        else:
            self.bandit.learn(self._names.index(name), [abs(a) for a in grpo(values)])
        self.families[name].report(task, group)

    def state(self) -> State:
        """The families' states, what the bandit knows, and how many choices were made."""
        families = {name: source.state() for name, source in self.families.items()}
        return {
            "families": msgspec.json.encode(families).decode(),
            "bandit": self.bandit.state(),
            "choices": self.choices,
            "unheard": self.unheard,
        }

    def restore(self, state: State) -> None:
        """Continues from a saved state.

        Raises:
            CheckpointError: the state is of another source.
        """
        try:
            families = msgspec.json.decode(str(state["families"]), type=dict[str, State])
            choices, unheard = int(state["choices"]), int(state["unheard"])
            if families.keys() != self.families.keys():
                raise ValueError(f"families {sorted(families)!r}, expected {sorted(self.families)!r}")
            self.bandit.restore(str(state["bandit"]))
        except (KeyError, ValueError, msgspec.DecodeError) as error:
            raise CheckpointError(f"{sorted(state)!r} is no state of tasks by family: {error}") from error
        for name, source in self.families.items():
            source.restore(families[name])
        self.choices, self.unheard = choices, unheard
