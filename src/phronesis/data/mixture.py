"""Tasks of many sources at once, each with its share.

Shares hold in what is *started*: the next task comes from the source that is furthest behind its share. Nothing that was
started is thrown away for being slow, so they hold in what is learned from as well, up to the groups that are still played; a
source that is ten times slower slows the run (give it more concurrency), but its share stays. A source that may not be drawn
from for a while (its services are down) is left out and the others keep their shares of one another; it owes nothing when
it comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite

from phronesis.env import TaskSource
from phronesis.errors import CheckpointError, ConfigError, UnknownName
from phronesis.records import EpisodeGroup, Task


def _open(name: str) -> bool:
    return True


def _known(name: str) -> bool:
    return False


class Shares:
    """Whose turn it is. Pure bookkeeping: smooth weighted round robin.

    Every pick adds to each source's credit its share among those that may be picked, takes the one with the most, and takes 1
    from it. So the credits always add up to 0, and the first n picks among the same sources hold n w of a source with share w,
    give or take its credit, which does not grow with n: it stayed below 1 in all cases tried (tests).

    >>> shares = Shares({"a": 2.0, "b": 1.0})
    >>> [shares.pick() for _ in range(6)]
    ['a', 'b', 'a', 'a', 'b', 'a']
    """

    def __init__(self, weights: Mapping[str, float]):
        """Shares in any unit; they are divided by their sum.

        Raises:
            ConfigError: no source, a weight that is negative or not finite, or nothing but zeros.
        """
        self._weights = _checked(weights)
        self._credit = dict.fromkeys(self._weights, 0.0)

    @property
    def weights(self) -> dict[str, float]:
        """Share by source; they add up to 1."""
        return dict(self._weights)

    def change(self, weights: Mapping[str, float]) -> None:
        """New shares from now on, for all sources or some; the others keep their weight beside them.

        Shares .5 and .5, changed to a = 3: a gets 3 / 3.5.

        Raises:
            UnknownName: a source there is not.
            ConfigError: see the constructor.
        """
        for name in weights:
            if name not in self._weights:
                raise UnknownName("source", name, self._weights)
        self._weights = _checked(self._weights | dict(weights))

    def pick(self, may: Callable[[str], bool] = _open) -> str | None:
        """The source whose turn it is among those with a share that `may` be drawn from; None when there is none."""
        live = {name: w for name, w in self._weights.items() if w > 0 and may(name)}
        total = sum(live.values())
        if not total:
            return None
        for name in self._credit:  # one that is left out neither saves up nor owes
            self._credit[name] = self._credit[name] + live[name] / total if name in live else 0.0
        chosen = max(live, key=lambda name: self._credit[name])
        self._credit[chosen] -= 1.0
        return chosen

    def state(self) -> dict[str, float]:
        """What `restore` needs."""
        return {f"share/{n}": w for n, w in self._weights.items()} | {f"credit/{n}": c for n, c in self._credit.items()}

    def restore(self, state: Mapping[str, float]) -> None:
        """Continues from a `state`."""
        for name in self._weights:
            self._weights[name], self._credit[name] = state[f"share/{name}"], state[f"credit/{name}"]


class Mixture:
    """A task source made of others."""

    def __init__(
        self,
        sources: Mapping[str, TaskSource],
        shares: Shares,
        may: Callable[[str], bool] = _open,
        probes: Callable[[str], bool] = _known,
    ):
        """A mixture that has drawn nothing.

        Args:
            sources: by name; the tasks of each carry its name as `Task.env`.
            shares: of the same names.
            may: whether a source may be drawn from now, e.g. because it is not known to be down.
            probes: whether the next group of a source that may be drawn from only finds out whether it works again. One is
                drawn at once, and more where there is nothing else to draw.
        """
        self.sources, self.shares, self.may, self.probes = dict(sources), shares, may, probes
        self.drawn = dict.fromkeys(self.sources, 0)
        """Tasks drawn so far, by source."""
        self.asked = ""
        """Names the last change of the shares that was asked for, so that a resumed run does not make it twice."""
        self._dry: set[str] = set()

    def draw(self, n: int) -> Sequence[Task]:
        """The next tasks; fewer than `n` when no source may be drawn from any more."""
        found: list[Task] = []
        probed = set[str]()
        while len(found) < n:
            open_now = {name for name in self.sources if name not in self._dry and self.may(name)}
            name = self.shares.pick((open_now - probed).__contains__) or self.shares.pick(open_now.__contains__)
            if name is None:
                break
            if self.probes(name):
                probed.add(name)
            task = self.sources[name].draw(1)
            if not task:
                self._dry.add(name)
                continue
            self.drawn[name] += 1
            found += task
        return found

    @property
    def exhausted(self) -> bool:
        """Whether no source that has a share has tasks left, rather than none being open now."""
        return not self.left

    @property
    def left(self) -> list[str]:
        """Sources that have a share and tasks left, open now or not."""
        return [name for name, weight in self.shares.weights.items() if weight > 0 and name not in self._dry]

    def report(self, task: Task, group: EpisodeGroup) -> None:
        """Tells the task's own source how it went."""
        self.sources[task.env].report(task, group)

    def state(self) -> dict[str, int | float | str]:
        """Where every source and the shares stand."""
        found: dict[str, int | float | str] = {**self.shares.state(), "asked": self.asked}
        found |= {f"drawn/{name}": n for name, n in self.drawn.items()}
        for name, source in self.sources.items():
            found |= {f"source/{name}/{key}": value for key, value in source.state().items()}
        return found

    def restore(self, state: dict[str, int | float | str]) -> None:
        """Continues from a `state`.

        Raises:
            CheckpointError: it is of other sources.
        """
        try:
            numbers = {key: float(value) for key, value in state.items() if key.startswith(("share/", "credit/"))}
            self.shares.restore(numbers)
            self.drawn = {name: int(state[f"drawn/{name}"]) for name in self.sources}
            self.asked = str(state.get("asked", ""))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{state!r} is no state of a mixture of {', '.join(self.sources)}: {error}") from error
        for name, source in self.sources.items():
            prefix = f"source/{name}/"
            source.restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def _checked(weights: Mapping[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if not isfinite(weight) or weight < 0:
            raise ConfigError(f"share of {name!r} is {weight!r}; it must be a number of at least 0")
    total = sum(weights.values())
    if not total:
        raise ConfigError(f"shares {dict(weights)!r} leave nothing to play; at least one must be above 0")
    return {name: weight / total for name, weight in weights.items()}
