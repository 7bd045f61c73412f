"""The rollout workers of a run: started, given the newest weights, looked at, replaced when they die, more or fewer as needed.

A worker is *ready* once it has the newest weights. One that dies, or does not answer for too long, is started again after a
pause that doubles with every death in a row; one that keeps dying without ever having played anything leaves its place empty.
When no place is left that could ever be filled, `Staff.place` says so with an error; until then it waits and says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from phronesis.cluster.remote import Backend, Facts, Remote, WorkerGone
from phronesis.cluster.scaling import Load, QueueScaler, Scaler
from phronesis.errors import ClusterError, PhronesisError, UserError, one_line
from phronesis.train.workers import ClusterConfig

LONGEST_PAUSE = 30.0
"""Seconds before a dead worker is started again, at most."""


@dataclass(eq=False)
class Member:
    """One place on the staff, and who fills it now."""

    index: int
    """Counts places from 0 on."""
    remote: Remote | None = None
    """The worker, while it is ready."""
    facts: Facts | None = None
    """What the last one said of itself."""
    version: int = -1
    """Weights it is known to have."""
    playing: int = 0
    """Episodes sent to it."""
    dropped: int = 0
    """Episodes the last one had when it died; others play them again."""
    strikes: int = 0
    """Deaths since it last finished an episode."""
    state: str = "is starting"
    """How it is, in words."""
    given_up: bool = False
    """Whether it died too often."""
    leaving: bool = False
    """Whether it gets no more episodes, because there are too many workers."""
    waiting: dict[str, str] = field(default_factory=dict[str, str])
    """What its episodes awaited when it was last looked at."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the present worker is found dead."""
    task: asyncio.Task[None] | None = None
    """Keeps the place filled."""

    @property
    def name(self) -> str:
        """For people."""
        return f"worker {self.index}"


