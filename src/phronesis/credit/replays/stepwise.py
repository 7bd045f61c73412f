"""Stepwise rewards: how much each step changed the chance to be right, asked by playing on.

VSRM rewards gains and lets a step share a gain that comes soon after it; SPAE also weighs how sure the policy is.
Both are biased: they change what is optimal, unlike potentials.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import isfinite
from typing import Literal, NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupMean, compares
from phronesis.credit.baselines.trajectory import episode_advantages, given_up
from phronesis.credit.replays.montecarlo import at_least_one, text_cuts
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.credit.side import mean_rewards, need_rerun, need_text, play_from, spread_cuts, token_credit, turn_credit
from phronesis.credit.turnwise.turns import (
    Pool,
    chain,
    check_gamma,
    is_chain,
    pooled_advantages,
    pooled_credit,
    tree_returns,
)
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup

MARKERS = ("However", "Therefore", "So", "But", "Wait")
"""Words at which VSRM cuts a chain of thought."""


class Steps(NamedTuple):
    """What each step changed, and what it is paid."""

    diff: tuple[float, ...]
    """Accuracy after the step minus accuracy before it."""
    reward: tuple[float, ...]
    """The difference; of a step that changed nothing, a discounted one that comes soon."""


def vsrm(accuracy: Sequence[float], *, gamma: float = 0.7, window: int = 1, tie: float = 0.0) -> Steps:
    """``d_k = acc_{k+1} - acc_k``; where d is 0, the next d that is not, at most `window` steps on, times ``gamma^distance``.

    Accuracies (.25, .25, .75, .75), gamma .7, window 1: d (0, .5, 0), rewards (.35, .5, 0). Window, gamma and tie are not
    published; the defaults are those of the paper's example.   Source: VSRM, arXiv 2508.10293; formula [vsrm].

    Args:
        accuracy: at every cut, the beginning and the end included.
        gamma: discount per step of distance, in [0, 1].
        window: how many steps to look ahead, at least 0.
        tie: a difference of at most this size is none.
    """
    diff = tuple(after - before for before, after in pairwise(accuracy))
    moved = [abs(d) > tie for d in diff]
    rewards: list[float] = []
    for k, d in enumerate(diff):
        ahead = range(k + 1, min(k + window, len(diff) - 1) + 1)
        nearest = None if moved[k] else next((j for j in ahead if moved[j]), None)
        rewards.append(d if moved[k] else 0.0 if nearest is None else diff[nearest] * gamma ** (nearest - k))
    return Steps(diff, tuple(rewards))


def thought_cuts(text: str, *, markers: Sequence[str] = MARKERS, gap: int = 40, skip: int = 0) -> tuple[int, ...]:
    """Places to cut a chain of thought: sentences that begin with a marker word, at least `gap` characters apart.

    >>> thought_cuts("Add 2 and 3. So 5. However, 6. Sofas.", gap=4)
    (13, 19)

    Args:
        text: the thought.
        markers: words that begin a step.
        gap: characters between two cuts, and between the start and the first; ours.
        skip: characters of the start that only restate the question.
    """
    found: list[int] = []
    last, fresh = skip, True
    for i, c in enumerate(text):
        begins = fresh and c.isalnum()
        word = next(
            (m for m in markers if begins and text.startswith(m, i) and not text[i + len(m) : i + len(m) + 1].isalnum()), ""
        )
        if word and i - last >= gap and i >= skip:
            found.append(i)
            last = i
        fresh = c in ".!?\n" or (fresh and not c.isalnum())
    return tuple(found)


class VSRMCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="vsrm"):
    """Rewards-to-go of stepwise gains, with the episode's reward at the end, against a baseline.

    A step is a turn, or, as in the paper, what lies between marker words of a thought (`thought_cuts`). The paper warns that
    it needs advantages that are not divided by a group's spread.
    """

    rollouts: int = 4
    """Continuations played before each turn, at least 1; ours."""
    gamma: float = 0.7
    """Discount of a gain per step of distance, in [0, 1]; from the paper's example."""
    window: int = 1
    """How many steps ahead a step may share a gain; from the paper's example."""
    tie: float = 0.0
    """A change of at most this size is none; ours."""
    weight: float = 1.0
    """Factor on the stepwise rewards; ours."""
    pool: Pool = "turn"
    """Which turns, or steps of one number, are compared."""
    baseline: AnyBaseline = GroupMean()
    """What a return is compared with."""
    step: Literal["turn", "marker"] = "turn"
    """What a step is: a turn, or a piece of what a turn says, cut at marker words (plays on from inside turns)."""
    gap: int = 40
    """Characters between two cuts, at least 1; ours."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        at_least_one(self.rollouts, "vsrm rollouts")
        at_least_one(self.gap, "vsrm gap")
        if self.step == "marker" and self.pool == "state":
            raise ConfigError("vsrm compares pieces of turns, which have no state of their own; set pool to 'turn' or 'group'")
        if self.window < 0 or self.tie < 0 or not isfinite(self.weight):
            raise ConfigError(f"vsrm window {self.window!r} and tie {self.tie!r} must not be negative, weight be finite")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; plays ``rollouts`` continuations a step.

        Raises:
            ConfigError: there is no `rerun`, or one that cannot read what steps by markers need, or an episode forks.
        """
        play = need_rerun(rerun, "vsrm")
        kept = members(group, compared=compares(self.baseline)).kept
        if self.step == "marker":
            return await self._by_markers(group, kept, play)
        rows = await asyncio.gather(*(self._returns(group.episodes[e], play) for e in kept))
        return pooled_credit(group, dict(zip(kept, rows, strict=True)), self.pool, self.baseline)

    async def _by_markers(self, group: EpisodeGroup, kept: Sequence[int], rerun: Rerun) -> Credit:
        reads = need_text(rerun, "vsrm")
        cuts: dict[int, list[tuple[int, int]]] = {}
        returns: dict[int, Sequence[float]] = {}
        for e in kept:
            _need_chain(group.episodes[e], "vsrm")
            cuts[e] = text_cuts(group.episodes[e], reads, partial(thought_cuts, gap=self.gap))
        played = await asyncio.gather(*(self._values(group.episodes[e], cuts[e], rerun) for e in kept))
        for e, values in zip(kept, played, strict=True):
            returns[e] = self._paid(group.episodes[e], values)
        keys = {e: [str(j) if self.pool == "turn" else "all" for j in range(len(row))] for e, row in returns.items()}
        found = pooled_advantages(returns, keys, self.baseline)
        return token_credit(group, {e: spread_cuts(group.episodes[e], cuts[e], found[e]) for e in kept})

    async def _values(self, episode: Episode, cuts: Sequence[tuple[int, int]], rerun: Rerun) -> list[float]:
        played = await asyncio.gather(*(play_from(rerun, episode, at, self.rollouts) for at in cuts))
        return [sum(r) / len(r) for r in played] + [value_of(episode)]

    async def _returns(self, episode: Episode, rerun: Rerun) -> tuple[float, ...]:
        _need_chain(episode, "vsrm")
        return self._paid(episode, await mean_rewards(episode, rerun, self.rollouts))

    def _paid(self, episode: Episode, accuracy: Sequence[float]) -> tuple[float, ...]:
        rewards = [self.weight * r for r in vsrm(accuracy, gamma=self.gamma, window=self.window, tie=self.tie).reward]
        if rewards:
            rewards[-1] += value_of(episode)
        return tree_returns(rewards, chain(len(rewards)), 1.0)


