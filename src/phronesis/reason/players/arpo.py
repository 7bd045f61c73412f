"""ARPO's way of playing a group: branch where what the world answered made the policy unsure.

Source: Agentic Reinforced Policy Optimization, arXiv 2507.19849; formula [arpo].
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from statistics import fmean

from msgspec import Struct

from phronesis.credit.trees.arpo import branching
from phronesis.errors import ConfigError
from phronesis.reason.players.account import Account
from phronesis.reason.players.branching import Brood, Wish, joins_not
from phronesis.records import Episode, EpisodeGroup, Turn
from phronesis.rollout.gates import Gate
from phronesis.rollout.play import GroupPlayer, Stage, Ticket
from phronesis.seeding import rng


class ARPOPlayer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="arpo"):
    """Some attempts first; after a reply that raised the policy's entropy another attempt branches off, up to the group's size.

    At each of an attempt's turns but the first, ``dH`` is the mean entropy of its first tokens minus that of the first turn's,
    over the log of the vocabulary, and `phronesis.credit.trees.arpo.branching` decides. A branch begins just before that
    turn and draws it anew. Its own later turns may branch again. What is left of the group is played from the start.

    Published: 8 of 16 attempts first, 2 of a beam, 20 tokens, weight .2, threshold .5. Ours: the entropy is that of the whole
    distribution, not of the 10 likeliest tokens; attempts are played to their end before any branches (whether to branch is
    known as soon as the turn is drawn, and nothing after it is looked at); the earliest turns are served first, and of
    equal ones those of the first attempt.
    """

    initial: int = 8
    """Attempts played from the start, at least 1 and at most the group's size."""
    beam: int = 2
    """Attempts that go on from a branching point, the one that was there included, at least 2."""
    tokens: int = 20
    """Tokens of a turn whose entropy is taken, at least 1."""
    weight: float = 0.2
    """How strongly a rise of entropy counts, at least 0; 0 branches by chance alone."""
    threshold: float = 0.5
    """Largest score that branches, in [0, 1]; 1 branches everywhere."""

    def __post_init__(self) -> None:
        if self.initial < 1 or self.beam < 2 or self.tokens < 1:
            raise ConfigError(
                f"player arpo needs initial >= 1, beam >= 2 and tokens >= 1, got {self.initial!r}, {self.beam!r} and "
                f"{self.tokens!r}"
            )
        if self.weight < 0 or not 0 <= self.threshold <= 1:
            raise ConfigError(
                f"player arpo needs weight >= 0 and threshold in [0, 1], got {self.weight!r} and {self.threshold!r}"
            )

    def check(self, size: int) -> None:
        """Raises ConfigError where a group of `size` attempts leaves nothing to branch."""
        if size <= self.initial:
            raise ConfigError(
                f"player arpo plays {self.initial} attempts first, and group_size {size!r} leaves none to branch; set "
                "player.initial below group_size (the paper: half of it)"
            )

    def begin(self) -> GroupPlayer:
        """One that plays."""
        return _ARPO(self)


class _ARPO:
    def __init__(self, config: ARPOPlayer) -> None:
        self.config, self.account = config, Account()

    async def play(self, stage: Stage, name: str, tickets: Sequence[Ticket], gate: Gate) -> EpisodeGroup:
        config, account = self.config, self.account
        config.check(len(tickets))
        if stage.vocabulary is None:
            raise ConfigError("player arpo measures entropy by the size of the vocabulary, which Stage.vocabulary does not say")
        brood = Brood(stage, gate, account)
        grown = await brood.fresh(tickets[: config.initial])
        left = len(tickets) - config.initial
        while left and grown:
            chosen = self._chosen(grown, stage.vocabulary, left)
            left -= sum(w.copies for w in chosen)
            grown = await brood.branch(chosen)
        account.add("filled", left)
        await brood.fresh(tickets[len(tickets) - left :])
        return await brood.group(name)

    def settle(self, groups: Sequence[EpisodeGroup]) -> None:
        """Nothing to remember."""

    def metrics(self) -> dict[str, float]:
        return self.account.take()

    def _chosen(self, grown: Sequence[Wish], vocabulary: int, left: int) -> list[Wish]:
        """Points of new attempts to branch at, the earliest first, as many as the group has room for."""
        wanted: list[Wish] = []
        for wish in grown:
            if joins_not(wish.base):
                self.account.add("short")
                continue
            for k in range(wish.turn + 1, len(wish.base.turns)):
                u = rng(wish.base.seed, "branching", wish.base.id, k).random()
                rise = self._rise(wish.base, k, vocabulary)
                if branching(u, rise, weight=self.config.weight, threshold=self.config.threshold).branch:
                    wanted.append(Wish(wish.family, wish.base, k))
                else:
                    self.account.add("declined")
        wanted.sort(key=lambda w: w.turn)  # stable: of equal turns those of the first attempt
        chosen: list[Wish] = []
        for wish in wanted:
            copies = min(self.config.beam - 1, left)
            left -= copies
            if copies:
                chosen.append(wish._replace(copies=copies))
            else:
                self.account.add("over_budget")
        return chosen

    def _rise(self, episode: Episode, turn: int, vocabulary: int) -> float:
        heads = [self._head(episode, k) for k in (turn, 0)]
        return (heads[0] - heads[1]) / log(vocabulary)

    def _head(self, episode: Episode, k: int) -> float:
        """Mean nats of the entropy of a turn's first sampled tokens; 0 where none was sampled."""
        turn: Turn = episode.turns[k]
        if turn.entropies is None:
            raise ConfigError(
                f"player arpo branches by entropy, and the policy reported none for turn {k} of {episode.id!r}; sample with "
                "the embedded engine, or set player.type to 'tree'"
            )
        found = [h for h, sampled in zip(turn.entropies, turn.sampled, strict=True) if sampled]
        return fmean(found[: self.config.tokens]) if found else 0.0
