"""Trajectory credit: the whole episode is as good as its reward, and so is every token of it."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, LeaveOneOut, compares, gives_up
from phronesis.credit.rule import Rerun, members, spread, value_of
from phronesis.records import Credit, EpisodeGroup


def episode_advantages(group: EpisodeGroup, baseline: AnyBaseline) -> dict[int, float]:
    """Advantage of each kept episode, by its index: its reward against the other kept ones'. The last one that faults left is
    kept only by a baseline that compares with none."""
    kept = members(group, compared=compares(baseline)).kept
    if not kept:
        return {}
    returns = [value_of(group.episodes[i]) for i in kept]
    return dict(zip(kept, baseline.advantages(returns), strict=True))


def has_zero_variance(group: EpisodeGroup) -> bool:
    """True when all kept episodes earned the same, also when none is kept."""
    return len({value_of(group.episodes[i]) for i in members(group).kept}) <= 1


def given_up(group: EpisodeGroup, baseline: AnyBaseline) -> dict[str, int]:
    """`Credit.counts` of a comparison of whole episodes."""
    returns = [value_of(group.episodes[i]) for i in members(group).kept]
    return {"mean_not_positive": int(gives_up(baseline, returns))}


def tile(group: EpisodeGroup, advantages: Mapping[int, float]) -> Credit:
    """A group's credit from one number per kept episode (its index): every sampled token gets it. No signal if all are 0."""
    by_turn = {e: (a,) * len(group.episodes[e].turns) for e, a in advantages.items()}
    return spread(group, by_turn, zero_variance=not any(advantages.values()))


class TrajectoryCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="trajectory"):
    """Every sampled token gets its episode's advantage. Rewards (1, 0, 0, 0) with RLOO: (1, -1/3, -1/3, -1/3)."""

    baseline: AnyBaseline = LeaveOneOut()
    """What an episode's reward is compared with."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        advantages = episode_advantages(group, self.baseline)
        by_turn = {i: (a,) * len(group.episodes[i].turns) for i, a in advantages.items()}
        counts = given_up(group, self.baseline)
        silent = has_zero_variance(group) if compares(self.baseline) else not any(advantages.values())
        return spread(group, by_turn, zero_variance=silent, counts=counts)
