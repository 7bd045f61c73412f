"""What a rule needs beside the group: fresh continuations, and numbers somebody else judges. Missing, they are named.

The rule this module keeps: a judgement may look at the answer, the policy may not. A judge reads finished episodes and gives
numbers; nothing it reads or writes goes into a prompt of the episode.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Protocol, cast, runtime_checkable

from phronesis.config import import_path
from phronesis.credit.rule import Rerun, spread, spread_tokens, value_of
from phronesis.errors import ConfigError, TrainingError
from phronesis.records import Credit, Episode, EpisodeGroup, Turn


@runtime_checkable
class TurnJudge(Protocol):
    """A number for a point of an episode: a potential, the probability of the right answer, a confidence."""

    async def __call__(self, episode: Episode, turn: int) -> float:
        """The number just before turn `turn`; ``len(turns)`` is the end."""
        ...


@runtime_checkable
class TokenJudge(Protocol):
    """A number for every token of a turn: a log-probability in hindsight, an uncertainty."""

    async def __call__(self, episode: Episode, turn: int) -> Sequence[float]:
        """One number per token of the turn's completion `[T]`; those of forced tokens are not read."""
        ...


@runtime_checkable
class PartJudge(Protocol):
    """The worth of an episode of which only some turns happened."""

    async def __call__(self, episode: Episode, turns: frozenset[int]) -> float:
        """The reward of what these turns wrote, without the others."""
        ...


@runtime_checkable
class Asks(Protocol):
    """The policy, asked beside the episodes; a re-runner that can is one of these too."""

    async def answer(self, episode: Episode, turn: int, text: str) -> tuple[float, ...]:
        """Nats of the tokens of `text`, had the policy said it instead of turn `turn`."""
        ...

    async def hindsight(self, episode: Episode, turn: int, hint: str) -> tuple[float, ...]:
        """Nats `[T]` of the turn's tokens, had the opening ended with `hint`."""
        ...


@runtime_checkable
class Reads(Protocol):
    """Knows what tokens say; a re-runner that does is one of these too."""

    def said(self, turn: Turn, tokens: int) -> str:
        """The thought, and behind it the text, in the first tokens of a turn's completion."""
        ...


def token_places(reads: Reads, turn: Turn, places: Sequence[int]) -> list[int]:
    """The tokens that hold these characters of what a turn says, each token once; characters that it does not say are left out.

    Tokens "So", " it", " is" and characters 0, 3 and 99: tokens 0 and 1.
    """
    found: list[int] = []
    for place in places:
        low, high = 0, len(turn.completion)
        while low < high:  # the fewest tokens that say more than `place` characters
            middle = (low + high) // 2
            low, high = (low, middle) if len(reads.said(turn, middle)) > place else (middle + 1, high)
        if low and len(reads.said(turn, low)) > place and low - 1 not in found:
            found.append(low - 1)
    return sorted(found)


async def play_from(rerun: Rerun, episode: Episode, at: tuple[int, int], n: int) -> tuple[float, ...]:
    """Rewards of `n` continuations from a token of a turn, ``at = (turn, token)``."""
    turn, token = at
    return await (rerun(episode, turn, n, token=token) if token else rerun(episode, turn, n))


def need_text(rerun: Rerun, rule: str) -> Reads:
    """Who knows what tokens say.

    Raises:
        ConfigError: nobody does.
    """
    if not isinstance(rerun, Reads):
        raise ConfigError(f"credit rule {rule!r} cuts inside turns by their text, which {type(rerun).__name__} cannot read")
    return rerun


def spread_cuts(episode: Episode, cuts: Sequence[tuple[int, int]], values: Sequence[float]) -> list[list[float]]:
    """One number per token `[turns][T]`: that of the segment it lies in.

    Args:
        episode: a chain of turns.
        cuts: (turn, token) at which each segment begins, in order, the first at (0, 0).
        values: one per segment.
    """
    rows: list[list[float]] = []
    segment = -1
    for k, turn in enumerate(episode.turns):
        row: list[float] = []
        for t in range(len(turn.completion)):
            while segment + 1 < len(cuts) and cuts[segment + 1] <= (k, t):
                segment += 1
            row.append(values[segment])
        rows.append(row)
    return rows


POLICY = "policy"
"""A judge of this name is the trained policy itself."""


def need_policy(rerun: Rerun | None, rule: str) -> Asks:
    """The policy to ask.

    Raises:
        ConfigError: nobody offers it.
    """
    if not isinstance(rerun, Asks):
        raise ConfigError(
            f"credit rule {rule!r} asks the trained policy, and no rerun was given that can; train with a run, "
            "or name a judge as 'package.module:name'"
        )
    return rerun


def need_rerun(rerun: Rerun | None, rule: str) -> Rerun:
    """The re-runner.

    Raises:
        ConfigError: there is none.
    """
    if rerun is None:
        raise ConfigError(
            f"credit rule {rule!r} plays on from inside episodes and was given no rerun; train in an environment whose "
            "episodes can be played again from a prefix, or choose a rule that needs none, e.g. 'gigpo' or 'turn_return'"
        )
    return rerun


async def mean_rewards(episode: Episode, rerun: Rerun, n: int) -> list[float]:
    """Value of every point of an episode: before each turn the mean reward of `n` continuations; at the end its own reward.

    Values `[turns + 1]` are those of whole episodes, what the prefix earned included.
    """
    played = await asyncio.gather(*(rerun(episode, k, n) for k in range(len(episode.turns))))
    return [sum(rewards) / len(rewards) for rewards in played] + [value_of(episode)]


