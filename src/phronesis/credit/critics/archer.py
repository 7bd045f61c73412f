"""ArCHer: an off-policy critic over whole utterances, and advantages from twins of it.

Source: arXiv 2402.19446; formula [archer]. As published: gamma .9, target networks averaged with rate .1, critic learning
rate 1e-3, policy 1e-5, three epochs. The critic that learns so is `phronesis.train.twins.TwinCritic`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from phronesis.credit.critics.valued import OverValues
from phronesis.credit.rule import CreditRule, Rerun, UtteranceValues, members, spread
from phronesis.credit.turnwise.turns import check_gamma
from phronesis.records import Credit, Episode, EpisodeGroup


def archer_targets(
    rewards: Sequence[float], done: Sequence[bool], next_values: Sequence[float], *, gamma: float = 0.9
) -> list[float]:
    """What Q of an utterance learns towards: ``r + gamma (1 - done) V_target(next state)``.

    Reward 0, not done, next value .5: .45. The next value of a finished episode is not read.
    """
    return [r if d else r + gamma * v for r, d, v in zip(rewards, done, next_values, strict=True)]


def archer_advantages(q1: Sequence[float], q2: Sequence[float], v1: Sequence[float], v2: Sequence[float]) -> list[float]:
    """The more careful of two critics' Q minus the more careful of their V: ``min(Q1, Q2) - min(V1, V2)``.

    Q (.5, .7), V (.4, .3): .2. Biased low in Q and in V alike, so of unknown sign in their difference.
    """
    return [min(a, b) - min(c, d) for a, b, c, d in zip(q1, q2, v1, v2, strict=True)]


class Transition(NamedTuple):
    """What came of one utterance."""

    turn: int
    """Index into `Episode.turns`; a token of it was sampled."""
    reward: float
    """What it earned."""
    after: Mapping[int, float]
    """Turns that follow and their weights: one of weight 1, several where the episode forks, none at its end."""


def transitions(episode: Episode) -> list[Transition]:
    """The utterances of an episode in order.

    Two turns that earn 0 and 1: (turn 0, reward 0, after {1: 1}), (turn 1, reward 1, after {}). A turn without a sampled token
    takes no time: what it earned and what follows it belong to the turn before. Where the episode forks, branches count
    alike. An episode that a limit ended is over.
    """
    earned = episode.earned
    children: dict[int, list[int]] = defaultdict(list)
    for k, at in enumerate(episode.before):
        if at is not None:
            children[at].append(k)
    heads: dict[int, dict[int, float]] = {}
    owed: dict[int, float] = {}
    found: list[Transition] = []
    for k in reversed(range(len(episode.turns))):
        branches, after = children[k], defaultdict[int, float](float)
        for j in branches:
            for turn, weight in heads[j].items():
                after[turn] += weight / len(branches)
        reward = earned[k] + sum(owed[j] for j in branches) / max(len(branches), 1)
        if any(episode.turns[k].sampled):
            found.append(Transition(k, reward, dict(after)))
            heads[k], owed[k] = {k: 1.0}, 0.0
        else:
            heads[k], owed[k] = dict(after), reward
    return found[::-1]


class ArCHerCredit(OverValues, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="archer"):
    """Every sampled token of an utterance gets what the utterance is worth over its state: ``min(Q1, Q2) - min(V1, V2)``.

    Q and V come from a critic over whole utterances that also learns from earlier steps, so `critic.twins` must be set. No
    sibling is asked and nothing is played on; what a turn is worth is believed, not measured: credit is as good as the critic.
    """

    gamma: float = 0.9
    """Discount per utterance, in [0, 1]."""

    def __post_init__(self) -> None:
        check_gamma(self.gamma)

    def with_utterances(self, values: UtteranceValues) -> CreditRule:
        """The rule over one step's values."""
        return _Bound(values)

    def utterance_targets(self, episode: Episode, values: Sequence[float]) -> list[float]:
        """Applies `archer_targets` to the episode's `transitions`; 0 at turns without a sampled token."""
        steps, found = transitions(episode), [0.0] * len(episode.turns)
        ahead = [sum(weight * values[j] for j, weight in s.after.items()) for s in steps]
        targets = archer_targets([s.reward for s in steps], [not s.after for s in steps], ahead, gamma=self.gamma)
        for step, target in zip(steps, targets, strict=True):
            found[step.turn] = target
        return found


@dataclass(frozen=True)
class _Bound:
    """The rule with one step's values; a `CreditRule`. Episodes are not compared, so a lone one has credit too."""

    values: UtteranceValues

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        kept = members(group, compared=False).kept
        by_turn = {i: archer_advantages(*self.values(group.episodes[i])) for i in kept}
        return spread(group, by_turn, zero_variance=False)
