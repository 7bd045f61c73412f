"""Uncertainty as credit: sure steps count more, unsure acts alone are trained, failures are told apart by how unsure they were.

Entropies are those of the distribution actually sampled from, as the policy reports them with every token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp, fsum, isfinite, log
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupMean, GroupStandard, LeaveOneOut, compares
from phronesis.credit.baselines.trajectory import episode_advantages, given_up
from phronesis.credit.rule import CreditRule, Rerun, TokenValues, members, value_of
from phronesis.credit.side import turn_credit
from phronesis.credit.turnwise.turns import chain, pooled_credit, successors
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup, Turn


def empg(
    entropies: Sequence[Sequence[float]],
    advantages: Sequence[float],
    *,
    k: float = 1.0,
    k_f: float = 1.0,
    zeta: float = 0.1,
    before: Sequence[Sequence[int | None]] | None = None,
) -> list[list[float]]:
    """``A_t = A g(H_t) + zeta f(H_{t+1})``, ``g = exp(-k H) / mean exp(-k H)``, ``f = exp(-k_f H)``; no f on last steps.

    H is the step's entropy, brought to [0, 1] by minimum and maximum over all steps of the batch (plus 1e-8 below the line);
    the mean is over the same steps. Entropies (.2, .5, 1), advantage 1: (1.528463, 1.040048, .537006). Biased. A final
    re-centring over the batch, which some texts mention, is not done.   Source: EMPG, arXiv 2509.09265; formula [empg].

    Args:
        entropies: per episode, per step, nats.
        advantages: one per episode.
        k: how strongly sure steps are preferred, at least 0.
        k_f: how strongly a sure next step is preferred, at least 0.
        zeta: weight of the next step's part.
        before: per episode, the step each one follows, where steps are no chain; where an episode forks, the mean of f over the
            branches counts.
    """
    steps = [h for row in entropies for h in row]
    if not steps:
        return [[] for _ in entropies]
    low, span = min(steps), max(steps) - min(steps) + 1e-8
    scaled = [[(h - low) / span for h in row] for row in entropies]
    mean = fsum(exp(-k * h) for row in scaled for h in row) / len(steps)
    found: list[list[float]] = []
    for i, (row, advantage) in enumerate(zip(scaled, advantages, strict=True)):
        bonus = [zeta * exp(-k_f * h) for h in row]
        after = successors(chain(len(row)) if before is None else before[i])
        ahead = [fsum(bonus[j] for j in js) / len(js) if js else 0.0 for js in after]
        found.append([advantage * exp(-k * h) / mean + f for h, f in zip(row, ahead, strict=True)])
    return found


def critical(entropies: Sequence[float], share: float) -> tuple[bool, ...]:
    """The `share` of steps with the highest entropy, at least one; of equals the earlier.

    >>> critical([0.1, 0.9, 0.5, 0.2], 0.5)
    (False, True, True, False)
    """
    count = max(1, ceil(share * len(entropies)))
    chosen = sorted(range(len(entropies)), key=lambda i: (-entropies[i], i))[:count]
    return tuple(i in chosen for i in range(len(entropies)))


class Uncertainty(NamedTuple):
    """Three measures of one distribution, each in [0, 1], and their mean."""

    norm_entropy: float
    """Entropy over the largest possible one."""
    one_minus_max: float
    """One minus the likeliest token's probability."""
    one_minus_margin: float
    """One minus the lead of the likeliest over the second."""
    mean: float
    """Their mean: equal weights, since the paper's are not published."""


def uncertainty(probabilities: Sequence[float]) -> Uncertainty:
    """How unsure a distribution is.   Source: SELAUR, arXiv 2602.21158; formula [selaur].

    Probabilities (.7, .2, .1): .729847, .3, .5, mean .509949. A single token: all 0.

    Args:
        probabilities: of all tokens there are, adding up to 1.
    """
    p = sorted(probabilities, reverse=True)
    if len(p) < 2:
        return Uncertainty(0.0, 0.0, 0.0, 0.0)
    return measured(fsum(-q * log(q) for q in p if q > 0), p[0], p[1], len(p))


def measured(entropy: float, first: float, second: float, vocabulary: int) -> Uncertainty:
    """The same from what it is made of.

    Args:
        entropy: nats.
        first: largest probability.
        second: second largest.
        vocabulary: number of tokens, at least 2.
    """
    parts = entropy / log(vocabulary), 1.0 - first, 1.0 - (first - second)
    return Uncertainty(*parts, fsum(parts) / 3)


