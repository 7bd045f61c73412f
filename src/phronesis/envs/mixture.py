"""Several environments as one: a task says by its `env` which of them plays and judges it.

A mixture is an `EnvSpec` like any other for everything that has a task at hand (`EnvSpec.of`), so that play, rubrics,
evaluation, replay and demonstrations need no second path. How often each part comes in training is not said here but by
`phronesis.data.mixture`; listed one after another, as for evaluation, its parts come equally often.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import msgspec

from phronesis.env import Env, EnvSpec, Rubric
from phronesis.errors import ConfigError, EnvFault
from phronesis.records import Conversation, EpisodeGroup, Reward, Task

NAME = "mixture"
"""Name of a mixture where nobody says another."""


def named(spec: EnvSpec, name: str) -> EnvSpec:
    """The same environment under another name, which its tasks carry.

    Args:
        spec: any environment but a mixture.
        name: what `Task.env` of its tasks will say.
    """

    def task(split: str, index: int) -> Task:
        return msgspec.structs.replace(spec.task(split, index), env=name)

    return replace(spec, name=name, task=task)


def mix(parts: Mapping[str, EnvSpec], name: str = NAME) -> EnvSpec:
    """One environment made of several.

    Task `i` of a split is task ``i // n`` of part ``i mod n``, in the order given; a part with fewer tasks begins again. The
    whole is endless where any part is. Demonstrations come in the same way. What the parts promise is averaged where all of
    them promise it.

    Args:
        parts: at least one; each gets its key as name.
        name: of the whole.

    Raises:
        ConfigError: no part, or a part that is a mixture, or that only agents outside can play.
    """
    if not parts:
        raise ConfigError("a mixture needs at least one environment")
    for key, spec in parts.items():
        if spec.parts or not spec.playable:
            why = "is a mixture itself" if spec.parts else "can only be played by agents outside"
            raise ConfigError(f"{key!r} cannot be part of a mixture: environment {spec.name!r} {why}")
    own = {key: named(spec, key) for key, spec in parts.items()}
    order, n = list(own.values()), len(own)

    def task(split: str, index: int) -> Task:
        part, own = order[index % n], index // n
        size = part.sizes.get(split)
        return part.task(split, own if size is None else own % size)

    return EnvSpec(
        name=name,
        make=_unmade,
        task=task,
        rubric=MixedRubric({key: spec.rubric for key, spec in own.items()}),
        sizes=_sizes(order),
        description=f"{n} environments at once: {', '.join(own)}",
        oracle_reward=_mean([s.oracle_reward for s in order]),
        null_reward=_mean([s.null_reward for s in order]),
        chance_reward=_mean([s.chance_reward for s in order]),
        max_turns=max(s.max_turns for s in order),
        demonstrate=_demonstrate(order),
        hint=_hint(own),
        parts=own,
    )


class MixedRubric:
    """Judges a group by the rubric of the environment that played it."""

    def __init__(self, rubrics: Mapping[str, Rubric]):
        self._rubrics = dict(rubrics)

    async def score(self, group: EpisodeGroup) -> Sequence[Reward]:
        """One reward per episode, by the rubric of `group.task.env`.

        Raises:
            EnvFault: the group is of none of the environments.
        """
        rubric = self._rubrics.get(group.task.env)
        if rubric is None:
            raise EnvFault(f"group {group.id!r} is of environment {group.task.env!r}; there are {', '.join(self._rubrics)}")
        return await rubric.score(group)


def _unmade() -> Env:
    raise ConfigError("a mixture is made by task: use spec.of(task).make()")


def _sizes(order: Sequence[EnvSpec]) -> dict[str, int | None]:
    """Splits that all parts have, as long as the longest part times their number."""
    shared = [split for split in order[0].sizes if all(split in s.sizes for s in order)]
    found: dict[str, int | None] = {}
    for split in shared:
        sizes = [s.sizes[split] for s in order]
        finite = [size for size in sizes if size is not None]
        found[split] = len(order) * max(finite) if len(finite) == len(sizes) else None
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if len(known) == len(values) else None


def _hint(parts: Mapping[str, EnvSpec]) -> Callable[[Task], str] | None:
    """What the task's own part tells; None where one of them tells nothing."""
    told = {name: spec.hint for name, spec in parts.items() if spec.hint is not None}
    return (lambda task: told[task.env](task)) if len(told) == len(parts) else None


def _demonstrate(order: Sequence[EnvSpec]) -> Callable[[int, int], Awaitable[Conversation]] | None:
    """Behaviour of the parts in turn; None where one of them shows none."""
    shown = [s.demonstrate for s in order if s.demonstrate is not None]
    if len(shown) < len(order):
        return None

    def demonstrate(index: int, seed: int) -> Awaitable[Conversation]:
        return shown[index % len(shown)](index // len(shown), seed)

    return demonstrate
