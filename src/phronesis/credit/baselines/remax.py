"""ReMax: the baseline is what the policy earns when it takes the likeliest token everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from msgspec import Struct

from phronesis.credit.baselines.trajectory import tile
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.errors import AllFaulted, ConfigError
from phronesis.records import Credit, EpisodeGroup

FAULTED = "greedy_fault"
"""Why a group whose greedy episode faulted is left out."""


def remax(rewards: Sequence[float], greedy: Sequence[float]) -> list[float]:
    """Each reward minus the reward of the greedy episode of the same task. Unbiased: the baseline does not depend on the draw.

    Source: ReMax, arXiv 2310.10505; formula [remax].

    >>> remax([1.0, 0.0], [0.25, 0.25])
    [0.75, -0.25]
    """
    return [r - g for r, g in zip(rewards, greedy, strict=True)]


class ReMaxCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="remax"):
    """Every sampled token gets its episode's reward minus that of one greedy episode of the group's task.   See `remax`.

    The greedy episode is a re-run of the group's first episode from its first turn at temperature 0: one more episode per
    group, which works with a group of one. It plays in that episode's world; where the world of other members is drawn
    differently, the baseline is as if of another draw, still unbiased.
    """

    needs_siblings: ClassVar[bool] = False
    """A lone episode has credit too."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group. A greedy episode that faults leaves the whole group out, counted as ``greedy_fault``.

        Raises:
            ConfigError: no `rerun` is offered.
        """
        if rerun is None:
            raise ConfigError("remax plays a greedy episode per group, and this loop offers no re-runs; choose another credit")
        found = members(group, compared=False)
        playable = [e for e in found.kept if group.episodes[e].turns]
        if not playable:
            return tile(group, dict.fromkeys(found.kept, 0.0))
        try:
            (greedy,) = await rerun(group.episodes[playable[0]], 0, 1, greedy=True)
        except AllFaulted:
            reasons = tuple(FAULTED if reason is None else reason for reason in found.reasons)
            return Credit(group=group.id, values=(None,) * len(reasons), reasons=reasons, zero_variance=True)
        rewards = [value_of(group.episodes[e]) for e in found.kept]
        return tile(group, dict(zip(found.kept, remax(rewards, [greedy] * len(rewards)), strict=True)))
