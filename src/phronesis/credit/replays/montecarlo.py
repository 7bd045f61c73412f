"""Values by playing on: the worth of a turn is how much it changes the mean reward of fresh continuations.

Unbiased, needs no critic, and costs ``n`` continuations a turn. The credits of an episode add up to its reward minus the
value of its start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import ceil, log
from typing import Literal, NamedTuple

from msgspec import Struct

from phronesis.credit.rule import Rerun, members, value_of
from phronesis.credit.side import (
    Reads,
    need_rerun,
    need_text,
    play_from,
    spread_cuts,
    token_credit,
    token_places,
    turn_credit,
)
from phronesis.credit.turnwise.turns import following, is_chain
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup, Turn


class StepValues(NamedTuple):
    """Values of the starts of the steps, and what each step gained."""

    values: tuple[float, ...]
    """Per step, the mean of its returns."""
    advantages: tuple[float, ...]
    """Per step, reward plus the next value minus its own."""


def vineppo(returns: Sequence[Sequence[float]], rewards: Sequence[float], gamma: float = 1.0) -> StepValues:
    """``A_k = r_k + gamma V_{k+1} - V_k``, V the mean of fresh rollouts from the step's start, 0 at the end.

    With gamma 1 the advantages add up to the return minus V_0.   Source: VinePPO, arXiv 2410.01679 eq. 6; formula [vineppo].
    Values 3/9 and 7/9, rewards 0 and 1: advantages .4444, .2222.

    Args:
        returns: per step, the returns of rollouts played from its start, at least one.
        rewards: per step, what it earned.
        gamma: discount per step, in [0, 1].
    """
    values = tuple(sum(row) / len(row) for row in returns)
    after = (*values[1:], 0.0)[: len(values)]
    return StepValues(values, tuple(r + gamma * n - v for r, n, v in zip(rewards, after, values, strict=True)))


def spo_chain(values: Sequence[float], score: float) -> tuple[float, ...]:
    """A segment's advantage is the value at its end minus the one at its start; the last segment ends in the score.

    Source: SPO-chain, arXiv 2505.23564 eq. 6; formula [spo-chain].

    >>> spo_chain([0.25, 0.5, 0.75], 1.0)
    (0.25, 0.25, 0.25)

    Args:
        values: value at the start of each segment.
        score: the episode's reward.
    """
    ends = (*values[1:], score)
    return tuple(end - start for start, end in zip(values, ends[: len(values)], strict=True))


def cut_points(probabilities: Sequence[Sequence[float]], *, every: int = 5, below: float = 0.9) -> tuple[int, ...]:
    """Rows that begin a segment: the first, and the first after every `every` tokens of probability under `below`.

    SPO cuts between tokens. Here a segment ends with a turn, since episodes are played on from turns (ours).

    >>> cut_points([[0.5, 0.99], [0.8], [0.95], [0.2]], every=2)
    (0, 2)
    """
    starts: list[int] = []
    seen = every
    for k, row in enumerate(probabilities):
        if seen >= every:
            starts.append(k)
            seen = 0
        seen += sum(p < below for p in row)
    return tuple(starts)


def token_cuts(probabilities: Sequence[Sequence[float]], *, every: int = 5, below: float = 0.9) -> tuple[tuple[int, int], ...]:
    """Tokens that begin a segment, as (row, place): the first, and the first after every `every` tokens of probability under
    `below`, wherever it stands.   Source: SPO, arXiv 2505.23564.

    >>> token_cuts([[0.5, 0.99], [0.8, 0.2, 0.95]], every=2)
    ((0, 0), (1, 1))
    """
    starts: list[tuple[int, int]] = []
    seen = every
    for k, row in enumerate(probabilities):
        for t, p in enumerate(row):
            if seen >= every:
                starts.append((k, t))
                seen = 0
            seen += p < below
    return tuple(starts)


def line_starts(text: str) -> tuple[int, ...]:
    """Characters that begin a line which is not blank, but for the first.

    >>> line_starts("2 + 3\n\nis 5\n")
    (7,)
    """
    breaks = [i for i, c in enumerate(text) if c == "\n"]
    after = [i + 1 for i in breaks if text[i + 1 : i + 2].strip()]
    return tuple(i for i in after if text[:i].strip())


class VinePPOCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="vineppo"):
    """Every sampled token of a turn gets what the turn added to the mean reward of continuations.

    Rewards are those of whole episodes, so that what a turn earned at once is inside the values. At a fork each branch is
    judged from the point it shares. Source: VinePPO, arXiv 2410.01679; formula [vineppo].
    """

    rollouts: int = 9
    """Continuations played before each step, at least 1."""
    step: Literal["turn", "line"] = "turn"
    """What a step is: a turn, or a line of what a turn says, as in the paper."""

    def __post_init__(self) -> None:
        at_least_one(self.rollouts, "vineppo rollouts")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; plays ``rollouts`` continuations a step.

        Raises:
            ConfigError: there is no `rerun`, or one that cannot read lines, or lines of an episode that forks.
        """
        play = need_rerun(rerun, "vineppo")
        kept = members(group, compared=False).kept
        if self.step == "line":
            found = await asyncio.gather(*(self._lines(group.episodes[e], play) for e in kept))
            return token_credit(group, dict(zip(kept, found, strict=True)))
        rows = await asyncio.gather(*(_gains(group.episodes[e], play, self.rollouts) for e in kept))
        return turn_credit(group, dict(zip(kept, rows, strict=True)))

    async def _lines(self, episode: Episode, rerun: Rerun) -> list[list[float]]:
        if not is_chain(episode):
            raise ConfigError(f"vineppo by lines reads chains of turns and episode {episode.id!r} forks; set step = 'turn'")
        reads = need_text(rerun, "vineppo")
        cuts = text_cuts(episode, reads, line_starts)
        played = await asyncio.gather(*(play_from(rerun, episode, at, self.rollouts) for at in cuts))
        return spread_cuts(episode, cuts, spo_chain([sum(r) / len(r) for r in played], value_of(episode)))


