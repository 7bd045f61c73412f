"""ASPO: among correct episodes that used a tool, those that did so early get a little more.

Source: arXiv 2508.19201; formula [aspo].
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, isfinite

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupStandard
from phronesis.credit.baselines.trajectory import episode_advantages, given_up
from phronesis.credit.rule import Rerun, value_of
from phronesis.credit.side import turn_credit
from phronesis.credit.turnwise.turns import trajectory_lengths
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup


def aspo(
    positions: Sequence[float], mean_length: float, adv: float, *, delta: float = -2.0, k: float = 0.7
) -> tuple[float, ...]:
    """``A + clip(delta (p_i - mean p) / L, -k |A|, k |A|)``.   Formula [aspo].

    The bonus is added to the advantage and not to the reward: divided by a group's spread it could turn a correct episode's
    advantage negative. So k below 1 keeps the sign, and a group in which all are correct (A = 0) learns nothing from it.
    Positions (10, 30, 50), L 100, A .5: (.85, .5, .15).

    Args:
        positions: place of the first tool call of each correct episode that has one, sampled tokens.
        mean_length: mean length of these episodes, sampled tokens, above 0.
        adv: their advantage.
        delta: strength; negative favours early calls. The paper's text has -2 with k .7 and -2.5 with .9.
        k: largest bonus over the size of the advantage, in [0, 1).
    """
    if not positions:
        return ()
    mean, bound = fsum(positions) / len(positions), k * abs(adv)
    return tuple(adv + min(max(delta * (p - mean) / mean_length, -bound), bound) for p in positions)


def first_call(episode: Episode) -> int | None:
    """Sampled tokens before the first tool call, on the way to it; None when there is none.

    The call begins with the turn's first ``act`` span, or with the turn where there are no spans.
    """
    for k, turn in enumerate(episode.turns):
        if turn.action is not None and turn.action.tool_calls:
            start = next((s.start for s in turn.spans if s.kind == "act"), 0)
            return sum(sum(episode.turns[j].sampled) for j in episode.line(k)[:-1]) + sum(turn.sampled[:start])
    return None


class ASPOCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="aspo"):
    """The episode's advantage, with a bounded bonus for calling a tool early when it is correct. See `aspo`."""

    delta: float = -2.0
    """Strength of the bonus; negative favours early calls."""
    k: float = 0.7
    """Largest bonus over the size of the advantage, in [0, 1)."""
    success: float = 1.0
    """A reward of at least this is correct."""
    baseline: AnyBaseline = GroupStandard()
    """What an episode's reward is compared with."""

    def __post_init__(self) -> None:
        if not isfinite(self.delta) or not 0 <= self.k < 1:
            raise ConfigError(f"aspo delta {self.delta!r} must be finite and k {self.k!r} lie in [0, 1)")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        found = episode_advantages(group, self.baseline)
        correct = [e for e in found if value_of(group.episodes[e]) >= self.success]
        called = {e: p for e in correct if (p := first_call(group.episodes[e])) is not None}
        lengths = [fsum(trajectory_lengths(group.episodes[e])) / len(group.episodes[e].turns) for e in called]
        positions = list(called.values())
        if sum(lengths):
            mean = fsum(lengths) / len(lengths)
            for i, e in enumerate(called):
                found[e] = aspo(positions, mean, found[e], delta=self.delta, k=self.k)[i]
        by_turn = {e: [a] * len(group.episodes[e].turns) for e, a in found.items()}
        return turn_credit(group, by_turn, given_up(group, self.baseline))