def deciding(episode: Episode) -> tuple[int, ...]:
    """Turns with a sampled token: the others were forced, so nobody was sure or unsure there."""
    return tuple(k for k, turn in enumerate(episode.turns) if any(turn.sampled))


def followed(episode: Episode, turns: Sequence[int]) -> list[int | None]:
    """Which of some turns each of them follows, by its place among them, across turns that are not among them."""
    place, before = {k: i for i, k in enumerate(turns)}, episode.before
    found: list[int | None] = []
    for k in turns:
        at = before[k]
        while at is not None and at not in place:
            at = before[at]
        found.append(None if at is None else place[at])
    return found


def turn_entropy(turn: Turn) -> float:
    """Mean entropy of a turn's sampled tokens, nats; 0 when none was sampled.

    Raises:
        ConfigError: the policy reports no entropies.
    """
    if turn.entropies is None:
        raise ConfigError(
            "this credit rule reads Turn.entropies and the policy reports none; play with an engine that does, "
            "or choose a rule that reads rewards only, e.g. 'trajectory'"
        )
    sampled = [h for h, s in zip(turn.entropies, turn.sampled, strict=True) if s]
    return fsum(sampled) / len(sampled) if sampled else 0.0


class EMPGCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="empg"):
    """The episode's advantage, larger where the policy was sure, plus a bonus for leading to a step it is sure of.

    Settles over the step: entropies are compared over all groups. A step is a turn with a sampled token. See `empg`.
    """

    k: float = 1.0
    """How strongly sure turns are preferred, at least 0."""
    k_f: float = 1.0
    """How strongly a sure next turn is preferred, at least 0."""
    zeta: float = 0.1
    """Weight of the next turn's part."""
    baseline: AnyBaseline = GroupStandard()
    """What an episode's reward is compared with."""

    def __post_init__(self) -> None:
        if not (isfinite(self.zeta) and 0 <= self.k < 700 and 0 <= self.k_f < 700):
            raise ConfigError(f"empg k {self.k!r} and k_f {self.k_f!r} must lie in [0, 700), zeta {self.zeta!r} be finite")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """The episodes' advantages, before `settle`; `rerun` is not used."""
        advantages = episode_advantages(group, self.baseline)
        by_turn = {e: [a] * len(group.episodes[e].turns) for e, a in advantages.items()}
        return turn_credit(group, by_turn, given_up(group, self.baseline))

    def settle(self, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> list[Credit]:
        """The advantages, weighted by entropies compared over the whole step. Groups without variance stay at 0 (ours).

        Raises:
            ConfigError: the policy reports no entropies.
        """
        live = [(g, group) for g, (group, c) in enumerate(zip(groups, credits, strict=True)) if not c.zero_variance]
        places = [(g, e, a) for g, group in live for e, a in episode_advantages(group, self.baseline).items()]
        steps = [deciding(groups[g].episodes[e]) for g, e, _ in places]
        entropies = [
            [turn_entropy(groups[g].episodes[e].turns[k]) for k in ks] for (g, e, _), ks in zip(places, steps, strict=True)
        ]
        before = [followed(groups[g].episodes[e], ks) for (g, e, _), ks in zip(places, steps, strict=True)]
        rows = empg(entropies, [a for _, _, a in places], k=self.k, k_f=self.k_f, zeta=self.zeta, before=before)
        found: dict[int, dict[int, list[float]]] = {g: {} for g, _ in live}
        for (g, e, _), ks, row in zip(places, steps, rows, strict=True):
            found[g][e] = [0.0] * len(groups[g].episodes[e].turns)
            for k, a in zip(ks, row, strict=True):
                found[g][e][k] = a
        settled = list(credits)
        for g, group in live:
            settled[g] = turn_credit(group, found[g])
        return settled


class CriticalCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="critical"):
    """The episode's advantage on its most uncertain turns, 0 on the others.

    Source: CARL, arXiv 2512.04949, which takes entropy as the sign of a critical action and leaves the others out. The paper
    also branches at critical states to judge each action apart, which is the work of whoever plays; combine it with `tree`.
    Biased: certain turns are never unlearnt.
    """

    share: float = 0.4
    """Share of an episode's turns with sampled tokens that are trained, in (0, 1]; at least one turn; ours."""
    baseline: AnyBaseline = LeaveOneOut()
    """What an episode's reward is compared with."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"critical share {self.share!r} must lie in (0, 1]")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used.

        Raises:
            ConfigError: the policy reports no entropies.
        """
        by_turn: dict[int, list[float]] = {}
        for e, advantage in episode_advantages(group, self.baseline).items():
            steps = deciding(group.episodes[e])
            chosen = critical([turn_entropy(group.episodes[e].turns[k]) for k in steps], self.share)
            trained = {k for k, c in zip(steps, chosen, strict=True) if c}
            by_turn[e] = [advantage if k in trained else 0.0 for k in range(len(group.episodes[e].turns))]
        return turn_credit(group, by_turn, given_up(group, self.baseline))


