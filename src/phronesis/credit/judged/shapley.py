"""Shapley credit: a turn is worth its mean contribution over all orders in which the turns could have been added.

The credits of an episode add up to its reward minus the worth of nothing at all, exactly, also when orders are sampled.
Source: SCAR, arXiv 2505.20417; formula [shapley].
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from itertools import combinations
from math import comb, fsum
from typing import cast

from msgspec import Struct

from phronesis.credit.replays.montecarlo import at_least_one
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.credit.side import PartJudge, judge, turn_credit
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup
from phronesis.seeding import stream

Worth = Callable[[frozenset[int]], float]
"""Worth of a set of units."""


def subsets(n: int) -> list[frozenset[int]]:
    """All subsets of n units, small ones first.

    >>> [sorted(s) for s in subsets(2)]
    [[], [0], [1], [0, 1]]
    """
    return [frozenset(c) for size in range(n + 1) for c in combinations(range(n), size)]


def shapley(n: int, worth: Worth) -> tuple[float, ...]:
    """``phi_i = sum over S without i of |S|! (n-|S|-1)! / n! * (v(S and i) - v(S))``.   Formula [shapley].

    Worths v() = 0, v(0) = .2, v(1) = .4, v(0, 1) = 1: (.4, .6). Asks for each of the 2^n subsets.

    Args:
        n: number of units.
        worth: worth of a subset.
    """
    parts: list[list[float]] = [[] for _ in range(n)]
    known = {s: worth(s) for s in subsets(n)}
    for s, v in known.items():
        for i in range(n):
            if i not in s:
                parts[i].append((known[s | {i}] - v) / (n * comb(n - 1, len(s))))
    return tuple(fsum(p) for p in parts)


def orders(n: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """`count` random orders of n units, every other one the reverse of the one before (antithetic)."""
    source = random.Random(seed)
    found: list[tuple[int, ...]] = []
    while len(found) < count:
        order = list(range(n))
        source.shuffle(order)
        found += [tuple(order), tuple(reversed(order))]
    return found[:count]


def prefixes(sampled: list[tuple[int, ...]]) -> list[frozenset[int]]:
    """The sets met along the orders, each once."""
    return list(dict.fromkeys(frozenset(order[:k]) for order in sampled for k in range(len(order) + 1)))


def sampled_shapley(n: int, worth: Worth, sampled: list[tuple[int, ...]]) -> tuple[float, ...]:
    """Mean contribution over the given orders: unbiased for random ones, and exact with all n! of them.

    Every order's contributions add up to v(all) - v(nothing), and so does their mean.
    """
    parts: list[list[float]] = [[] for _ in range(n)]
    for order in sampled:
        had: frozenset[int] = frozenset()
        before = worth(had)
        for i in order:
            had = had | {i}
            after = worth(had)
            parts[i].append(after - before)
            before = after
    return tuple(fsum(p) / len(sampled) for p in parts)


class ShapleyCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="shapley"):
    """Every sampled token of a turn gets the turn's Shapley value; the judge says what part of an episode is worth.

    The whole episode is worth its reward, whatever the judge would say. Exact up to `exact` turns (2^turns questions), then
    `samples` random orders (at most ``samples * turns`` questions).
    """

    judge: str
    """Async function ``(episode, turns) -> worth`` as ``package.module:name``; see `PartJudge`."""
    exact: int = 6
    """Most turns for which every subset is judged; ours."""
    samples: int = 16
    """Orders drawn for longer episodes, at least 1; ours."""

    def __post_init__(self) -> None:
        at_least_one(self.samples, "shapley samples")
        if not 0 <= self.exact <= 16:
            raise ConfigError(f"shapley exact {self.exact!r} must lie in [0, 16]; 16 turns are 65536 questions")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used.

        Raises:
            ConfigError: there is no judge.
        """
        ask = cast(PartJudge, judge(self.judge, "shapley", "the worth of parts of an episode"))
        kept = members(group, compared=False).kept
        rows = await asyncio.gather(*(self._turns(group.episodes[e], ask) for e in kept))
        return turn_credit(group, dict(zip(kept, rows, strict=True)))

    async def _turns(self, episode: Episode, ask: PartJudge) -> tuple[float, ...]:
        n = len(episode.turns)
        if n == 0:
            return ()
        sampled = None if n <= self.exact else orders(n, self.samples, stream(episode.seed, "shapley"))
        sets = [s for s in (subsets(n) if sampled is None else prefixes(sampled)) if len(s) < n]
        worths = dict(zip(sets, await asyncio.gather(*(ask(episode, s) for s in sets)), strict=True))
        worths[frozenset(range(n))] = value_of(episode)
        return shapley(n, worths.__getitem__) if sampled is None else sampled_shapley(n, worths.__getitem__, sampled)
