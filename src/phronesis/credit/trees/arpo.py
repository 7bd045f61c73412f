"""ARPO: branch where a tool result made the policy unsure, and share the credit of what the branches have in common.

Source: Agentic Reinforced Policy Optimization, arXiv 2507.19849; formula [arpo].
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, fsum, log
from typing import Literal, NamedTuple

from msgspec import Struct

from phronesis.credit.baselines.group import AnyBaseline, GroupStandard
from phronesis.credit.rule import Rerun, members
from phronesis.credit.side import turn_credit
from phronesis.credit.trees.tree import Node, branch_reward, overlay
from phronesis.records import Credit, EpisodeGroup


class Branching(NamedTuple):
    """Whether to branch after a tool result."""

    p: float
    """Score in [0, 1]; small where entropy rose."""
    branch: bool
    """True when `p` does not exceed the threshold."""


def branching(u: float, delta_entropy: float, *, weight: float = 0.2, threshold: float = 0.5) -> Branching:
    """``p = clip(u - weight * dH, 0, 1)``; branch where p is at most the threshold.   Formula [arpo].

    Args:
        u: a uniform draw in [0, 1].
        delta_entropy: normalised entropy of the tokens after the tool result minus that of the first tokens.
        weight: how strongly a rise pulls p down.
        threshold: largest p that branches.

    u .55 and a rise of .5: p .45, branch. u .65 and a rise of .5: p .55, go on.
    """
    p = min(max(u - weight * delta_entropy, 0.0), 1.0)
    return Branching(p, p <= threshold)


def normalised_entropy(top_logprobs: Sequence[Sequence[float]], vocabulary: int) -> float:
    """Mean entropy of the next tokens from their likeliest candidates, over the largest possible entropy.

    Two tokens, two candidates of probability .5 each, vocabulary 4: log 2 / log 4 = .5. Candidates that are left out count
    for nothing, so the number is too small where the distribution is wide.

    Args:
        top_logprobs: per token, nats of its likeliest candidates; the paper takes 10 of each of the next 20 tokens.
        vocabulary: number of tokens there are, at least 2.
    """
    if not top_logprobs:
        return 0.0
    return fsum(-exp(lp) * lp for row in top_logprobs for lp in row) / len(top_logprobs) / log(vocabulary)


def shared_prefix(advantages: Sequence[float], mode: Literal["hard", "soft"] = "hard") -> float:
    """Credit of tokens that several branches share and that are stored once.

    ``hard`` is the mean of the branches' advantages. ``soft`` trains the prefix once per branch, which for tokens stored
    once is the sum: with n branches n times ``hard``, as n copies of the prefix would count.

    >>> shared_prefix([1.0, 0.0]), shared_prefix([1.0, 0.0], "soft")
    (0.5, 1.0)
    """
    total = fsum(advantages)
    return total if mode == "soft" else total / len(advantages)


class ARPOCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="arpo"):
    """Every branch of the group is an attempt; tokens that branches share get their attempts' advantages together.

    Attempts that wrote the same tokens share them whether they are one forked episode or several. Under ``soft`` every
    episode's own copy keeps its own branches' sum. The paper names both and says that their expectations agree; which one its
    results use is unverified.
    """

    prefix: Literal["hard", "soft"] = "hard"
    """What shared tokens get; see `shared_prefix`."""
    baseline: AnyBaseline = GroupStandard()
    """What a branch's reward is compared with, among all branches of the group."""

    async def assign(self, group: EpisodeGroup, rerun: Rerun | None = None) -> Credit:
        """Credit of one group; `rerun` is not used."""
        # A forked episode is several attempts, so that one left over by faults may still be compared.
        episodes = {e: group.episodes[e] for e in members(group, compared=False).kept}
        branches = [(e, end) for e, episode in episodes.items() for end in episode.ends]
        if len(branches) == 1 and len(group.episodes) > 1:  # attempts without turns are none
            alone = len(episodes) == 1
            return turn_credit(group, {} if alone else {e: [0.0] * len(x.turns) for e, x in episodes.items()})
        rewards = [branch_reward(episodes[e], end) for e, end in branches]
        advantages = self.baseline.advantages(rewards) if rewards else ()
        _, places = overlay(episodes)
        through: dict[Node, list[float]] = {}
        own: dict[tuple[int, int], list[float]] = {}
        for (e, end), advantage in zip(branches, advantages, strict=True):
            for k in episodes[e].line(end):
                through.setdefault(places[e, k], []).append(advantage)
                own.setdefault((e, k), []).append(advantage)
        found: dict[int, list[float]] = {}
        for e, episode in episodes.items():
            turns = range(len(episode.turns))
            parts = [own[e, k] if self.prefix == "soft" else through[places[e, k]] for k in turns]
            found[e] = [shared_prefix(row, self.prefix) for row in parts]
        return turn_credit(group, found)