def text_cuts(episode: Episode, reads: Reads, places: Callable[[str], Sequence[int]]) -> list[tuple[int, int]]:
    """Every turn's first token, and the tokens that hold the characters `places` finds in what the turn says."""
    cuts: list[tuple[int, int]] = []
    for k, turn in enumerate(episode.turns):
        inside = token_places(reads, turn, places(reads.said(turn, len(turn.completion))))
        cuts += [(k, 0), *((k, t) for t in inside if t)]
    return cuts


async def _gains(episode: Episode, rerun: Rerun, n: int) -> list[float]:
    played = await asyncio.gather(*(rerun(episode, k, n) for k in range(len(episode.turns))))
    end = value_of(episode)
    gains: list[float] = []
    for k, after in enumerate(following(episode)):
        # Rewards are those of whole episodes: what a turn earned is inside the next value, and the end earns it all.
        steps = vineppo([played[k]], [end]) if after is None else vineppo([played[k], played[after]], [0.0, 0.0])
        gains.append(steps.advantages[0])
    return gains


class SPOChainCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="spo_chain"):
    """Segments that hold a number of uncertain tokens; a segment's uncertain tokens get what it added to the value.

    Tokens the policy was sure of get 0. Source: SPO-chain, arXiv 2505.23564, whose segments begin at any token; its authors
    use it on one long answer.
    """

    every: int = 5
    """Uncertain tokens after which a segment ends, at least 1."""
    below: float = 0.9
    """A token of lower probability is uncertain, in (0, 1]."""
    rollouts: int = 9
    """Continuations played at each segment's start, at least 1."""
    cut: Literal["turn", "token"] = "turn"
    """Where a segment may begin: with a turn (ours), or at any token (the paper's; plays on from inside turns)."""
    segments: int | None = None
    """How many segments an episode is cut into, with equal numbers of uncertain tokens, whatever `every` says; fewer where it
    has fewer of them. At least 1; None cuts by `every`."""

    def __post_init__(self) -> None:
        at_least_one(self.every, "spo_chain every")
        at_least_one(self.rollouts, "spo_chain rollouts")
        if self.segments is not None:
            at_least_one(self.segments, "spo_chain segments")
        if not 0 < self.below <= 1:
            raise ConfigError(f"spo_chain below {self.below!r} must lie in (0, 1]")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; plays ``rollouts`` continuations a segment.

        Raises:
            ConfigError: there is no `rerun`, or an episode forks.
        """
        play = need_rerun(rerun, "spo_chain")
        kept = members(group, compared=False).kept
        rows = await asyncio.gather(*(self._segments(group.episodes[e], play) for e in kept))
        return token_credit(group, dict(zip(kept, rows, strict=True)))

    async def _segments(self, episode: Episode, rerun: Rerun) -> list[list[float]]:
        if not is_chain(episode):
            raise ConfigError(f"spo_chain cuts a chain of turns and episode {episode.id!r} forks; choose 'tree'")
        sure = [_certain(turn, self.below) for turn in episode.turns]
        rows = [[float(s) for s in row] for row in sure]
        every = self.every
        if self.segments is not None:
            every = max(1, ceil(sum(not s for row in sure for s in row) / self.segments))
        if self.cut == "token":
            cuts = list(token_cuts(rows, every=every, below=0.5))
        else:
            cuts = [(k, 0) for k in cut_points(rows, every=every, below=0.5)]
        played = await asyncio.gather(*(play_from(rerun, episode, at, self.rollouts) for at in cuts))
        gains = spo_chain([sum(r) / len(r) for r in played], value_of(episode))
        by_token = spread_cuts(episode, cuts, gains) if cuts else [list[float]() for _ in sure]
        return [[0.0 if s else a for s, a in zip(row, found, strict=True)] for row, found in zip(sure, by_token, strict=True)]


def _certain(turn: Turn, below: float) -> list[bool]:
    return [not s or logprob >= log(below) for s, logprob in zip(turn.sampled, turn.logprobs, strict=True)]


def at_least_one(n: int, what: str) -> None:
    """Raises ConfigError unless `n` is positive."""
    if n < 1:
        raise ConfigError(f"{what} {n!r} must be at least 1")
