"""REINFORCE++: token returns, whitened over all tokens of the step instead of compared within a group.

Biased: the mean and the deviation contain the very episode they are applied to, and easy and hard tasks share one scale.
The baseline form takes the mean of the task out first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum, sqrt
from typing import ClassVar

from msgspec import Struct

from phronesis.credit.baselines.group import GroupMean
from phronesis.credit.baselines.returns import reward_to_go, token_returns
from phronesis.credit.baselines.trajectory import episode_advantages
from phronesis.credit.rule import Rerun, members, sampled_values, spread, spread_tokens
from phronesis.credit.turnwise.turns import check_gamma
from phronesis.errors import ConfigError
from phronesis.records import Credit, EpisodeGroup

Rows = list[list[float]]
"""Ragged: one row per sequence."""


def whiten(rows: Sequence[Sequence[float]], mask: Sequence[Sequence[bool]] | None = None, *, eps: float = 1e-8) -> Rows:
    """``(x - mean) / sqrt(var + eps)`` over all tokens of the mask together, with Bessel's variance; 0 outside the mask.

    Equal values, and a single one, give exactly 0.   Source: formula [whiten].

    >>> whiten([[1.0, 9.0], [3.0]], [[True, False], [True]], eps=2.0)
    [[-0.5, 0.0], [0.5]]

    Args:
        rows: ragged; outside the mask anything, also NaN.
        mask: of the same shape; None means all.
        eps: added to the variance, at least 0.
    """
    chosen = [[True] * len(row) for row in rows] if mask is None else mask
    values = [x for row, kept in zip(rows, chosen, strict=True) for x, k in zip(row, kept, strict=True) if k]
    if not values or min(values) == max(values):
        return [[0.0] * len(row) for row in rows]
    mean = fsum(values) / len(values)
    scale = sqrt(fsum((x - mean) ** 2 for x in values) / (len(values) - 1) + eps)
    pairs = zip(rows, chosen, strict=True)
    return [[(x - mean) / scale if k else 0.0 for x, k in zip(row, kept, strict=True)] for row, kept in pairs]


def reinforce_pp(
    scores: Sequence[float],
    k1: Sequence[Sequence[float]],
    mask: Sequence[Sequence[bool]] | None = None,
    *,
    beta: float = 0.0,
    gamma: float = 1.0,
    eps: float = 1e-8,
) -> Rows:
    """Whitened returns of tokens whose reward is ``-beta * k1`` plus, on the last one, the sequence's score.

    Scores 1, 0, .5 of 2, 1 and 2 tokens without KL: [.956183 (twice)], [-1.434274], [-.239046 (twice)].

    Source: REINFORCE++, arXiv 2501.03262; formula [rfpp].

    Args:
        scores: one per sequence.
        k1: per token ``log pi - log ref``, nats; the lengths of the sequences.
        mask: which tokens were sampled; None means all. A sequence without any is left out.
        beta: weight of the KL penalty, at least 0.
        gamma: discount per token, in [0, 1].
        eps: added to the variance.
    """
    chosen = [[True] * len(row) for row in k1] if mask is None else mask
    returns: Rows = []
    for score, row, kept in zip(scores, k1, chosen, strict=True):
        rewards = [-beta * x if k else 0.0 for x, k in zip(row, kept, strict=True)]
        last = max((t for t, k in enumerate(kept) if k), default=None)
        if last is not None:
            rewards[last] += score
        returns.append(list(reward_to_go(rewards, gamma, kept)))
    return whiten(returns, chosen, eps=eps)


def settled(groups: Sequence[EpisodeGroup], credits: Sequence[Credit], eps: float) -> list[Credit]:
    """The credit of a step, whitened over all its sampled tokens; a step whose tokens are all alike carries no signal."""
    places = [(g, e, row) for g, c in enumerate(credits) for e, row in sampled_values(groups[g], c).items()]
    rows = whiten([row for _, _, row in places], eps=eps)
    by_group: list[dict[int, list[float]]] = [{} for _ in groups]
    for (g, e, _), row in zip(places, rows, strict=True):
        by_group[g][e] = row
    return [
        spread_tokens(group, found, zero_variance=_silent(found.values()))
        for group, found in zip(groups, by_group, strict=True)
    ]


def _silent(rows: Iterable[Sequence[float]]) -> bool:
    return not any(any(row) for row in rows)


def _check_eps(eps: float) -> None:
    if eps <= 0:
        raise ConfigError(f"eps {eps!r} must be above 0")


class ReinforcePPCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="reinforce_pp"):
    """REINFORCE++: no group, every token's return against all tokens of the step. A KL penalty belongs into the loss.

    Rewards 1, 0, .5 of 2, 1 and 2 sampled tokens: .956183 (twice), -1.434274, -.239046 (twice).   Formula [rfpp].
    """

    gamma: float = 1.0
    """Discount per sampled token, in [0, 1]."""
    eps: float = 1e-8
    """Added to the variance, above 0."""
    needs_siblings: ClassVar[bool] = False
    """A lone episode has credit too."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        _check_eps(self.eps)

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Token returns of one group, not yet whitened; `rerun` is not used."""
        found = {e: token_returns(group.episodes[e], self.gamma) for e in members(group, compared=False).kept}
        return spread_tokens(group, found, zero_variance=_silent(found.values()))

    def settle(self, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> list[Credit]:
        """Whitens over the step."""
        return settled(groups, credits, self.eps)


class ReinforcePPBaselineCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="reinforce_pp_baseline"):
    """REINFORCE++ with a baseline: reward minus the group's mean, on every token, whitened over the step.

    Groups [1, 0] and [1, 1], one token each: 1.224745, -1.224745, 0, 0.

    Source: REINFORCE++, arXiv 2501.03262; formula [rfpp-baseline].
    """

    eps: float = 1e-8
    """Added to the variance, above 0."""
    needs_siblings: ClassVar[bool] = True
    """A lone episode has nothing to be compared with."""

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Reward minus the group's mean, not yet whitened; `rerun` is not used."""
        found = episode_advantages(group, GroupMean())
        by_turn = {e: (a,) * len(group.episodes[e].turns) for e, a in found.items()}
        return spread(group, by_turn, zero_variance=_silent(by_turn.values()))

    def settle(self, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> list[Credit]:
        """Whitens over the step. The mean is not 0 where episodes differ in length, so a constant group may get credit."""
        return settled(groups, credits, self.eps)
