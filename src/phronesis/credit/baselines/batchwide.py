"""Advantages whose scale comes from the whole step: GPG, LitePPO, GDPO. All biased: the scale contains what it scales."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import fsum, sqrt
from typing import ClassVar, NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.group import Baseline, GroupMean, GroupStandard
from phronesis.credit.baselines.trajectory import episode_advantages, tile
from phronesis.credit.baselines.whitening import whiten
from phronesis.credit.rule import Rerun, members, sampled_values, spread_tokens, value_of
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup


def by_group(values: Sequence[float], groups: Sequence[Hashable], baseline: Baseline) -> list[float]:
    """A group baseline applied to each group apart; results in the order of the values. A group of one gives the baseline's
    own answer to it.

    >>> by_group([1.0, 0.0, 5.0, 7.0], ["a", "a", "b", "b"], GroupMean())
    [0.5, -0.5, -1.0, 1.0]
    """
    places: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        places.setdefault(group, []).append(i)
    found = [0.0] * len(values)
    for at in places.values():
        for i, advantage in zip(at, baseline.advantages([values[i] for i in at]), strict=True):
            found[i] = advantage
    return found


def deviation(values: Sequence[float]) -> float:
    """Bessel's standard deviation; 0 for fewer than two values, and exactly 0 for equal ones."""
    if len(values) < 2 or min(values) == max(values):
        return 0.0
    mean = fsum(values) / len(values)
    return sqrt(fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def z_scores(values: Sequence[float], *, eps: float = 1e-6) -> list[float]:
    """``(x - mean) / (std + eps)`` with Bessel's standard deviation; fewer than two values, or equal ones, give 0."""
    scale = deviation(values)
    if scale == 0:
        return [0.0] * len(values)
    mean = fsum(values) / len(values)
    return [(v - mean) / (scale + eps) for v in values]


class GPG(NamedTuple):
    """Advantages and the factor in them."""

    alpha: float
    """Samples of the step over samples in groups that vary; 0 when none varies."""
    advantages: list[float]
    """One per sample."""


def gpg(rewards: Sequence[float], groups: Sequence[Hashable]) -> GPG:
    """``alpha * (r - group mean)``: the step is not made smaller by groups that say nothing.

    Alpha is the number of samples over the number in groups that are not constant (verl divides by the number of rewards that
    are not 0 instead). Where no group varies everything is 0, alpha too.   Source: GPG, arXiv 2504.02546; formula [gpg].

    >>> gpg([1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1])
    GPG(alpha=2.0, advantages=[1.0, -1.0, 0.0, 0.0])
    """
    centred = by_group(rewards, groups, GroupMean(singleton="zero"))
    alive = {g for a, g in zip(centred, groups, strict=True) if a != 0}
    counted = sum(g in alive for g in groups)
    alpha = len(rewards) / counted if counted else 0.0
    return GPG(alpha, [alpha * a for a in centred])


def lite_ppo(rewards: Sequence[float], groups: Sequence[Hashable], *, eps: float = 1e-6) -> list[float]:
    """``(r - group mean) / (std of all rewards of the step + eps)``.

    Our reading of the scale: Bessel's deviation of the step's rewards, not of the centred ones.

    Source: LitePPO, arXiv 2508.08221; formula [lite-ppo]. Rewards [1, 0] and [1, 1], one group each: deviation .5,
    [1, -1, 0, 0] up to eps.
    """
    scale = deviation(rewards) + eps
    return [a / scale for a in by_group(rewards, groups, GroupMean(singleton="zero"))]


class GDPO(NamedTuple):
    """The two stages."""

    summed: list[float]
    """Per sample, the weighted sum of its rewards' z-scores within the group."""
    advantages: list[float]
    """Per sample, the z-score of `summed` over the step."""


def gdpo(
    rewards: Sequence[Sequence[float]],
    groups: Sequence[Hashable],
    weights: Sequence[float] | None = None,
    *,
    eps: float = 1e-6,
    batch_eps: float = 1e-6,
) -> GDPO:
    """Every reward dimension is z-scored in its group, the weighted sum of them once more over the step.

    Adding rewards first would map different combinations to equal advantages. The second z-score counts one value per sample.

    Source: GDPO, arXiv 2601.05242; formula [gdpo]. Dimensions [1, 0, 0] and [1, 1, 0] with eps 1e-4: summed
    [1.73175, 0, -1.73175].

    Args:
        rewards: per dimension, one number per sample.
        groups: the group of each sample.
        weights: one per dimension; None means 1 each.
        eps: added to a group's standard deviation, above 0.
        batch_eps: added to the step's, above 0.
    """
    factors = [1.0] * len(rewards) if weights is None else weights
    baseline = GroupStandard(eps=eps, singleton="zero")
    summed = [0.0] * len(groups)
    for factor, dimension in zip(factors, rewards, strict=True):
        scored = by_group(dimension, groups, baseline)
        summed = [s + factor * a for s, a in zip(summed, scored, strict=True)]
    return GDPO(summed, z_scores(summed, eps=batch_eps))


def gdpo_tokens(summed: Sequence[float], lengths: Sequence[int], *, eps: float = 1e-8) -> list[list[float]]:
    """verl's form of the second stage: `GDPO.summed` on every token of its sample, whitened over tokens, so that long samples
    count more."""
    return whiten([[s] * n for s, n in zip(summed, lengths, strict=True)], eps=eps)


class GPGCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="gpg"):
    """Every sampled token gets ``alpha * (reward - group mean)``.   See `gpg`."""

    needs_siblings: ClassVar[bool] = True
    """A lone episode has nothing to be compared with."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Reward minus the group's mean, alpha still 1; `rerun` is not used."""
        return tile(group, episode_advantages(group, GroupMean()))

    def settle(self, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> list[Credit]:
        """Multiplies by the step's alpha."""
        rewards, labels, places = _flat(groups)
        return _placed(groups, places, gpg(rewards, labels).advantages)


class LitePPOCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="lite_ppo"):
    """Every sampled token gets its reward minus the group's mean, over the step's deviation.   See `lite_ppo`.

    Meant with token-mean aggregation.
    """

    eps: float = 1e-6
    """Added to the standard deviation, above 0."""
    needs_siblings: ClassVar[bool] = True
    """A lone episode has nothing to be compared with."""

    def __post_init__(self) -> None:
        if self.eps <= 0:
            raise ConfigError(f"lite_ppo eps {self.eps!r} must be above 0")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Reward minus the group's mean, not yet scaled; `rerun` is not used."""
        return tile(group, episode_advantages(group, GroupMean()))

    def settle(self, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> list[Credit]:
        """Divides by the deviation of the step's rewards."""
        rewards, labels, places = _flat(groups)
        return _placed(groups, places, lite_ppo(rewards, labels, eps=self.eps))


class GDPOCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="gdpo"):
    """Several rewards, each on its own scale.   See `gdpo`.

    The dimensions are the reward components of a name; scores of one name add up over turns. An episode without a component
    that others have scores 0 there.
    """

    weights: dict[str, float] = {}
    """Component name -> weight; empty takes all components that are not audit, with their own weights."""
    eps: float = 1e-6
    """Added to a group's standard deviation, above 0."""
    batch_eps: float = 1e-6
    """Added to the step's standard deviation, above 0."""
    tokens: bool = False
    """Whiten over tokens instead of over samples (verl)."""
    needs_siblings: ClassVar[bool] = True
    """A lone episode has nothing to be compared with."""

    def __post_init__(self) -> None:
        if self.eps <= 0 or self.batch_eps <= 0:
            raise ConfigError(f"gdpo eps {self.eps!r} and batch_eps {self.batch_eps!r} must be above 0")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """The weighted sum of z-scores within the group, the first stage; `rerun` is not used."""
        episodes = [group.episodes[e] for e in members(group).kept]
        weights = self._weights(episodes)
        dimensions = [[_score(e, name) for e in episodes] for name in weights]
        found = gdpo(dimensions, [0] * len(episodes), list(weights.values()), eps=self.eps)
        return tile(group, dict(zip(members(group).kept, found.summed, strict=True)))

    def settle(self, groups: Sequence[EpisodeGroup], credits: Sequence[Credit]) -> list[Credit]:
        """The z-score over the step, the second stage. An episode without sampled tokens does not count."""
        found = [(g, e, row) for g, c in enumerate(credits) for e, row in sampled_values(groups[g], c).items() if row]
        summed = [row[0] for _, _, row in found]
        if self.tokens:
            rows = gdpo_tokens(summed, [len(row) for _, _, row in found])
        else:
            rows = [[a] * len(f[2]) for a, f in zip(z_scores(summed, eps=self.batch_eps), found, strict=True)]
        per_group = [{e: list[float]() for e in sampled_values(g, c)} for g, c in zip(groups, credits, strict=True)]
        for (g, e, _), row in zip(found, rows, strict=True):
            per_group[g][e] = row
        return [
            spread_tokens(group, by_token, zero_variance=not any(any(row) for row in by_token.values()))
            for group, by_token in zip(groups, per_group, strict=True)
        ]

    def _weights(self, episodes: Sequence[Episode]) -> Mapping[str, float]:
        if self.weights:
            return self.weights
        parts = [c for e in episodes if e.reward is not None for c in e.reward.components if not c.audit]
        return {c.name: c.weight for c in parts}


def _score(episode: Episode, name: str) -> float:
    parts = () if episode.reward is None else episode.reward.components
    return fsum(c.score for c in parts if c.name == name and not c.audit and c.score is not None)


def _flat(groups: Sequence[EpisodeGroup]) -> tuple[list[float], list[Hashable], list[tuple[int, int]]]:
    """Rewards of the step's kept episodes, the group of each, and where each lies."""
    places = [(g, e) for g, group in enumerate(groups) for e in members(group).kept]
    return [value_of(groups[g].episodes[e]) for g, e in places], [g for g, _ in places], places


def _placed(groups: Sequence[EpisodeGroup], places: Sequence[tuple[int, int]], values: Sequence[float]) -> list[Credit]:
    found: list[dict[int, float]] = [{} for _ in groups]
    for (g, e), value in zip(places, values, strict=True):
        found[g][e] = value
    return [tile(group, advantages) for group, advantages in zip(groups, found, strict=True)]
