"""PTA-GRPO at two levels: the plan is judged by how well episodes that share it do, the rest by how it ended.

Source: arXiv 2510.01833; formula [pta]. Its weights and the way its plans are scored are not published: plan scores here are
the proxy of the reference, the mean reward of the episodes that share a plan.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import fsum, isfinite
from typing import NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupMean, compares
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.credit.side import token_credit
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup


class TwoLevels(NamedTuple):
    """Advantages of the two levels, one of each per episode."""

    plan: tuple[float, ...]
    """The plan's score against the other plans'."""
    outcome: tuple[float, ...]
    """The episode's reward against those of all episodes."""


def two_levels(plans: Sequence[Hashable], rewards: Sequence[float], baseline: AnyBaseline) -> TwoLevels:
    """A plan's score is the mean reward of its episodes; plans are compared with one another, each once.

    Plans (a, a, b, b), rewards (1, 0, 0, 0), group mean: scores .5 and 0, plan advantages (.25, .25, -.25, -.25), outcome
    (.75, -.25, -.25, -.25). With every plan met once both levels agree.

    Args:
        plans: per episode, its plan.
        rewards: per episode.
        baseline: what scores and rewards are compared with; a single plan gets 0.
    """
    rows: dict[Hashable, list[float]] = {}
    for plan, reward in zip(plans, rewards, strict=True):
        rows.setdefault(plan, []).append(reward)
    scores = baseline.advantages([fsum(row) / len(row) for row in rows.values()], "zero")
    by_plan = dict(zip(rows, scores, strict=True))
    return TwoLevels(tuple(by_plan[p] for p in plans), baseline.advantages(rewards))


def plan_of(episode: Episode) -> tuple[int, ...]:
    """Ids of all tokens in ``plan`` spans, in order; empty when there is no plan."""
    found: list[int] = []
    for turn in episode.turns:
        for span in turn.spans:
            if span.kind == "plan":
                found += turn.completion[span.start : span.end]
    return tuple(found)


class PlanCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="plan"):
    """Tokens of ``plan`` spans get the plan's advantage, all others the outcome's. See `two_levels`.

    Plans are equal when their tokens are, so several episodes must be played from each plan; otherwise this is plain
    trajectory credit.
    """

    weight: float = 1.0
    """Factor on the plan's advantage, at least 0; ours."""
    baseline: AnyBaseline = GroupMean()
    """What plans are compared with among plans, and rewards among episodes."""

    def __post_init__(self) -> None:
        if not (isfinite(self.weight) and self.weight >= 0):
            raise ConfigError(f"plan weight {self.weight!r} must be a number of at least 0")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used.

        Raises:
            ConfigError: no episode has a plan.
        """
        kept = members(group, compared=compares(self.baseline)).kept
        if not kept:
            return token_credit(group, {})
        plans = [plan_of(group.episodes[e]) for e in kept]
        if not any(plans):
            raise ConfigError(
                "credit rule 'plan' found no 'plan' span in any episode of a group; use a chat format that marks plans, "
                "or choose 'trajectory'"
            )
        levels = two_levels(plans, [value_of(group.episodes[e]) for e in kept], self.baseline)
        rows: dict[int, list[list[float]]] = {}
        for e, plan, outcome in zip(kept, levels.plan, levels.outcome, strict=True):
            rows[e] = []
            for turn in group.episodes[e].turns:
                planned = {t for s in turn.spans if s.kind == "plan" for t in range(s.start, s.end)}
                rows[e].append([self.weight * plan if t in planned else outcome for t in range(len(turn.completion))])
        return token_credit(group, rows)
