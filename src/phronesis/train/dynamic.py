"""Dynamic sampling: tasks whose episodes all earn the same are replaced by others until a step has enough to learn from.

Source: DAPO, arXiv 2503.14476 eq. 11. It changes which tasks are learned from: those the policy always or never solves are
left out, so the mean reward of what is learned from is not that of the tasks. Metrics of episodes count all that were played.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from phronesis.credit.baselines.trajectory import has_zero_variance
from phronesis.errors import ConfigError
from phronesis.records import EpisodeGroup
from phronesis.rollout.forks import split


class DynamicConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Replaces groups without signal. The probability that a group has one: `phronesis.data.curriculum.keep_probability`."""

    max_rounds: int = 10
    """Rounds of play in a step, the first included, at least 1; each plays one new task per group still missing."""

    def __post_init__(self) -> None:
        if self.max_rounds < 1:
            raise ConfigError(f"dynamic.max_rounds {self.max_rounds!r} must be at least 1")


class Sampled(NamedTuple):
    """What a step played."""

    groups: list[EpisodeGroup]
    """To learn from, in the order they were drawn."""
    spare: list[EpisodeGroup]
    """Left out because all their episodes earned the same, or because their player says so."""
    rounds: int
    """How often it was played."""

    @property
    def played(self) -> list[EpisodeGroup]:
        """All of them."""
        return [*self.groups, *self.spare]

    def metrics(self) -> dict[str, float]:
        """What the search for signal cost, under metric keys."""
        return {"signal/rounds": float(self.rounds), "signal/replaced": float(len(self.spare))}


def attempts(group: EpisodeGroup) -> EpisodeGroup:
    """The group with every branch of a forked episode that was judged apart as an episode of its own."""
    return replace(group, episodes=tuple(a for e in group.episodes for a in split(e)))


def _all(group: EpisodeGroup) -> bool:
    return True


async def sample(
    play: Callable[[int, int], Awaitable[list[EpisodeGroup]]],
    wanted: int,
    max_rounds: int,
    usable: Callable[[EpisodeGroup], bool] = _all,
) -> Sampled:
    """Plays until `wanted` groups have episodes of different reward, for at most `max_rounds` rounds.

    Where that does not suffice, groups without signal fill up the rest, so that a step has as many groups as it should:
    4 wanted, 2 rounds, signal in 2 of 4 and 1 of 2: the 3 with signal and the first one without.

    Args:
        play: ``play(n, first)`` plays n new tasks as groups numbered from `first`; fewer when no tasks are left.
        wanted: groups of a step.
        max_rounds: 1 takes what comes.
        usable: False for groups that must not be learned from, not even to fill up.
    """
    played: list[EpisodeGroup] = []
    signals: list[bool] = []
    rounds = 0
    while sum(signals) < wanted and rounds < max_rounds:
        fresh = await play(wanted - sum(signals), len(played))
        if not fresh:
            break
        played += fresh
        signals += [usable(group) and not has_zero_variance(attempts(group)) for group in fresh]
        rounds += 1
    by_signal = sorted(
        (i for i, group in enumerate(played) if usable(group)), key=lambda i: not signals[i]
    )  # stable: in the order of play
    chosen = set(by_signal[:wanted])
    groups = [group for i, group in enumerate(played) if i in chosen]
    return Sampled(groups, [group for i, group in enumerate(played) if i not in chosen], rounds)
