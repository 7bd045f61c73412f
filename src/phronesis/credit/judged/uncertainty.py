"""Uncertainty as credit: sure steps count more, unsure acts alone are trained, failures are told apart by how unsure they were.

Entropies are those of the distribution actually sampled from, as the policy reports them with every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, fsum, isfinite, log
from typing import NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupMean, GroupStandard, LeaveOneOut
from phronesis.credit.baselines.trajectory import episode_advantages
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.credit.side import turn_credit
from phronesis.credit.turnwise.turns import pool_keys, pooled_advantages
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup, Turn


def empg(
    entropies: Sequence[Sequence[float]],
    advantages: Sequence[float],
    *,
    k: float = 1.0,
    k_f: float = 1.0,
    zeta: float = 0.1,
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
    """
    steps = [h for row in entropies for h in row]
    if not steps:
        return [[] for _ in entropies]
    low, span = min(steps), max(steps) - min(steps) + 1e-8
    scaled = [[(h - low) / span for h in row] for row in entropies]
    mean = fsum(exp(-k * h) for row in scaled for h in row) / len(steps)
    found: list[list[float]] = []
    for row, advantage in zip(scaled, advantages, strict=True):
        after = [zeta * exp(-k_f * h) for h in row[1:]] + [0.0] * bool(row)
        found.append([advantage * exp(-k * h) / mean + f for h, f in zip(row, after, strict=True)])
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
    parts = fsum(-q * log(q) for q in p if q > 0) / log(len(p)), 1.0 - p[0], 1.0 - (p[0] - p[1])
    return Uncertainty(*parts, fsum(parts) / 3)


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

    Settles over the step: entropies are compared over all groups. A step is a turn. See `empg`.
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
        return turn_credit(group, {e: [a] * len(group.episodes[e].turns) for e, a in advantages.items()})

    def settle(self, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> list[Credit]:
        """The advantages, weighted by entropies compared over the whole step. Groups without variance stay at 0 (ours).

        Raises:
            ConfigError: the policy reports no entropies.
        """
        live = [(g, group) for g, (group, c) in enumerate(zip(groups, credits, strict=True)) if not c.zero_variance]
        places = [(g, e, a) for g, group in live for e, a in episode_advantages(group, self.baseline).items()]
        entropies = [[turn_entropy(t) for t in groups[g].episodes[e].turns] for g, e, _ in places]
        rows = empg(entropies, [a for _, _, a in places], k=self.k, k_f=self.k_f, zeta=self.zeta)
        settled = list(credits)
        for g, group in live:
            settled[g] = turn_credit(group, {e: row for (at, e, _), row in zip(places, rows, strict=True) if at == g})
        return settled


class CriticalCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="critical"):
    """The episode's advantage on its most uncertain turns, 0 on the others.

    Source: CARL, arXiv 2512.04949, which takes entropy as the sign of a critical action and leaves the others out. The paper
    also branches at critical states to judge each action apart, which is the work of whoever plays; combine it with `tree`.
    Biased: certain turns are never unlearnt.
    """

    share: float = 0.4
    """Share of an episode's turns that are trained, in (0, 1]; at least one turn; ours."""
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
            chosen = critical([turn_entropy(t) for t in group.episodes[e].turns], self.share)
            by_turn[e] = [advantage if c else 0.0 for c in chosen]
        return turn_credit(group, by_turn)


class SELAURCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="selaur"):
    """Failures earn a little for having been unsure, at the turn where they were; successes earn their reward only.

    A failed episode's turn k has return ``R + weight * (u_k + mean u)``, u the mean entropy over the largest possible one.
    The records keep no whole distributions, so only the first of the three measures of `uncertainty` is used (ours), and the
    weight is ours. Risk: a policy may learn to doubt after failing; hold it against the entropy of failures.
    """

    vocabulary: int
    """Number of tokens the policy chooses from, at least 2."""
    success: float = 1.0
    """A reward of at least this is no failure."""
    weight: float = 0.1
    """Reward for full uncertainty, at least 0; ours."""
    baseline: AnyBaseline = GroupMean()
    """What a turn's return is compared with, over all turns of the group."""

    def __post_init__(self) -> None:
        if self.vocabulary < 2 or not (isfinite(self.weight) and self.weight >= 0):
            raise ConfigError(f"selaur vocabulary {self.vocabulary!r} must be at least 2, weight {self.weight!r} at least 0")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used.

        Raises:
            ConfigError: the policy reports no entropies.
        """
        rows = {e: self._returns(group.episodes[e]) for e in members(group).kept}
        keys = {e: pool_keys(group.episodes[e], "group") for e in rows}
        return turn_credit(group, pooled_advantages(rows, keys, self.baseline))

    def _returns(self, episode: Episode) -> list[float]:
        reward = value_of(episode)
        if reward >= self.success:
            return [reward] * len(episode.turns)
        steps = [turn_entropy(t) / log(self.vocabulary) for t in episode.turns]
        mean = fsum(steps) / len(steps) if steps else 0.0
        return [reward + self.weight * (u + mean) for u in steps]
