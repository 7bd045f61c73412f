"""Groups some members of which still fault after all retries: what is played besides, and which groups are not learned from.

Three rules (`RetryConfig.incomplete`). ``learn_from_rest``: the sound members are compared with one another, and a single one
left of a larger group counts as ``alone`` (`phronesis.credit.rule.members`). ``drop_group``: the group is left out, so that
every comparison is over as many attempts as configured. ``refill``: as many others are played, with new seeds; the faulty ones
stay in the group as what they are, and count nowhere.

All three change which attempts are learned from: an attempt that made its environment break is missing. Only a retry that
succeeds changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from phronesis.records import Episode, EpisodeGroup, Stop
from phronesis.rollout.retries import Incomplete


def refill_id(id: str) -> str:
    """Name of the episode that is played besides a faulty one.

    >>> refill_id("train-3-0-5")
    'train-3-0-5+1'
    """
    return f"{id}+1"


def faulty(episodes: Iterable[Episode]) -> list[Episode]:
    """Episodes that another one could stand in for: faults, but none that somebody stopped or that was never begun since its
    source was left alone."""
    return [e for e in episodes if e.stop.is_fault and e.stop is not Stop.cancelled and not was_left_alone(e)]


def left_out(group: EpisodeGroup, rule: Incomplete) -> bool:
    """Whether nothing is to be learned from a group, by the rule.

    Of four members one faults: False for ``learn_from_rest`` and ``refill``, True for ``drop_group``.
    """
    return rule == "drop_group" and any(e.stop.is_fault for e in group.episodes)


def with_refills(names: Sequence[str], found: Mapping[str, Episode]) -> tuple[Episode, ...]:
    """A group's episodes from all that were ever stored under its id: its members, and those played besides.

    Args:
        names: ids of the members, in order; `found` has all of them.
        found: episodes by id. One that was played besides a member which is sound now belongs to an earlier life of the run.
    """
    members = [found[name] for name in names]
    besides = [found[refill_id(e.id)] for e in faulty(members) if refill_id(e.id) in found]
    return (*members, *besides)


def was_left_alone(episode: Episode) -> bool:
    """Whether an episode is a fault only because its source was left alone, so that nothing of it was played."""
    return episode.failure is not None and episode.failure.where == "breaker"
