"""The credit contract: a rule reads a finished, scored group and says how much each token is to be made more likely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple, Protocol, runtime_checkable

from phronesis.errors import TrainingError
from phronesis.records import Credit, Episode, EpisodeGroup


class Rerun(Protocol):
    """Plays on from a prefix; handed to rules by the loop, since credit lies below play."""

    async def __call__(self, episode: Episode, turn: int, n: int) -> tuple[float, ...]:
        """Rewards of `n` fresh continuations from just before turn `turn` (``len(turns)``: from the end)."""
        ...


@runtime_checkable
class CreditRule(Protocol):
    """Assigns credit to the tokens of a group's episodes."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit for every episode of the group that counts.

        Args:
            group: finished, scored episodes. Faulty and unscored ones reach no statistic; they get None and a reason.
            rerun: plays on from a prefix; None when the loop offers none.
        """
        ...


class Members(NamedTuple):
    """Which episodes of a group count, and why the others do not."""

    kept: tuple[int, ...]
    """Indices into `EpisodeGroup.episodes`."""
    reasons: tuple[str | None, ...]
    """Per episode: ``env_fault``, ``infra_fault``, ``cancelled``, ``unscored`` or ``alone``; None when it counts."""


def members(group: EpisodeGroup) -> Members:
    """Splits a group into episodes that count and episodes that are left out.

    When faults leave a single episode of a larger group it has nothing to be compared with and is left out as ``alone``.

    Raises:
        TrainingError: a reward that is not finite.
    """
    reasons: list[str | None] = []
    for episode in group.episodes:
        value = None if episode.reward is None else episode.reward.value
        if episode.stop.is_fault:
            reasons.append(episode.stop.value)
        elif value is None:
            reasons.append("unscored")
        elif not isfinite(value):
            raise TrainingError(f"episode {episode.id!r} has reward {value!r}; mend the rubric to return finite scores")
        else:
            reasons.append(None)
    kept = [i for i, reason in enumerate(reasons) if reason is None]
    if len(kept) == 1 and len(group.episodes) > 1:
        reasons[kept.pop()] = "alone"
    return Members(tuple(kept), tuple(reasons))


def value_of(episode: Episode) -> float:
    """The reward of an episode that `members` kept."""
    value = None if episode.reward is None else episode.reward.value
    if value is None:
        raise TrainingError(f"episode {episode.id!r} was never scored")
    return value


def spread(group: EpisodeGroup, by_turn: Mapping[int, Sequence[float]], *, zero_variance: bool) -> Credit:
    """A group's credit from one number per turn: every sampled token of a turn gets it, forced tokens get 0.

    Args:
        by_turn: per kept episode (its index), one number per turn.
        zero_variance: whether the compared returns were all equal.

    A turn with sampled (True, False, True) and number .5 gets (.5, 0, .5).
    """
    kept = members(group)
    values: list[tuple[tuple[float, ...], ...] | None] = []
    for i, episode in enumerate(group.episodes):
        if i not in by_turn:
            values.append(None)
            continue
        pairs = zip(episode.turns, by_turn[i], strict=True)
        values.append(tuple(tuple(a if s else 0.0 for s in turn.sampled) for turn, a in pairs))
    return Credit(group=group.id, values=tuple(values), reasons=kept.reasons, zero_variance=zero_variance)
