"""Which groups and samples are worth an update: enough valid members, fresh enough weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import TypeVar

import msgspec

from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup, Stop

T = TypeVar("T")

FAULTS = frozenset((*(stop.value for stop in Stop if stop.is_fault), "unscored", "alone", "rerun_fault"))
"""Reasons for which an episode says nothing about the policy."""
BROKEN = "group_broken"
"""Why the valid episodes of a group with too many faults are left out."""


def is_fresh(versions: Sequence[int], current: int, limit: int) -> bool:
    """Whether a sample may still be trained on: its oldest token's weights are at most `limit` updates old.

    Source: GLM-5, arXiv 2602.15763; formula [staleness], which drops strictly above the limit. A sample without any tokens
    is fresh.

    >>> is_fresh([1, 2, 5], current=5, limit=3)
    False
    """
    return not versions or current - min(versions) <= limit


def untruncated(episode: Episode) -> frozenset[int] | None:
    """Indices of the turns that lead to an end no limit made; None where a limit made every one.

    A turn that a truncated branch shares with another one stays. Turns (a, b, c), b and c following a, the branch of b cut by a
    limit and that of c completed: a and c.
    """
    if not episode.stops:
        return None if episode.stop.is_truncated else frozenset(range(len(episode.turns)))
    found: set[int] = set()
    for end, stop in zip(episode.ends, episode.stops, strict=True):
        if not stop.is_truncated:
            found.update(episode.line(end))
    return frozenset(found) or None


def repair_group(valid: Sequence[T], size: int) -> list[T] | None:
    """A full group made of its valid members by going round; None when half of the group or more is missing.

    Statistics (mean, deviation) are to be taken before, since copies carry nothing new.

    Source: GLM-5, arXiv 2602.15763; formula [group-repair].

    >>> repair_group(["a", "b", "c"], 5), repair_group(["a", "b"], 4)
    (['a', 'b', 'c', 'a', 'b'], None)
    """
    if size < 1:
        raise ConfigError(f"group size {size!r} must be at least 1")
    return None if 2 * len(valid) <= size else list(islice(cycle(valid), size))


def repair(group: EpisodeGroup, credit: Credit) -> tuple[EpisodeGroup, Credit]:
    """The group with its faulty members replaced by copies of valid ones, and their credit with them.

    The credit is that of the valid members, taken before. A group with half of its members or more faulty keeps them and loses
    its credit, counted as ``group_broken``. A group without faults is returned as it is; members a rule left out for what they
    did (a failed attempt under `verified`) are no faults and stay as they are. See `repair_group`.
    """
    faulty = [i for i, reason in enumerate(credit.reasons) if reason in FAULTS]
    valid = [i for i, values in enumerate(credit.values) if values is not None]
    if not faulty:
        return group, credit
    judged = [i for i in range(len(group.episodes)) if i not in faulty and i not in valid]
    filled = repair_group(valid, len(group.episodes) - len(judged)) if valid else None
    if filled is None:
        reasons = tuple(BROKEN if reason is None else reason for reason in credit.reasons)
        return group, msgspec.structs.replace(credit, values=(None,) * len(reasons), reasons=reasons)
    filled += judged
    episodes = tuple(group.episodes[i] for i in filled)
    values = tuple(credit.values[i] for i in filled)
    repaired = msgspec.structs.replace(credit, values=values, reasons=tuple(credit.reasons[i] for i in filled))
    return msgspec.structs.replace(group, episodes=episodes), repaired
