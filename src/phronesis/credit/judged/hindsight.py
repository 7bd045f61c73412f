"""Hindsight: knowing how it ended, would the policy have done this more often, or less?

Source: hindsight credit assignment, arXiv 1912.02503; HCAPO, arXiv 2603.08754; CoARS, arXiv 2604.10029; formula [hca].
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import exp, fsum, inf, isfinite, log

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupMean, LeaveOneOut
from phronesis.credit.baselines.trajectory import episode_advantages, given_up
from phronesis.credit.rule import Rerun, members, value_of
from phronesis.credit.side import POLICY, hindsight_logprobs, token_credit, turn_credit
from phronesis.credit.turnwise.turns import check_gamma, discounted_returns
from phronesis.errors import ConfigError
from phronesis.records import Credit, Episode, EpisodeGroup

HINT = "In the end this attempt earned a reward of {reward}."
"""What the policy is told by default; ours."""


def hca(pi: float, h: float, ret: float) -> float:
    """``(1 - pi / h) R``: an action the outcome makes likelier than it was gets part of the return.   Formula [hca].

    >>> hca(0.25, 0.5, 1.0)
    0.5

    Args:
        pi: probability of the action, in [0, 1].
        h: probability of the action knowing the outcome, above 0; at 0 an action that was taken gets minus infinity times R.
        ret: the return.
    """
    if h == 0:
        return 0.0 if ret == 0 or pi == 0 else -inf * ret
    return (1.0 - pi / h) * ret


def hindsight_ratios(gains: Sequence[float], *, most: float = 2.0) -> tuple[float, ...]:
    """``h / pi`` per action, divided by its mean over the episode and then clipped to ``[1/most, most]``.

    HCAPO's rho, self-normalised; its clip is not published, this one is ours.   Source: arXiv 2603.08754.
    Gains (log 3, 0): ratios (3, 1), over their mean (1.5, .5).

    Args:
        gains: ``log h - log pi`` per action, nats.
        most: largest ratio, at least 1.
    """
    if not gains:
        return ()
    top = max(gains)
    ratios = [exp(g - top) for g in gains]
    mean = fsum(ratios) / len(ratios)
    return tuple(min(max(r / mean, 1.0 / most), most) for r in ratios)


def self_distilled(
    advantage: float, hindsight: Sequence[float], logprobs: Sequence[float], *, lam: float = 1.0, most: float = inf
) -> tuple[float, ...]:
    """``A + lam * (log pi(a | s, hindsight) - log pi(a | s))`` per token, the difference clipped to ``[-most, most]``.

    The model that knows how it ended teaches the one that did not. CoARS publishes no formula; this one is ours.
    A 1, differences .5 and -.25, lam 1: (1.5, .75).

    Args:
        advantage: of the episode.
        hindsight: nats per token, given the outcome.
        logprobs: nats per token, as sampled.
        lam: weight of the difference.
        most: largest size of a difference, nats.
    """
    return tuple(advantage + lam * min(max(h - p, -most), most) for h, p in zip(hindsight, logprobs, strict=True))


async def _gains(episode: Episode, path: str, rule: str, rerun: Rerun | None, hint: str) -> list[float]:
    """Per turn, the mean over its sampled tokens of ``log h - log pi``; 0 where none was sampled."""
    rows = await hindsight_logprobs(episode, path, rule, rerun, hint)
    found: list[float] = []
    for turn, row in zip(episode.turns, rows, strict=True):
        parts = [h - p for h, p, s in zip(row, turn.logprobs, turn.sampled, strict=True) if s]
        found.append(fsum(parts) / len(parts) if parts else 0.0)
    return found


class HindsightCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="hindsight"):
    """HCAPO: the group advantage plus the turn's discounted return times its hindsight ratio, centred on the episode.

    ``A = A_group + weight * (rho_t - 1) G_t``. Ratios are per token (geometric mean over the turn's sampled tokens), since
    those of whole turns leave every range; that, the centring, the weight and the clip are ours.
    """

    judge: str = POLICY
    """``policy``, or an async function ``(episode, turn) -> nats per token, knowing the outcome``; see `TokenJudge`."""
    hint: str = HINT
    """What the policy is told; ``{reward}`` stands for the reward; ours."""
    weight: float = 1.0
    """Weight of the hindsight part, at least 0; ours."""
    most: float = 2.0
    """Largest hindsight ratio, at least 1; ours."""
    gamma: float = 1.0
    """Discount per turn, in [0, 1]."""
    baseline: AnyBaseline = GroupMean()
    """What an episode's reward is compared with."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)
        if not (isfinite(self.weight) and self.weight >= 0):
            raise ConfigError(f"hindsight weight {self.weight!r} must be a number of at least 0")
        if not self.most >= 1:
            raise ConfigError(f"hindsight most {self.most!r} must be at least 1")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` gives the policy to ask.

        Raises:
            ConfigError: there is no judge, or nobody gives the policy.
        """
        advantages = episode_advantages(group, self.baseline)
        rows = await asyncio.gather(*(_gains(group.episodes[e], self.judge, "hindsight", rerun, self.hint) for e in advantages))
        by_turn: dict[int, list[float]] = {}
        for (e, advantage), gains in zip(advantages.items(), rows, strict=True):
            returns = discounted_returns(group.episodes[e], self.gamma)
            ratios = hindsight_ratios(gains, most=self.most)
            by_turn[e] = [advantage + self.weight * (rho - 1.0) * g for rho, g in zip(ratios, returns, strict=True)]
        return turn_credit(group, by_turn, given_up(group, self.baseline))


class HCACredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="hca"):
    """``(1 - pi / h) R`` for every turn, with probabilities per token (geometric mean over its sampled tokens; ours).

    A turn that the outcome says nothing about (h = pi) gets 0. See `hca`.
    """

    judge: str = POLICY
    """``policy``, or an async function ``(episode, turn) -> nats per token, knowing the outcome``; see `TokenJudge`."""
    hint: str = HINT
    """What the policy is told; ``{reward}`` stands for the reward; ours."""
    most: float = 5.0
    """Largest ``pi / h``, at least 1; ours."""

    def __post_init__(self) -> None:
        if not self.most >= 1:
            raise ConfigError(f"hca most {self.most!r} must be at least 1")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` gives the policy to ask.

        Raises:
            ConfigError: there is no judge, or nobody gives the policy.
        """
        kept = members(group, compared=False).kept
        rows = await asyncio.gather(*(_gains(group.episodes[e], self.judge, "hca", rerun, self.hint) for e in kept))
        least = -log(self.most)
        by_turn: dict[int, list[float]] = {}
        for e, gains in zip(kept, rows, strict=True):
            by_turn[e] = [hca(1.0, exp(max(gain, least)), value_of(group.episodes[e])) for gain in gains]
        return turn_credit(group, by_turn)


class SelfDistilledCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="self_distilled"):
    """The episode's advantage plus, per token, how much likelier the same model finds it once it knows how it ended.

    See `self_distilled`; weight and clip are ours. The control is the hindsight of another episode, which must not help.
    """

    judge: str = POLICY
    """``policy``, or an async function ``(episode, turn) -> nats per token, knowing the outcome``; see `TokenJudge`."""
    hint: str = HINT
    """What the policy is told; ``{reward}`` stands for the reward; ours."""
    lam: float = 1.0
    """Weight of the difference; ours."""
    most: float = 1.0
    """Largest size of a difference, nats, above 0; ours."""
    baseline: AnyBaseline = LeaveOneOut()
    """What an episode's reward is compared with."""

    def __post_init__(self) -> None:
        if not (isfinite(self.lam) and self.most > 0):
            raise ConfigError(f"self_distilled lam {self.lam!r} must be finite and most {self.most!r} above 0")

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` gives the policy to ask.

        Raises:
            ConfigError: there is no judge, or nobody gives the policy.
        """
        advantages = episode_advantages(group, self.baseline)
        rows = await asyncio.gather(
            *(hindsight_logprobs(group.episodes[e], self.judge, "self_distilled", rerun, self.hint) for e in advantages)
        )
        found: dict[int, list[tuple[float, ...]]] = {}
        for (e, advantage), judged in zip(advantages.items(), rows, strict=True):
            turns = zip(group.episodes[e].turns, judged, strict=True)
            found[e] = [self_distilled(advantage, row, t.logprobs, lam=self.lam, most=self.most) for t, row in turns]
        return token_credit(group, found)
