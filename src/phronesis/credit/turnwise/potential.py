"""Potential shaping: a state is worth something on the way, and the best policy stays the same.

Source: Ng, Harada, Russell 1999 (policy invariance); formula [pbs].
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from math import isfinite

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupMean, compares
from phronesis.credit.rule import Rerun, members
from phronesis.credit.side import need_source, points
from phronesis.credit.turnwise.turns import Pool, chain, check_gamma, is_chain, pooled_credit, tree_returns
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup


def shaping(potentials: Sequence[float], gamma: float = 1.0) -> tuple[float, ...]:
    """``F_k = gamma phi_{k+1} - phi_k``; discounted they add up to ``-phi_0`` when the last potential is 0.   Formula [pbs].

    >>> shaping([0.0, 0.25, 0.5, 0.0])
    (0.25, 0.25, -0.5)

    Args:
        potentials: of every state, the terminal one included; that one must be 0 or the best policy changes.
        gamma: discount per step, in [0, 1].
    """
    return tuple(gamma * after - before for before, after in pairwise(potentials))


def discounted_sum(rewards: Sequence[float], gamma: float) -> float:
    """``sum of gamma^k r_k``: what the first step returns.

    >>> discounted_sum([1.0, 1.0], 0.5)
    1.5
    """
    return tree_returns(rewards, chain(len(rewards)), gamma)[0] if rewards else 0.0


class PotentialCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="potential"):
    """Returns of shaped turn rewards ``r + weight * F`` against a baseline.

    The return from turn k then is the plain one minus ``weight * phi`` of the state the turn acts in: a baseline of that
    state. The potential after the last turn is taken as 0, whatever is reported.
    """

    judge: str = ""
    """Async function ``(episode, turn) -> potential before that turn`` as ``package.module:name``; see `TurnJudge`."""
    metric: str = ""
    """Without a judge: the name under which the environment reports the potential after each turn."""
    weight: float = 1.0
    """Factor on the potential."""
    gamma: float = 1.0
    """Discount per turn, in [0, 1]."""
    pool: Pool = "turn"
    """Which turns are compared."""
    baseline: AnyBaseline = GroupMean()
    """What a return is compared with."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        need_source(self.judge, self.metric, "potential")
        if not isfinite(self.weight):
            raise ConfigError(f"potential weight {self.weight!r} must be finite")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used.

        Raises:
            ConfigError: neither a judge nor a metric, or an episode forks.
        """
        kept = members(group, compared=compares(self.baseline)).kept
        rows = await asyncio.gather(*(self._returns(group.episodes[e]) for e in kept))
        return pooled_credit(group, dict(zip(kept, rows, strict=True)), self.pool, self.baseline)

    async def _returns(self, episode: Episode) -> tuple[float, ...]:
        if not is_chain(episode):
            raise ConfigError(f"potential reads chains of turns and episode {episode.id!r} forks; choose 'tree'")
        n = len(episode.turns)
        found = await points(episode, path=self.judge, metric=self.metric, rule="potential")
        extra = shaping([*found[:n], 0.0], self.gamma)
        shaped = [r + self.weight * f for r, f in zip(episode.earned, extra, strict=True)]
        return tree_returns(shaped, episode.before, self.gamma)