def judge(path: str, rule: str, what: str) -> object:
    """The judge at an import path.

    Raises:
        ConfigError: no path was given, or what lies there cannot be called.
    """
    if not path:
        raise ConfigError(f"credit rule {rule!r} needs {what}; name an async function in its 'judge' as 'package.module:name'")
    found = import_path(path)
    if not callable(found):
        raise ConfigError(f"judge {path!r} of credit rule {rule!r} is a {type(found).__name__}, which cannot be called")
    return found


def need_source(path: str, metric: str, rule: str, *others: str) -> None:
    """Raises ConfigError unless a judge or a metric or another source is named, and only one of them."""
    if sum(map(bool, (path, metric, *others))) != 1:
        raise ConfigError(
            f"credit rule {rule!r} needs a number at every turn; name either a 'metric' the environment reports in "
            "Reply.metrics, or a 'judge' as 'package.module:name'" + ", or the 'answer' in the task's payload" * bool(others)
        )


async def points(episode: Episode, *, path: str, metric: str, rule: str) -> list[float]:
    """A number before each turn and one at the end, ``[turns + 1]``: from the judge if there is one, else as reported.

    Without a judge, the number after turn k is ``Reply.metrics[metric]`` of turn k, and the one before the first turn is
    ``Reply.metrics[metric + "_before"]`` of turn 0, or 0.

    Raises:
        ConfigError: the judge cannot be called.
        TrainingError: a number that is not finite, or a turn that reports none.
    """
    if path:
        ask = cast(TurnJudge, judge(path, rule, "a judge"))
        found = [float(v) for v in await asyncio.gather(*(ask(episode, k) for k in range(len(episode.turns) + 1)))]
    else:
        found = [_reported(episode, 0, metric + "_before", 0.0)] if episode.turns else [0.0]
        found += [_reported(episode, k, metric, None) for k in range(len(episode.turns))]
    wrong = [v for v in found if not isfinite(v)]
    if wrong:
        raise TrainingError(f"credit rule {rule!r} was given {wrong[0]!r} for episode {episode.id!r}; numbers must be finite")
    return found


def _reported(episode: Episode, turn: int, name: str, default: float | None) -> float:
    reply = episode.turns[turn].reply
    value = default if reply is None else reply.metrics.get(name, default)
    if value is None:
        raise TrainingError(
            f"turn {turn} of episode {episode.id!r} reports no metric {name!r}; report it in every Reply.metrics, "
            "or name a 'judge' instead"
        )
    return value


async def hindsight_logprobs(episode: Episode, path: str, rule: str, rerun: Rerun | None, hint: str) -> list[list[float]]:
    """Log-probabilities of every turn's tokens in hindsight, ``[turns][T]``: a judge's, or those of the policy under a hint.

    Args:
        episode: finished and scored.
        path: of the judge, or `POLICY`.
        rule: who asks, for messages.
        rerun: gives the policy.
        hint: what the policy is told; ``{reward}`` stands for the episode's reward.

    Raises:
        ConfigError: no judge, or nobody gives the policy.
        TrainingError: see `token_numbers`.
    """
    if path != POLICY:
        return await token_numbers(episode, path, rule)
    asked, told = need_policy(rerun, rule), hint.replace("{reward}", f"{value_of(episode):g}")
    rows = await asyncio.gather(*(asked.hindsight(episode, k, told) for k in range(len(episode.turns))))
    return [list(row) for row in rows]


async def token_numbers(episode: Episode, path: str, rule: str) -> list[list[float]]:
    """The judge's numbers of every turn, ``[turns][T]``; 0 at forced tokens.

    Raises:
        ConfigError: no judge.
        TrainingError: a turn got another number of them than it has tokens, or one that is not finite.
    """
    ask = cast(TokenJudge, judge(path, rule, "a number for every token"))
    rows = await asyncio.gather(*(ask(episode, k) for k in range(len(episode.turns))))
    found: list[list[float]] = []
    for k, (turn, row) in enumerate(zip(episode.turns, rows, strict=True)):
        if len(row) != len(turn.completion):
            raise TrainingError(
                f"judge {path!r} gave {len(row)} numbers for the {len(turn.completion)} tokens of turn {k} of {episode.id!r}"
            )
        found.append([float(v) if s else 0.0 for v, s in zip(row, turn.sampled, strict=True)])
        if not all(isfinite(v) for v in found[-1]):
            raise TrainingError(f"judge {path!r} gave a number that is not finite for turn {k} of {episode.id!r}")
    return found


def turn_credit(group: EpisodeGroup, by_turn: Mapping[int, Sequence[float]], counts: Mapping[str, int] | None = None) -> Credit:
    """`spread`, with the group marked as without variance when every number is 0."""
    return spread(group, by_turn, zero_variance=all(a == 0 for row in by_turn.values() for a in row), counts=counts)


def spread_over(episode: Episode, by_turn: Sequence[float]) -> list[list[float]]:
    """One number per token `[turns][T]` from one per turn."""
    return [[a] * len(t.completion) for t, a in zip(episode.turns, by_turn, strict=True)]


def token_credit(group: EpisodeGroup, by_token: Mapping[int, Sequence[Sequence[float]]]) -> Credit:
    """A group's credit from one number per token; forced tokens get 0 whatever theirs is.

    Args:
        group: the group.
        by_token: per kept episode (its index), per turn, `[T]` numbers.
    """
    rows: dict[int, list[float]] = {}
    for e, turns in by_token.items():
        pairs = zip(group.episodes[e].turns, turns, strict=True)
        rows[e] = [a for turn, row in pairs for a, s in zip(row, turn.sampled, strict=True) if s]
    return spread_tokens(group, rows, zero_variance=all(a == 0 for row in rows.values() for a in row))
