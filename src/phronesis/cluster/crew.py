"""Groups played by workers elsewhere: the driver's side of a `GroupPlayer`.

The episodes of a group go to the least loaded worker, together as far as it has slots, so that they share their prompt there.
When a worker dies, the episodes it had are played again by another, from the start: an episode is a function of its task, its
seed and the weights, so with the same weights the very same episode comes out. Every group is handed on exactly once.

A group is sent with the version the run's policy has then; a worker with older weights waits for the newer ones first. So an
episode never begins with weights older than one played here would.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_data

import numpy as np

from phronesis.cluster.orders import Order, decode_played, encode_order, encode_played
from phronesis.cluster.remote import Backend, Remote, WorkerGone
from phronesis.cluster.staff import Member, Staff
from phronesis.engine.weights.bucket import Layout
from phronesis.records import Episode, EpisodeGroup, Stop
from phronesis.rollout.failures import describe
from phronesis.rollout.gates import Gate
from phronesis.rollout.play import Stage, Ticket, faulted, play_group
from phronesis.rollout.waiting import Waiting
from phronesis.train.seat import Seat

PLACE = "policy.worker"
"""Where an episode broke whose workers kept dying."""


class ClusterCrew:
    """Implements `phronesis.train.crew.Crew` over a staff of workers."""

    def __init__(self, policy: Seat, backend: Backend, staff: Staff):
        """Nobody is started yet.

        Args:
            policy: whose weights are played with; the learner changes them, `push` sends them.
            backend: holds the packed weights.
            staff: who plays.
        """
        self._policy, self._backend, self.staff = policy, backend, staff
        self._layout = Layout(dict(policy.decoder.named_parameters()))
        self.replayed = 0
        """Episodes begun again since the worker that played them died."""
        self._asked = self._asked_deaths = 0
        self._push_seconds = 0.0
        self._under_way: dict[str, Asked] = {}
        staff.heard = self._heard

    def open(self) -> None:
        """Begins to start the workers with the present weights; returns at once."""
        self.staff.open(self._pack(), self._policy.engine.version)

    def push(self) -> None:
        """Sends the present weights to every worker; does not wait until they have them."""
        began = time.perf_counter()
        self.staff.give(self._pack(), self._policy.engine.version)
        self._push_seconds = time.perf_counter() - began

    async def play(self, stage: Stage, name: str, tickets: Sequence[Ticket], gate: Gate) -> EpisodeGroup:
        """One group, played elsewhere and scored there. One of another policy than the run's is played here.

        Raises:
            ClusterError: no worker is left, and none will come.
        """
        if stage.policy is self._policy.engine:
            stage = replace_data(stage, elsewhere=_Elsewhere(self))
        return await play_group(stage, tickets, gate)

    def settle(self, groups: Sequence[EpisodeGroup]) -> None:
        """Groups do not depend on one another: nothing is noted."""

    def metrics(self) -> dict[str, float]:
        """How the workers are, and what was lost since this was last asked."""
        staff = self.staff
        deaths, again = staff.deaths - self._asked_deaths, self.replayed - self._asked
        self._asked_deaths, self._asked = staff.deaths, self.replayed
        load = staff.load
        return {
            "cluster/workers": float(load.ready),
            "cluster/deaths": float(deaths),
            "cluster/replayed": float(again),
            "cluster/queued": float(load.queued),
            "cluster/idle": load.idle,
            "cluster/lag": float(staff.lag),
            "time/push": self._push_seconds,
        }

    async def ask(self, asked: Asked, call: Callable[[Remote], Awaitable[bytes]]) -> bytes:
        """Asks one worker after the other, until one has answered.

        Args:
            asked: what for.
            call: asks one.

        Raises:
            WorkerGone: too many died over it.
            ClusterError: no worker is left, and none will come.
        """
        staff, deaths = self.staff, 0
        while True:
            member, remote = await staff.place(asked.told, rather=asked.elsewhere.home)
            asked.elsewhere.home, done = member, False
            asked.told(member.name)
            self._under_way[asked.id] = asked
            try:
                reply = await call(remote)
                done = True
                return reply
            except WorkerGone as error:
                staff.lose(member, remote, str(error))
                deaths += 1
                self.replayed += 1
                if deaths >= staff.config.episode_deaths:
                    raise WorkerGone(f"{deaths} workers died over it, the last: {error}") from error
            finally:
                staff.leave(member, done=done)
                self._under_way.pop(asked.id, None)
                asked.waiting.pop(asked.id, None)

    @property
    def version(self) -> int:
        """Of the run's policy now."""
        return self._policy.engine.version

    def _heard(self, member: Member) -> None:
        """Passes on what a worker's episodes await, where that is something new: so that moving on is seen here, too."""
        for id, where in member.waiting.items():
            asked = self._under_way.get(id)
            if asked is not None:
                asked.told(f"{where} on {member.name}")

    def _pack(self) -> object:
        bucket = np.empty(self._layout.nbytes, np.uint8)
        self._layout.pack_into(bucket.data, dict(self._policy.decoder.named_parameters()), self.version)
        return self._backend.put(bucket)


class _Elsewhere:
    """The workers, for one group: its episodes go where the first of them went."""

    def __init__(self, crew: ClusterCrew):
        self.home: Member | None = None
        self._crew = crew

    async def play_one(self, stage: Stage, ticket: Ticket) -> Episode:
        """Plays one episode on a worker."""
        limits = stage.limits_of(ticket.task)
        order = encode_order(Order(ticket=ticket, limits=limits, sampling=stage.sampling, version=self._crew.version))
        try:
            reply = await self._crew.ask(Asked(self, ticket.id, stage.waiting), lambda remote: remote.play(order))
        except WorkerGone as error:
            return Episode(
                id=ticket.id, task=ticket.task, seed=ticket.seed, stop=Stop.infra_fault, failure=describe(PLACE, error),
                group=ticket.group, step=ticket.step,
            )  # fmt: skip
        return decode_played(reply).episodes[0]

    async def score_group(self, stage: Stage, group: EpisodeGroup, seconds: float) -> EpisodeGroup:
        """Scores a group where it was played."""
        data = encode_played(group, pictures=True)
        asked = Asked(self, f"{group.id}/rubric", stage.waiting)
        try:
            return decode_played(await self._crew.ask(asked, lambda remote: remote.judge(data, seconds)))
        except WorkerGone as error:
            return faulted(group, describe(PLACE, error))


@dataclass(frozen=True)
class Asked:
    """What a worker is asked for."""

    elsewhere: _Elsewhere
    """The group it belongs to."""
    id: str
    """Of the episode, or of the group's rubric."""
    waiting: Waiting
    """Where what it waits for is said."""

    def told(self, why: str) -> None:
        """Says what it waits for; saying the same again is no news."""
        text = f"cluster: {why}"
        if self.waiting.get(self.id) != text:
            self.waiting[self.id] = text
