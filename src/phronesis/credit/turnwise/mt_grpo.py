"""MT-GRPO: the turns that led to the first tool result are also judged by what those turns earned.

Where the environment offers no tools at all, its first answer of any kind stands for the tool result (ours).
Source: Multi-Turn GRPO, arXiv 2505.11821; formula [mt-grpo].
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import ClassVar, NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.group import GroupStandard
from phronesis.credit.rule import Rerun, members
from phronesis.credit.side import turn_credit
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup


class MTGRPO(NamedTuple):
    """Credit of the tokens of one group's episodes."""

    before: tuple[float, ...]
    """Per episode, of the tokens up to the first tool result."""
    after: tuple[float, ...]
    """Per episode, of the tokens after it."""


def mt_grpo(
    turn: Sequence[float],
    outcome: Sequence[float],
    *,
    lam: float = 1.0,
    eps: float = 1e-4,
    tool_result: Sequence[bool] | None = None,
) -> MTGRPO:
    """Turn and outcome rewards standardised apart; the outcome's counts everywhere, the turn's up to the first tool result.

    Turn rewards (1, 1, 0, 0), outcomes (1, 0, 0, 0): before (2.365575, .365975, -1.365775, -1.365775), after (1.4997, -.4999
    three times). An episode without a tool result has no "after": all its tokens get the standardised sum of both rewards,
    over the whole group. Biased, as all that divide by the spread.

    Args:
        turn: per episode, what its turns earned.
        outcome: per episode, what its end earned.
        lam: weight of the turn part.
        eps: added to the standard deviation (Bessel), above 0.
        tool_result: per episode, whether a tool ever answered; None means all.
    """
    rule = GroupStandard(eps=eps)
    by_turn, by_outcome = rule.advantages(turn, "zero"), rule.advantages(outcome, "zero")
    together = rule.advantages([t + o for t, o in zip(turn, outcome, strict=True)], "zero")
    answered = [True] * len(turn) if tool_result is None else list(tool_result)
    before = [o + lam * t if a else s for t, o, s, a in zip(by_turn, by_outcome, together, answered, strict=True)]
    after = [o if a else s for o, s, a in zip(by_outcome, together, answered, strict=True)]
    return MTGRPO(tuple(before), tuple(after))


def answered_turns(episode: Episode) -> tuple[bool, ...]:
    """Per turn, whether a tool answered it; in an environment without tools, whether its reply said anything to go on with.

    An environment has tools if it offers any, or if any message is a tool's. The reply that ends an episode is no answer then:
    no turn acts on it.
    """
    replies = [turn.reply for turn in episode.turns]
    tools = [r is not None and any(m.role == "tool" for m in r.messages) for r in replies]
    if episode.tools or any(tools) or any(r is not None and r.tools for r in replies):
        return tuple(tools)
    return tuple(r is not None and bool(r.messages) and not r.done for r in replies)


def after_first(episode: Episode, answered: Sequence[bool]) -> tuple[bool, ...]:
    """Per turn, whether an answered one lies before it on its way from the reset."""
    found: list[bool] = []
    for at in episode.before:
        found.append(at is not None and (found[at] or answered[at]))
    return tuple(found)


class MTGRPOCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="mt_grpo"):
    """Standardised outcome for every token, plus the standardised turn reward up to the first tool result.

    The outcome is the components of `outcome`, the turn reward everything else. See `mt_grpo`. Without tools, the environment's
    first answer stands for the tool result; see `answered_turns`.
    """

    needs_siblings: ClassVar[bool] = True
    """Rewards are standardised within the group only."""
    outcome: tuple[str, ...] = ()
    """Names of reward components that judge the end; empty means those that belong to no turn or to the last one of a
    trajectory."""
    lam: float = 1.0
    """Weight of the turn part, at least 0."""
    eps: float = 1e-4
    """Added to the standard deviation, above 0."""

    def __post_init__(self) -> None:
        if not (isfinite(self.lam) and self.lam >= 0):
            raise ConfigError(f"mt_grpo lam {self.lam!r} must be a number of at least 0")
        if self.eps <= 0:
            raise ConfigError(f"mt_grpo eps {self.eps!r} must be above 0")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        kept = members(group).kept
        episodes = [group.episodes[e] for e in kept]
        parts = [self._parts(e) for e in episodes]
        answered = [answered_turns(e) for e in episodes]
        found = mt_grpo(
            [p[0] for p in parts],
            [p[1] for p in parts],
            lam=self.lam,
            eps=self.eps,
            tool_result=[any(a) for a in answered],
        )
        by_turn: dict[int, list[float]] = {}
        for i, e in enumerate(kept):
            late = after_first(group.episodes[e], answered[i])
            by_turn[e] = [found.after[i] if is_late else found.before[i] for is_late in late]
        return turn_credit(group, by_turn)

    def _parts(self, episode: Episode) -> tuple[float, float]:
        """What the turns earned and what the end earned."""
        turn = outcome = 0.0
        last = episode.ends
        for c in () if episode.reward is None else episode.reward.components:
            if c.audit or c.score is None:
                continue
            ends = c.name in self.outcome if self.outcome else c.turn is None or c.turn in last
            turn, outcome = (turn, outcome + c.weight * c.score) if ends else (turn + c.weight * c.score, outcome)
        return turn, outcome
