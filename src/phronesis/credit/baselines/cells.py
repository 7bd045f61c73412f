"""Comparisons across groups: within a cell of kind and role (TRR++), and among proposers (hierarchical GRPO).

Which cell a group belongs to is written in its task's payload, by whoever made the task.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import ClassVar, NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.batchwide import by_group
from phronesis.credit.baselines.group import Baseline, GroupMean, GroupStandard
from phronesis.credit.baselines.trajectory import episode_advantages, tile
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.errors import ConfigError
from phronesis.records import Credit, EpisodeGroup, Task


def by_cell(rewards: Sequence[float], cells: Sequence[Hashable], *, baseline: Baseline | None = None) -> list[float]:
    """z-scores within each cell, over all of the step: ``(r - mean) / (std + eps)``; equal rewards and a cell of one give 0.

    Source: TRR++ of Absolute Zero, arXiv 2505.03335; formula [trrpp], whose six cells are {abduction, deduction, induction}
    by {propose, solve}. Cells a a b with rewards 1, 0, 1: [.707106, -.707106, 0].

    Args:
        rewards: one per episode.
        cells: the cell of each.
        baseline: another comparison than z-scores.
    """
    return by_group(rewards, cells, baseline or GroupStandard(singleton="zero"))


class Hierarchy(NamedTuple):
    """Advantages of both levels."""

    solver: list[list[float]]
    """Per proposed problem, one per attempt at it."""
    proposer: list[float]
    """One per proposal."""


def hierarchical(solver: Sequence[Sequence[float]], proposer: Sequence[float]) -> Hierarchy:
    """Attempts against the mean of their own problem, proposals against the mean of all proposals.

    Source: hierarchical GRPO; formula [hier-grpo]. A level of one gives 0.

    >>> hierarchical([[1.0, 0.0], [1.0, 1.0]], [0.5, 0.0])
    Hierarchy(solver=[[0.5, -0.5], [0.0, 0.0]], proposer=[0.25, -0.25])
    """
    centred = GroupMean(singleton="zero").advantages
    return Hierarchy([list(centred(row)) for row in solver], list(centred(proposer)))


def cell_of(task: Task, keys: Sequence[str]) -> tuple[Hashable, ...]:
    """The values of a task's payload that name its cell.

    Raises:
        ConfigError: the payload lacks one, or it is neither text nor a number.
    """
    found: list[Hashable] = []
    for key in keys:
        value: object = task.payload.get(key)
        if not isinstance(value, str | int | float):
            raise ConfigError(
                f"task {task.id!r} has payload {key!r} = {value!r}, expected a name; credit by cell reads it, so the task "
                "source must write it"
            )
        found.append(value)
    return tuple(found)


class TRRPPCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="trrpp"):
    """Every sampled token gets its episode's reward as a z-score within its cell, over the step.   See `by_cell`."""

    keys: tuple[str, ...] = ("kind", "role")
    """Payload keys whose values together name a task's cell."""
    eps: float = 1e-6
    """Added to the standard deviation, above 0."""
    needs_siblings: ClassVar[bool] = False
    """A lone episode has credit too."""

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise ConfigError(f"trrpp eps {self.eps!r} must be above 0")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Rewards, not yet compared; `rerun` is not used."""
        cell_of(group.task, self.keys)
        kept = members(group, compared=False).kept
        return tile(group, {e: value_of(group.episodes[e]) for e in kept})

    def settle(self, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> list[Credit]:
        """Compares within cells."""
        places = [(g, e) for g, group in enumerate(groups) for e in members(group, compared=False).kept]
        rewards = [value_of(groups[g].episodes[e]) for g, e in places]
        cells = [cell_of(groups[g].task, self.keys) for g, _ in places]
        scores = by_cell(rewards, cells, baseline=GroupStandard(eps=self.eps, singleton="zero"))
        found: list[dict[int, float]] = [{} for _ in groups]
        for (g, e), score in zip(places, scores, strict=True):
            found[g][e] = score
        return [tile(group, scored) for group, scored in zip(groups, found, strict=True)]


class HierarchicalCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="hierarchical"):
    """Solvers against attempts at the same problem, proposers against all proposals of the step.   See `hierarchical`."""

    key: str = "role"
    """Payload key that says who a task is for."""
    proposer: str = "propose"
    """Its value for tasks that propose a problem."""
    needs_siblings: ClassVar[bool] = True
    """A lone attempt at a problem has nothing to be compared with."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Solvers' credit; proposers' rewards, not yet compared. `rerun` is not used."""
        if not self._proposes(group):
            return tile(group, episode_advantages(group, GroupMean(singleton="zero")))
        return tile(group, dict(zip(members(group, compared=False).kept, _rewards(group), strict=True)))

    def settle(self, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> list[Credit]:
        """Compares proposals with one another."""
        rows = {g: _rewards(group) for g, group in enumerate(groups) if self._proposes(group)}
        compared = iter(hierarchical([], [r for row in rows.values() for r in row]).proposer)
        settled = list(credits)
        for g in rows:
            kept = members(groups[g], compared=False).kept
            settled[g] = tile(groups[g], {e: next(compared) for e in kept})
        return settled

    def _proposes(self, group: EpisodeGroup) -> bool:
        return cell_of(group.task, (self.key,)) == (self.proposer,)


def _rewards(group: EpisodeGroup) -> list[float]:
    return [value_of(group.episodes[e]) for e in members(group, compared=False).kept]
