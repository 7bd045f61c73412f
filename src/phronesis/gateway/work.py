"""Groups of episodes that agents outside play: handed out at the gateway, collected when they are finished.

To a run this is a way to play like any other: tasks go in, scored groups come out, with the ids and seeds they would have had
if the run had played them itself. An agent that asks for work gets the next episode nobody has; one that brings a task of its
own gets a place in a group, which is then about that task. All episodes of a step are begun and finished between two updates,
so that they are on-policy; agents that come early wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from phronesis.gateway.book import Book
from phronesis.gateway.episode import LiveEpisode
from phronesis.gateway.errors import GatewayError
from phronesis.records import Episode, EpisodeGroup, Task
from phronesis.rollout.gates import Gate
from phronesis.rollout.play import Stage, Ticket

UNFETCHED, PLAYED = "an agent to fetch it", "its agent"
"""What an episode awaits, for heartbeats."""


@dataclass(eq=False)
class _Slot:
    """One episode that is needed."""

    ticket: Ticket
    done: asyncio.Future[Episode]


@dataclass(eq=False)
class _Group:
    """A group that is needed."""

    id: str
    stage: Stage
    task: Task
    unfetched: deque[_Slot] = field(default_factory=deque[_Slot])
    claimed: bool = False
    """Whether any of it was fetched, so that its task stands."""


class OutsideAgents:
    """Plays groups by handing their episodes to whoever asks.

    Args:
        book: its episodes; its `work` and `on_episode` are set to this.
        beside: told finished episodes that belong to no group: of other splits, or ended with the run.
    """

    def __init__(self, book: Book, beside: Callable[[Episode], None] = lambda episode: None):
        self.book, self.beside = book, beside
        self._groups: list[_Group] = []
        self._slots: dict[str, tuple[_Group, _Slot]] = {}
        self._news = asyncio.Event()
        self._told: Counter[str] = Counter()
        book.work, book.on_episode = self, self.take

    async def play(self, stage: Stage, name: str, tickets: Sequence[Ticket], gate: Gate) -> EpisodeGroup:
        """One group, rewarded by its agents; see `phronesis.rollout.play.GroupPlayer`. The group's task is the agents' own,
        where they bring one.

        Args:
            stage: its policy, limits and sampling hold for the episodes.
            name: id of the group.
            tickets: one for each episode.
            gate: not entered; agents decide how many they play at once, and the gateway limits them.
        """
        loop = asyncio.get_running_loop()
        group = _Group(name, stage, tickets[0].task)
        mine = [_Slot(ticket, loop.create_future()) for ticket in tickets]
        group.unfetched.extend(mine)
        stage.waiting.update({slot.ticket.id: UNFETCHED for slot in mine})
        self._groups.append(group)
        self._news.set()
        try:
            episodes = await asyncio.gather(*(slot.done for slot in mine))
        finally:
            self._groups.remove(group)
            for slot in mine:
                self._slots.pop(slot.ticket.id, None)
                stage.waiting.pop(slot.ticket.id, None)
        return EpisodeGroup(id=name, task=group.task, episodes=tuple(episodes))

    def settle(self, groups: Sequence[EpisodeGroup]) -> None:
        """Nothing is remembered between steps."""

    def metrics(self) -> dict[str, float]:
        """What the gateway counted since this was last asked."""
        now = Counter(self.book.counts)
        new = now - self._told
        self._told = now
        return {
            "gateway/episodes": float(new["episodes"]),
            "gateway/unrewarded": float(new["unrewarded"]),
            "gateway/idle": float(new["idle"]),
            "gateway/rewritten": float(new["kind_rewritten"] + new["kind_rerooted"]),
            "gateway/forked": float(new["kind_forked"]),
            "gateway/repaired": float(sum(n for k, n in new.items() if k.startswith("repair_"))),
            "gateway/left_out": float(new["undelivered"] + new["superseded"]),
        }

    async def next(self, wait: float, task: Task | None = None) -> LiveEpisode:
        """Opens the next episode that is needed, of the agent's own task where it brings one.

        Args:
            wait: seconds to wait until one is needed.
            task: the agent's own.

        Raises:
            GatewayError: none is needed now (429) or ever again (410).
        """
        until = time.monotonic() + wait
        while True:
            if self.book.stopping:
                raise GatewayError(410, "closed", "the run is over; no further episodes are needed")
            found = self._find(task)
            if found is not None:
                return self._open(found, task)
            left = until - time.monotonic()
            if left <= 0:
                why = "no episode is needed now: the run is learning, or all are being played; ask again"
                raise GatewayError(429, "no_work", why, 0.5)
            self._news.clear()
            try:
                async with asyncio.timeout(left):
                    await self._news.wait()
            except TimeoutError:
                continue

    def stop(self) -> None:
        """Lets everyone who waits for work know that there is none."""
        self.book.stopping = True
        self._news.set()

    def take(self, episode: Episode) -> None:
        """Receives a finished episode."""
        group, slot = self._slots.pop(episode.id, (None, None))
        if group is None or slot is None:
            self.beside(episode)
            return
        group.stage.waiting.pop(episode.id, None)
        if not slot.done.done():
            slot.done.set_result(episode)

    def _find(self, task: Task | None) -> _Group | None:
        """The group whose next episode the agent gets: for a task of its own, the one about it, else a fresh one."""
        waiting = [g for g in self._groups if g.unfetched]
        if task is None:
            return waiting[0] if waiting else None
        mine = [g for g in waiting if g.task.split == task.split]
        about = [g for g in mine if g.claimed and g.task.id == task.id]
        return next(iter([*about, *(g for g in mine if not g.claimed)]), None)

    def _open(self, group: _Group, task: Task | None) -> LiveEpisode:
        slot = group.unfetched[0]
        ticket = slot.ticket
        if task is not None and not group.claimed:
            group.task = task
        live = self.book.create(
            group.task,
            id=ticket.id,
            seed=ticket.seed,
            group=ticket.group,
            step=ticket.step,
            stage=group.stage,
        )
        group.unfetched.popleft()
        group.claimed = True
        group.stage.waiting[ticket.id] = PLAYED
        self._slots[ticket.id] = group, slot
        return live
