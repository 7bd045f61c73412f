"""GiGPO: the episode's advantage plus a step advantage among turns that acted in the same state.

Source: Group-in-Group Policy Optimization, arXiv 2505.10978; formula [gigpo].
"""

from __future__ import annotations

from msgspec import Struct

from phronesis.credit.advantages import AnyBaseline, GroupMean
from phronesis.credit.rule import Rerun, spread
from phronesis.credit.trajectory import episode_advantages
from phronesis.credit.turns import check_gamma, turn_advantages
from phronesis.errors import ConfigError
from phronesis.records import Credit, EpisodeGroup


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
        by_episode = episode_advantages(group, self.episode)
        by_step = turn_advantages(group, gamma=self.gamma, pool="state", baseline=self.step)
        by_turn = {e: [by_episode[e] + self.omega * a for a in row] for e, row in by_step.items()}
        silent = all(a == 0 for row in by_turn.values() for a in row)
        return spread(group, by_turn, zero_variance=silent)