class Potential(NamedTuple):
    """Where a chain of steps stands."""

    phi: tuple[float, ...]
    """Per step, in [-1, 1.5]: right and sure is high, wrong and sure is low."""
    solved: tuple[bool, ...]
    """Per step, whether phi exceeds the threshold."""


def spae(acc: Sequence[float], conf: Sequence[float], *, threshold: float = 0.9) -> Potential:
    """``phi = 1.5 acc conf + .5 acc - conf``; solved where phi exceeds `threshold`.

    Accuracy .8 and confidence .5: .5; both 1: 1.   Source: SPAE, arXiv 2601.03823; formula [spae].

    Args:
        acc: per step, chance to be right, in [0, 1].
        conf: per step, how sure the policy is, in [0, 1].
        threshold: what counts as solved.
    """
    phi = tuple(1.5 * a * c + 0.5 * a - c for a, c in zip(acc, conf, strict=True))
    return Potential(phi, tuple(p > threshold for p in phi))


class SPAECredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="spae"):
    """``A = A_group + xi * (phi after the turn - phi before it)``, less a penalty for every turn after the episode was solved.

    The paper's f and g, which scale both parts, are not published: here 1 and the identity, and xi and the penalty are ours.
    Confidence is the share of the commonest reward among the continuations (ours; the paper asks for the answers' agreement).
    """

    rollouts: int = 8
    """Continuations played before each turn, at least 1; ours."""
    xi: float = 0.5
    """Weight of the potential's change; ours."""
    threshold: float = 0.9
    """Potential from which on the episode counts as solved."""
    penalty: float = 0.1
    """Taken from the credit of every turn after that, at least 0; ours."""
    baseline: AnyBaseline = GroupMean()
    """What an episode's reward is compared with."""

    def __post_init__(self) -> None:
        at_least_one(self.rollouts, "spae rollouts")
        if not isfinite(self.xi) or self.penalty < 0:
            raise ConfigError(f"spae xi {self.xi!r} must be finite and penalty {self.penalty!r} not negative")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; plays ``rollouts`` continuations a turn. Rewards must lie in [0, 1].

        Raises:
            ConfigError: there is no `rerun`, or an episode forks.
        """
        play = need_rerun(rerun, "spae")
        advantages = episode_advantages(group, self.baseline)
        rows = await asyncio.gather(*(self._turns(group.episodes[e], play) for e in advantages))
        found = {e: [a + s for s in row] for (e, a), row in zip(advantages.items(), rows, strict=True)}
        return turn_credit(group, found, given_up(group, self.baseline))

    async def _turns(self, episode: Episode, rerun: Rerun) -> list[float]:
        _need_chain(episode, "spae")
        n = len(episode.turns)
        played = await asyncio.gather(*(rerun(episode, k, self.rollouts) for k in range(n)))
        acc = [sum(r) / len(r) for r in played] + [value_of(episode)]
        conf = [Counter(r).most_common(1)[0][1] / len(r) for r in played] + [1.0]
        found = spae(acc, conf, threshold=self.threshold)
        # A turn that begins where the episode was solved already only checks again.
        late = [any(found.solved[: k + 1]) for k in range(n)]
        change = [after - before for before, after in pairwise(found.phi)]
        return [self.xi * c - self.penalty * is_late for c, is_late in zip(change, late, strict=True)]


def _need_chain(episode: Episode, rule: str) -> None:
    if not is_chain(episode):
        raise ConfigError(f"{rule} reads chains of turns and episode {episode.id!r} forks; choose 'tree'")
