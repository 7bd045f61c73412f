"""Advantages that know how long an episode is: OPO's baseline weighted by length, and a penalty on length."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import ClassVar, NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.group import GroupMean
from phronesis.credit.baselines.trajectory import tile
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup


class OPO(NamedTuple):
    """A group's baseline and advantages."""

    baseline: float
    """What every reward is compared with."""
    advantages: tuple[float, ...]
    """One per reward."""


def opo(rewards: Sequence[float], lengths: Sequence[int]) -> OPO:
    """Each reward minus the mean of the group's rewards, weighted by length: ``b = sum |y| r / sum |y|``.

    The baseline of least variance if a sequence's squared gradient grows with its length. Biased in a finite group, since the
    baseline contains the reward itself. Equal rewards give 0, as does a group of one; without any token all weigh the same.

    Source: OPO, arXiv 2505.23585; formula [opo].

    >>> opo([1.0, 0.0], [2, 4])
    OPO(baseline=0.3333333333333333, advantages=(0.6666666666666667, -0.3333333333333333))

    Args:
        rewards: of one group.
        lengths: sampled tokens of each, at least 0.
    """
    if not rewards:
        return OPO(0.0, ())
    if min(rewards) == max(rewards):
        return OPO(rewards[0], (0.0,) * len(rewards))
    weights = lengths if any(lengths) else [1] * len(rewards)
    baseline = fsum(n * r for n, r in zip(weights, rewards, strict=True)) / sum(weights)
    return OPO(baseline, tuple(r - baseline for r in rewards))


class Lengths(NamedTuple):
    """How long one episode was."""

    output: float
    """Sampled tokens."""
    input: float
    """Tokens that were given."""
    turns: float
    """Policy calls."""


def penalised(rewards: Sequence[float], lengths: Sequence[Lengths], weights: Lengths) -> tuple[float, ...]:
    """Rewards less a penalty on length relative to the group's longest, minus their mean.

    ``s = r - mean(r) (w_o out/max out + w_i in/max in + w_t turns/max turns)``, ``A = s - mean(s)``, each maximum at least 1.
    The penalty grows with the success of the group, so that it does not teach to give up. Fewer than two give 0.

    Source: prime-rl; formula [len-penalty]. Rewards [1, 1, 0], outputs 100, 200, 50, turns 1, 2, 4 with weights .1 and
    .05: [.35, .308333, -.658333].
    """
    if not rewards:
        return ()
    mean = fsum(rewards) / len(rewards)
    longest = [max(1.0, *(row[i] for row in lengths)) for i in range(3)]
    scores = [
        r - mean * fsum(w * x / top for w, x, top in zip(weights, row, longest, strict=True))
        for r, row in zip(rewards, lengths, strict=True)
    ]
    return GroupMean(singleton="zero").advantages(scores)


class OPOCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="opo"):
    """Every sampled token gets its episode's reward minus the group's mean weighted by sampled tokens.   See `opo`."""

    needs_siblings: ClassVar[bool] = True
    """A lone episode has nothing to be compared with."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        kept = members(group).kept
        episodes = [group.episodes[e] for e in kept]
        found = opo([value_of(e) for e in episodes], [e.sampled_tokens for e in episodes])
        return tile(group, dict(zip(kept, found.advantages, strict=True)))


class LengthPenaltyCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="length_penalty"):
    """Every sampled token gets its episode's penalised reward minus the group's mean.   See `penalised`."""

    output: float = 0.1
    """Weight of sampled tokens, at least 0; the default is ours."""
    input: float = 0.0
    """Weight of given tokens (prompts, replies), at least 0."""
    turns: float = 0.0
    """Weight of policy calls, at least 0."""
    needs_siblings: ClassVar[bool] = True
    """A lone episode has nothing to be compared with."""

    def __post_init__(self) -> None:
        if min(self.output, self.input, self.turns) < 0:
            raise ConfigError(f"length_penalty weights {(self.output, self.input, self.turns)!r} must not be negative")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        kept = members(group).kept
        episodes = [group.episodes[e] for e in kept]
        weights = Lengths(self.output, self.input, self.turns)
        found = penalised([value_of(e) for e in episodes], [_lengths(e) for e in episodes], weights)
        return tile(group, dict(zip(kept, found, strict=True)))


def _lengths(episode: Episode) -> Lengths:
    return Lengths(episode.sampled_tokens, episode.context_tokens, len(episode.turns))