class Doubts(Protocol):
    """How unsure the policy was at each token; handed to rules that ask for it by `NeedsDoubts`."""

    def __call__(self, group: EpisodeGroup) -> dict[int, TokenValues]:
        """`Uncertainty.mean` of the distribution each token was sampled from, by the index of the episodes that count; 0 at
        forced tokens."""
        ...


@runtime_checkable
class NeedsDoubts(Protocol):
    """A credit rule that may read more of the policy's distributions than the records keep."""

    def with_doubts(self, doubts: Doubts) -> CreditRule:
        """The same rule, able to assign credit; itself where the records suffice."""
        ...


class SELAURCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="selaur"):
    """Failures earn a little for having been unsure, at the turn where they were; successes earn their reward only.

    A failed episode's turn k has return ``R + weight * (u_k + mean u)``, u_k the mean uncertainty of its sampled tokens and the
    other mean over turns. Source: arXiv 2602.21158: three measures a token (`uncertainty`), averaged to steps and episodes,
    added to rewards of failures only. Ours: the three count alike, the weight, the sum of step and episode. Records keep
    entropies alone, so ``measures = "entropy"`` reads the first measure only (ours); ``"three"`` has the policy compute its
    distributions again, one forward pass. Risk: a policy may learn to doubt after failing; hold it against the entropy of
    failures.
    """

    vocabulary: int
    """Number of tokens the policy chooses from, at least 2."""
    success: float = 1.0
    """A reward of at least this is no failure."""
    weight: float = 0.1
    """Reward for full uncertainty, at least 0; ours."""
    measures: Literal["entropy", "three"] = "entropy"
    """What uncertainty is: entropy alone, as recorded, or the mean of the source's three measures."""
    baseline: AnyBaseline = GroupMean()
    """What a turn's return is compared with, over all turns of the group."""

    def __post_init__(self) -> None:
        if self.vocabulary < 2 or not (isfinite(self.weight) and self.weight >= 0):
            raise ConfigError(f"selaur vocabulary {self.vocabulary!r} must be at least 2, weight {self.weight!r} at least 0")

    def with_doubts(self, doubts: Doubts) -> CreditRule:
        """The rule with what the policy computes of its distributions; itself where entropies suffice."""
        return self if self.measures == "entropy" else _Doubting(self, doubts)

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used.

        Raises:
            ConfigError: the policy reports no entropies, or all three measures are asked of records.
        """
        if self.measures == "three":
            raise ConfigError(
                'selaur measures "three" needs whole distributions, which records do not keep; train with it, or take "entropy"'
            )
        most = log(self.vocabulary)
        unsure = {
            e: [turn_entropy(t) / most for t in group.episodes[e].turns]
            for e in members(group, compared=compares(self.baseline)).kept
            if value_of(group.episodes[e]) < self.success
        }
        return self.credit(group, unsure)

    def credit(self, group: EpisodeGroup, unsure: Mapping[int, Sequence[float]]) -> Credit:
        """Credit of one group from how unsure each turn of its failures was, by the episode's index."""
        kept = members(group, compared=compares(self.baseline)).kept
        returns = {e: self._returns(group.episodes[e], unsure.get(e, ())) for e in kept}
        return pooled_credit(group, returns, "group", self.baseline)

    def _returns(self, episode: Episode, steps: Sequence[float]) -> list[float]:
        reward = value_of(episode)
        if reward >= self.success:
            return [reward] * len(episode.turns)
        unsure = [steps[k] for k in deciding(episode)]
        mean = fsum(unsure) / len(unsure) if unsure else 0.0
        return [reward + self.weight * (u + mean) for u in steps]


@dataclass(frozen=True)
class _Doubting:
    """`SELAURCredit` over the policy's own distributions."""

    config: SELAURCredit
    """Settings."""
    doubts: Doubts
    """How unsure the policy was."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        unsure: dict[int, list[float]] = {}
        for e, rows in self.doubts(group).items():
            pairs = zip(group.episodes[e].turns, rows, strict=True)
            unsure[e] = [fsum(row) / max(sum(t.sampled), 1) for t, row in pairs]
        return self.config.credit(group, unsure)
