"""Counterfactual credit: the reward against what it would have been with this turn drawn anew.

Source: C3, arXiv 2603.06859, and CCPO, arXiv 2603.21563; formula [loo-counterfactual].
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import fsum

from msgspec import Struct

from phronesis.credit.replays.montecarlo import at_least_one
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.credit.side import need_rerun, turn_credit
from phronesis.records import Credit, Episode, EpisodeGroup


def loo_counterfactual(ret: float, resampled: Sequence[float]) -> float:
    """The return minus the mean return with the unit drawn anew or left out; 0 with nothing to compare.

    >>> loo_counterfactual(1.0, [0.0, 1.0, 0.5, 0.0])
    0.625

    Args:
        ret: return of what happened.
        resampled: returns of episodes that differ in this unit, and in what follows from it.
    """
    return ret - fsum(resampled) / len(resampled) if resampled else 0.0


class CounterfactualCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="counterfactual"):
    """Every sampled token of a turn gets the reward minus the mean reward of episodes that draw this turn anew.

    What follows the turn is drawn anew as well, since the world answers another action differently. So the credit of turn k is
    ``R - V(before k)``: unbiased, and unlike VinePPO's it carries the luck of all later turns.
    """

    rollouts: int = 4
    """Episodes played from before each turn, at least 1; ours."""

    def __post_init__(self) -> None:
        at_least_one(self.rollouts, "counterfactual rollouts")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; plays ``rollouts`` continuations a turn.

        Raises:
            ConfigError: there is no `rerun`.
        """
        play = need_rerun(rerun, "counterfactual")
        kept = members(group, compared=False).kept
        rows = await asyncio.gather(*(self._turns(group.episodes[e], play) for e in kept))
        return turn_credit(group, dict(zip(kept, rows, strict=True)))

    async def _turns(self, episode: Episode, rerun: Rerun) -> list[float]:
        played = await asyncio.gather(*(rerun(episode, k, self.rollouts) for k in range(len(episode.turns))))
        return [loo_counterfactual(value_of(episode), rewards) for rewards in played]