class Staff:
    """All places, filled or not."""

    def __init__(self, config: ClusterConfig, backend: Backend, note: Callable[..., None], scaler: Scaler | None = None):
        """Nobody is started yet.

        Args:
            config: how many, how patient.
            backend: where they come from.
            note: told what happens to them, a sentence and fields (`RunWriter.event` without its kind).
            scaler: decides how many there are; None takes that of the settings.
        """
        self.config, self.backend, self._note = config, backend, note
        self._scaler = scaler or (None if config.scale is None else QueueScaler(config.scale))
        self.members: list[Member] = []
        """Places, in the order they were made; those that left are not in it."""
        self.deaths = 0
        """Workers that died so far."""
        self.queued = 0
        """Episodes that wait for a place."""
        self.heard: Callable[[Member], None] = lambda member: None
        """Told whenever a worker has said what its episodes await."""
        self._weights: tuple[object, int] | None = None
        self._made = 0
        self._changed = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._scaling: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

    @property
    def ready(self) -> list[Member]:
        """Places whose worker plays."""
        return [m for m in self.members if m.remote is not None and not m.leaving]

    @property
    def load(self) -> Load:
        """What there is to do and who could do it."""
        ready = self.ready
        return Load(
            workers=sum(not m.leaving and not m.given_up for m in self.members),
            ready=len(ready),
            slots=len(ready) * self.config.slots,
            playing=sum(m.playing for m in ready),
            queued=self.queued,
        )

    @property
    def lag(self) -> int:
        """Updates that the ready worker with the oldest weights is behind; 0 without any."""
        newest = -1 if self._weights is None else self._weights[1]
        return max((newest - m.version for m in self.ready), default=0)

    def open(self, weights: object, version: int) -> None:
        """Begins to start everyone; returns at once."""
        self._weights = weights, version
        scale = self.config.scale
        self.resize(self.config.workers if scale is None else min(max(self.config.workers, scale.least), scale.most))
        if self._scaler is not None:
            self._scaling = asyncio.create_task(self._scale(self._scaler), name="scale the workers")

    def give(self, weights: object, version: int) -> None:
        """Sends everyone new weights; returns at once. Workers that start later begin with them."""
        self._weights = weights, version
        for member in self.ready:
            assert member.remote is not None
            self._aside(self._send(member, member.remote), f"weights for {member.name}")

    async def place(self, told: Callable[[str], None], rather: Member | None = None) -> tuple[Member, Remote]:
        """A worker for one episode, which counts as sent to it from now on; `leave` ends that.

        Args:
            told: hears what is waited for, again whenever it changes.
            rather: this one, if it is there and has a free slot; else the least loaded.

        Raises:
            ClusterError: no worker is left, and none will come.
            UserError: a worker cannot be built, for a reason that will not pass.
        """
        self.queued += 1
        try:
            while True:
                free = [m for m in self.ready if m.playing < self.config.slots]
                if free:
                    chosen = rather if rather in free else min(free, key=lambda m: (m.playing, m.index))
                    assert chosen is not None and chosen.remote is not None
                    chosen.playing += 1
                    return chosen, chosen.remote
                self._check()
                told(self._why())
                await self._changed.wait()
        finally:
            self.queued -= 1

    def leave(self, member: Member, *, done: bool) -> None:
        """An episode is no longer with a worker.

        Args:
            member: who played it.
            done: whether it was played to its end.
        """
        member.playing -= 1
        if done:
            member.strikes = 0
        self._tell()

    def lose(self, member: Member, remote: Remote, why: str) -> None:
        """A worker is dead or as good as dead: nobody asks it again, and its place is filled anew."""
        if member.remote is remote:
            member.remote, member.state, member.dropped = None, why, member.playing
            remote.kill()
            member.lost.set()

    def resize(self, workers: int) -> None:
        """From now on there are so many places, at least one; the least busy ones are given up, once they are idle."""
        there = [m for m in self.members if not m.leaving and not m.given_up]
        workers = max(workers, 1)
        if workers > len(there):
            self.backend.ask_room(workers)
        for _ in range(workers - len(there)):
            member = Member(self._made)
            self._made += 1
            self.members.append(member)
            member.task = asyncio.create_task(self._keep(member), name=member.name)
        for member in sorted(there, key=lambda m: (m.remote is not None, m.playing, -m.index))[: len(there) - workers]:
            member.leaving = True
            self._note(f"{member.name} leaves when it is idle: {workers} are enough", worker=member.index, workers=workers)
        self._tell()

    async def close(self) -> None:
        """Ends everyone at once."""
        self._failure = self._failure or ClusterError("the workers have been sent away")
        tasks = [m.task for m in self.members if m.task is not None] + list(self._background)
        tasks += [] if self._scaling is None else [self._scaling]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tell()

    async def _keep(self, member: Member) -> None:
        """Fills one place, again and again, until it is given up."""
        while not member.leaving:
            remote = None
            try:
                remote = self.backend.start(member.index)
                await self._begin(member, remote)
                why = await self._watch(member, remote)
                if member.leaving:
                    break
            except (WorkerGone, TimeoutError, PhronesisError) as error:
                why = str(error)
                if isinstance(error, TimeoutError):
                    why = f"did not start within {self.config.start_seconds:g} s ({self.backend.room()})"
                if isinstance(error, UserError):  # it would be the same with the next one
                    self._failure = error
            finally:
                if member.remote is remote:
                    member.remote = None
                if remote is not None:
                    remote.kill()
            self.deaths += 1
            member.strikes += 1
            if member.strikes > self.config.restarts or self._failure is not None:
                member.given_up, member.state = True, f"died {member.strikes} times in a row, last: {why}"
                self._note(f"{member.name} is given up: it {member.state}", worker=member.index)
                self._tell()
                return
            pause = min(self.config.backoff_seconds * 2.0 ** (member.strikes - 1), LONGEST_PAUSE)
            member.state = f"starts again in {pause:g} s: {why}"
            said = f"{member.name} is gone with {member.dropped} episodes, which others play again, and {member.state}"
            self._note(said, worker=member.index, deaths=self.deaths, episodes=member.dropped)
            member.dropped = 0
            self._tell()
            await asyncio.sleep(pause)
            member.state = f"starts again ({one_line(Exception(why), 80)})"
            self._tell()
        self.members.remove(member)
        self._tell()

    async def _begin(self, member: Member, remote: Remote) -> None:
        """Waits until a worker is there and has the newest weights."""
        assert self._weights is not None
        async with asyncio.timeout(self.config.start_seconds):
            member.facts, member.version = await remote.ready(), -1
            while member.version < self._weights[1]:
                member.version = await remote.take(*self._weights)
        member.lost.clear()
        member.remote, member.state = remote, "plays"
        fields = {"pid": member.facts.pid, "node": member.facts.node, "version": member.version}
        said = f"{member.name} joins with weights {member.version}: process {member.facts.pid} on {member.facts.node}"
        self._note(said, worker=member.index, arithmetic=member.facts.arithmetic, **fields)
        self._tell()

    async def _watch(self, member: Member, remote: Remote) -> str:
        """Looks at a worker until it is gone, or idle and not needed; says why it is gone."""
        silence = self.config.silence_seconds
        while not (member.leaving and not member.playing):
            try:
                async with asyncio.timeout(self.config.pulse_seconds):
                    await member.lost.wait()
                return member.state
            except TimeoutError:
                pass
            try:
                async with asyncio.timeout(silence):
                    member.waiting = (await remote.pulse()).waiting
                self.heard(member)
            except TimeoutError:
                self.lose(member, remote, f"did not answer for {silence:g} s")
            except WorkerGone as error:
                self.lose(member, remote, str(error))
        return "was not needed any more"

    async def _send(self, member: Member, remote: Remote) -> None:
        """Gives one worker the newest weights."""
        assert self._weights is not None
        weights, version = self._weights
        try:
            async with asyncio.timeout(self.config.start_seconds):
                got = await remote.take(weights, version)
        except (WorkerGone, TimeoutError, PhronesisError) as error:
            self.lose(member, remote, f"did not take weights {version}: {one_line(error)}")
            return
        if member.remote is remote:
            member.version = max(member.version, got)

    async def _scale(self, scaler: Scaler) -> None:
        """Asks the scaler again and again."""
        seconds = 5.0 if self.config.scale is None else self.config.scale.seconds
        while True:
            await asyncio.sleep(seconds)
            load = self.load
            wanted = max(scaler.wanted(load), 1)
            if wanted != load.workers:
                said = f"{load.workers} workers become {wanted}: {load.queued} episodes wait, {load.idle:.0%} of slots are idle"
                self._note(said, workers=wanted, queued=load.queued, idle=load.idle)
                self.resize(wanted)

    def _aside(self, coroutine: Coroutine[object, object, None], name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _why(self) -> str:
        if self.ready:
            return "a free slot of a worker"
        absent = "; ".join(f"{m.name} {m.state}" for m in self.members if not m.leaving)
        return f"a worker ({absent})"

    def _check(self) -> None:
        """Says that waiting is in vain."""
        if self._failure is not None:
            raise self._failure
        if all(m.given_up or m.leaving for m in self.members):
            states = "; ".join(f"{m.name} {m.state}" for m in self.members)
            raise ClusterError(f"no rollout worker is left: {states}. Resume the run when the cause is mended")
