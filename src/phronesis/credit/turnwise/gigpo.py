"""GiGPO: the episode's advantage plus a step advantage among turns that acted in the same state.

Source: Group-in-Group Policy Optimization, arXiv 2505.10978; formula [gigpo].
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupMean, Singleton, compares
from phronesis.credit.rule import Rerun, members, spread, value_of
from phronesis.credit.turnwise.turns import check_gamma, discounted_returns, need_states, pooled_advantages, states
from phronesis.errors import ConfigError
from phronesis.records import Credit, EpisodeGroup


class GiGPO(NamedTuple):
    """The parts of the credit and their sum."""

    episode: tuple[float, ...]
    """Per episode, its undiscounted return against the others'."""
    step: list[list[float]]
    """Per episode, per turn, its discounted return against those of turns in the same state."""
    total: list[list[float]]
    """Per episode, per turn, ``episode + omega * step``."""


def gigpo(
    rewards: Sequence[float],
    returns: Sequence[Sequence[float]],
    anchors: Sequence[Sequence[Hashable]],
    *,
    omega: float = 1.0,
    episode: AnyBaseline,
    step: AnyBaseline,
    singleton: Singleton | None = "zero",
) -> GiGPO:
    """Credit of the turns of one group.   Source: GiGPO, arXiv 2505.10978; formula [gigpo].

    The paper's mode ``mean_norm`` is `GroupMean` for both baselines, ``mean_std_norm`` is `GroupStandard`.
    For the worked numbers see `GiGPOCredit`.

    Args:
        rewards: one undiscounted return per episode.
        returns: per episode, one discounted return per turn.
        anchors: per episode, the state each turn acted in; None compares with nothing.
        omega: weight of the step part.
        episode: what rewards are compared with.
        step: what returns of one anchor are compared with; an anchor met once gives 0.
        singleton: what a group of one means; None leaves it to the baseline.
    """
    by_episode = episode.advantages(rewards, singleton)
    pooled = pooled_advantages(dict(enumerate(returns)), dict(enumerate(anchors)), step)
    by_step = [pooled[e] for e in range(len(returns))]
    total = [[a + omega * s for s in row] for a, row in zip(by_episode, by_step, strict=True)]
    return GiGPO(by_episode, by_step, total)


class GiGPOCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="gigpo"):
    """``A = A_episode + omega * A_step``; a state only one turn of the group acted in adds nothing.

    Two episodes with states s0 s1 s2 and s0 s1 s3 and turn rewards (0, 0, 1) and (0, 0, 0), gamma .95: returns
    (.9025, .95, 1), step advantages ±.45125, ±.475, 0, episode advantages ±.5, credit (.95125, .975, .5) and its negative.
    The state key must hold all that matters for what follows; a coarser key compares turns that are not alike.
    """

    omega: float = 1.0
    """Weight of the step advantage, at least 0."""
    gamma: float = 0.95
    """Discount per turn inside the step returns, in [0, 1]."""
    episode: AnyBaseline = GroupMean()
    """What an episode's undiscounted reward is compared with."""
    step: AnyBaseline = GroupMean()
    """What a turn's discounted return is compared with among turns in the same state."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        if self.omega < 0:
            raise ConfigError(f"gigpo omega {self.omega!r} must not be negative")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used.

        Raises:
            ConfigError: the environment reports no state keys.
        """
        kept = members(group, compared=compares(self.episode, self.step)).kept
        if not kept:
            return spread(group, {}, zero_variance=True)
        need_states(group, kept)
        episodes = [group.episodes[e] for e in kept]
        found = gigpo(
            [value_of(e) for e in episodes],
            [discounted_returns(e, self.gamma) for e in episodes],
            [states(e) for e in episodes],
            omega=self.omega,
            episode=self.episode,
            step=self.step,
            singleton=None,
        )
        silent = all(a == 0 for row in found.total for a in row)
        return spread(group, dict(zip(kept, found.total, strict=True)), zero_variance=silent)
