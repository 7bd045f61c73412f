"""What players that branch have in common: fresh attempts, attempts played on from others, families joined as episodes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from phronesis.reason.players.account import Account
from phronesis.records import Episode, EpisodeGroup
from phronesis.rollout.forks import join, own_turns
from phronesis.rollout.gates import Gate
from phronesis.rollout.play import Stage, Ticket, judge, play_again
from phronesis.rollout.prefix import Cut, PlayOn, check_replay
from phronesis.seeding import stream


class Wish(NamedTuple):
    """A point to branch at."""

    family: int
    """Number of the fresh attempt it descends from."""
    base: Episode
    """Attempt to play on from."""
    turn: int
    """Before which of its turns."""
    copies: int = 1
    """How many new attempts."""


class Brood:
    """The attempts of one group while they are played: families that each share a beginning.

    Every attempt has its own world, limits and verdict. One that faults stays by itself, as a faulty episode, and nothing is
    played on from it. A branch that a limit ended before its first own turn (its clock ran out while it was brought there) said
    nothing of its own: it is counted as ``cut_off``, and is no attempt of the group.
    """

    def __init__(self, stage: Stage, gate: Gate, account: Account) -> None:
        self.stage = stage
        self.families: list[list[Episode]] = []
        """Attempts by family; the fresh one first."""
        self._gate, self._account = gate, account
        self._born: Counter[str] = Counter()
        self._on = PlayOn(stage, gate)

    async def fresh(self, tickets: Sequence[Ticket]) -> list[Wish]:
        """Plays new families from the start; their fresh attempts, as points before the first turn."""

        born = await asyncio.gather(*(play_again(self.stage, t, self._gate) for t in tickets))
        first = len(self.families)
        self.families += [[e] for e in born]
        return [Wish(first + n, e, 0) for n, e in enumerate(born)]

    async def branch(self, wishes: Sequence[Wish]) -> list[Wish]:
        """Plays on from points of attempts; the new attempts, with the turn they begin at.

        Raises:
            EnvFault: the environment answered recorded actions otherwise than recorded.
        """
        rows = await asyncio.gather(*(self._branch(w, self._names(w)) for w in wishes))
        found: list[Wish] = []
        for wish, row in zip(wishes, rows, strict=True):
            begun = [e for e in row if e.stop.is_fault or own_turns(e, wish.base)]
            self._account.add("cut_off", len(row) - len(begun))
            self.families[wish.family] += begun
            found += [Wish(wish.family, e, wish.turn) for e in row]
        return found

    async def group(self, name: str) -> EpisodeGroup:
        """All attempts, judged together as attempts, each family one episode.

        The rubric sees every attempt as a chain of its own, whatever it shares with others.
        """
        attempts = [e for family in self.families for e in family]
        asked = EpisodeGroup(id=name, task=attempts[0].task, episodes=tuple(attempts))
        judged = (await judge(self.stage, asked)).episodes
        found: list[Episode] = []
        for family in self.families:
            members, judged = judged[: len(family)], judged[len(family) :]
            sound = [e for e in members if not joins_not(e) and e.reward is not None and e.reward.value is not None]
            found += [join(sound)] if sound else []
            found += [e for e in members if not any(e is s for s in sound)]
            self._account.add("leaves", len(sound))
        self._account.add("replayed", self._on.replayed)
        return EpisodeGroup(id=name, task=asked.task, episodes=tuple(found))

    def _names(self, wish: Wish) -> list[int]:
        first = self._born[self.families[wish.family][0].id]
        self._born[self.families[wish.family][0].id] += wish.copies
        return list(range(first + 1, first + 1 + wish.copies))

    async def _branch(self, wish: Wish, names: Sequence[int]) -> list[Episode]:
        cut = Cut(wish.base, wish.turn)
        scout = await self._on.scout(cut) if len(names) > 1 else None
        root = self.families[wish.family][0]

        async def one(n: int) -> Episode:
            ticket = Ticket(
                id=f"{root.id}/b{n}", task=root.task, seed=root.seed, group=root.group, step=root.step
            )  # fmt: skip
            played = await self._on.play(cut, ticket, stream(root.seed, "branch", n), scout=scout)
            check_replay(cut, played.failure)
            self._account.add("branches")
            self._account.add("faulted", played.stop.is_fault)
            own = own_turns(played, wish.base)
            self._account.add("env_steps", sum(t.reply is not None for t in played.turns[len(played.turns) - own :]))
            return played

        return list(await asyncio.gather(*(one(n) for n in names)))


def joins_not(episode: Episode) -> bool:
    """Whether nothing can be played on from an attempt, and it cannot be part of a forked episode: a fault, or no turn."""
    return episode.stop.is_fault or not episode.turns
