"""Information gain: a turn is worth how much more probable it made the right answer.

The answer is scored by a judge beside the run, never inside the policy's context.
Source: IGPO, arXiv 2510.14967; formula [igpo].
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from math import exp, fsum
from typing import NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupMean, compares
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.credit.side import need_policy, need_source, points
from phronesis.credit.turnwise.turns import Pool, chain, check_gamma, is_chain, pooled_credit, tree_returns
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup


class InformationGain(NamedTuple):
    """Rewards of the turns and what they add up to."""

    rewards: tuple[float, ...]
    """Per turn, the rise of the right answer's probability; of the last turn, the episode's reward."""
    returns: tuple[float, ...]
    """Per turn, its reward and the discounted ones after it."""


def answer_probability(logprobs: Sequence[float]) -> float:
    """Probability of the right answer per token, ``exp(mean logprob)``: comparable between answers of other lengths.

    Args:
        logprobs: nats of the answer's tokens, at least one.
    """
    return exp(fsum(logprobs) / len(logprobs))


def igpo(probabilities: Sequence[float], final: float, gamma: float = 1.0) -> InformationGain:
    """``r_k = p_k - p_{k-1}``, the last turn earns the outcome.   Formula [igpo].

    With gamma 1 the first return is ``p_last - p_0 + final``. p .2, .35, .3 and F1 1: rewards (.15, -.05, 1), returns (1.1,
    .95, 1).

    Args:
        probabilities: of the right answer before each turn; one per turn.
        final: reward of the last turn, in the paper the answer's F1.
        gamma: discount per turn, in [0, 1].
    """
    gains = [after - before for before, after in pairwise(probabilities)]
    rewards = (*gains, final) if probabilities else ()
    return InformationGain(rewards, tree_returns(rewards, chain(len(rewards)), gamma))


class IGPOCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="igpo"):
    """Rewards-to-go of information gain, against the same turn of the other episodes, not divided by any spread.

    The official code takes the mean per token position; by turn is ours, and safer where turns differ in length.
    """

    judge: str = ""
    """Async function ``(episode, turn) -> probability of the right answer`` as ``package.module:name``; see `TurnJudge`."""
    metric: str = ""
    """Without a judge: the name under which the environment reports the probability after each turn."""
    answer: str = ""
    """Without both: the key of `Task.payload` that holds the right answer, which the policy then scores before every turn."""
    gamma: float = 1.0
    """Discount per turn, in [0, 1]."""
    pool: Pool = "turn"
    """Which turns are compared."""
    baseline: AnyBaseline = GroupMean()
    """What a return is compared with."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        need_source(self.judge, self.metric, "igpo", self.answer)

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; with `answer`, `rerun` gives the policy to ask.

        Raises:
            ConfigError: an episode forks, a task has no answer, or nobody gives the policy.
        """
        kept = members(group, compared=compares(self.baseline)).kept
        rows = await asyncio.gather(*(self._returns(group.episodes[e], rerun) for e in kept))
        return pooled_credit(group, dict(zip(kept, rows, strict=True)), self.pool, self.baseline)

    async def _returns(self, episode: Episode, rerun: Rerun | None) -> tuple[float, ...]:
        if not is_chain(episode):
            raise ConfigError(f"igpo reads chains of turns and episode {episode.id!r} forks; choose 'tree'")
        n = len(episode.turns)
        if self.answer:
            text, policy = self._answer(episode), need_policy(rerun, "igpo")
            rows = await asyncio.gather(*(policy.answer(episode, k, text) for k in range(n)))
            found = [answer_probability(row) for row in rows]
        else:
            found = (await points(episode, path=self.judge, metric=self.metric, rule="igpo"))[:n]
        return igpo(found, value_of(episode), self.gamma).returns

    def _answer(self, episode: Episode) -> str:
        text: object = episode.task.payload.get(self.answer)
        if not isinstance(text, str | int | float):
            raise ConfigError(
                f"task {episode.task.id!r} has no text or number {self.answer!r} in its payload for igpo to score; "
                f"there are {sorted(episode.task.payload)}"
            )
        return str(text)
