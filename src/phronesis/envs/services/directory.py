"""The services of a run: who is there, how each is doing, who gets the next episode, and who waits for a place.

Knows no HTTP and no tasks; time is told to it. It may be used from several threads: services report in one, episodes are
played in others.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count

from phronesis.envs.services.config import ServicesConfig
from phronesis.envs.services.identity import Identity
from phronesis.envs.services.known import Flight, Service, State, World
from phronesis.envs.services.wire import Refused, Registration
from phronesis.errors import ServiceFault

_PAUSE = 1.0
"""Seconds by which a sweep may come late before that counts as time in which nobody could be heard."""
LONGEST = 60.0
"""Longest a service that fails gets no episodes, in seconds: nothing after the first failure, then 2, 4, 8, …"""
_REMEMBERED = 16
"""Services that left, kept for people to see."""


@dataclass(eq=False)
class _Queue:
    """Episodes of a world that wait for a place, first come, first served."""

    waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[Service]]]
    moved: float
    """When an episode last began."""


class Directory:
    """All services of a run.

    >>> directory = Directory(clock=lambda: 0.0)
    >>> about = Registration(name="ledger", url="http://b1:8500", capacity=8, identity=Identity(env="ledger"))
    >>> service = directory.register(about)
    >>> directory.place(World("ledger", about.identity.digest)) is service, service.placed
    (True, 1)
    """

    def __init__(self, config: ServicesConfig | None = None, clock: Callable[[], float] = time.monotonic):
        """Nobody is there.

        Args:
            config: when services count as suspected and lost.
            clock: seconds.
        """
        self.config, self.clock = config or ServicesConfig(), clock
        self.run = secrets.token_hex(8)
        """Tells this directory from one of an earlier process."""
        self.on_event: Callable[[str, Service], None] = lambda kind, service: None
        """Told when a service registered, was suspected, was heard again, drains or left."""
        self._services: dict[str, Service] = {}
        self._left: deque[Service] = deque(maxlen=_REMEMBERED)
        self._expected: dict[World, Identity] = {}
        self._queues: dict[World, _Queue] = {}
        self._lock = threading.RLock()
        self._numbers = count()
        self._swept = clock()

    def expect(self, name: str, identity: Identity) -> World:
        """From here on, services of this name must play what the identity says, or that of another call of the same name."""
        world = World(name, identity.digest)
        with self._lock:
            self._expected[world] = identity
        return world

    def register(self, about: Registration, *, fixed: bool = False) -> Service:
        """A service is there. One that was known at the same address takes the place of the old one.

        Raises:
            Refused: it plays something else than is expected (409), or something that nobody plays here (404).
        """
        world = World(about.name, about.identity.digest)
        with self._lock:
            self._check(about, world)
            for old in [s for s in self._services.values() if s.about.url == about.url and s.about.name == about.name]:
                if old.about == about and old.state is not State.draining:
                    old.heard = self.clock()
                    self._heard(old)
                    return old
                self._remove(old, "it registered anew")
            service = Service(id=f"{about.name}-{next(self._numbers)}", about=about, fixed=fixed, heard=self.clock())
            self._services[service.id] = service
            self._tell("registered", service)
            self._dispatch(world)
        return service

    def heartbeat(self, id: str, load: int) -> Service:
        """A service is alive.

        Raises:
            Refused: there is none of this id (404); it should register again.
        """
        with self._lock:
            service = self._find(id)
            service.heard, service.load = self.clock(), load
            self._heard(service)
        return service

    def deregister(self, id: str) -> Service:
        """A service leaves: it gets no new episodes; it is gone when it has none left.

        Raises:
            Refused: there is none of this id (404).
        """
        with self._lock:
            service = self._find(id)
            service.heard = self.clock()
            if service.state is not State.draining:
                service.state, service.why = State.draining, "it is leaving"
                self._tell("draining", service)
            if not service.placed:
                self._remove(service, "it left")
        return service

    def sweep(self) -> None:
        """Suspects and removes who is silent. Time in which nobody could be heard, as this process stood still, is not held
        against them."""
        now, config = self.clock(), self.config
        with self._lock:
            late = now - self._swept - config.heartbeat_seconds
            self._swept = now
            for service in list(self._services.values()):
                if service.fixed:
                    continue
                if late > _PAUSE:
                    service.heard += min(late, max(now - service.heard, 0.0))
                silent = now - service.heard
                if silent >= config.lost_seconds:
                    self._remove(service, f"nothing was heard of it for {silent:.1f} s")
                elif silent >= config.suspect_seconds:
                    self._suspect(service, f"nothing was heard of it for {silent:.1f} s")

    def suspect(self, service: Service, why: str) -> None:
        """Somebody could not reach it: no new episodes until it is heard again."""
        with self._lock:
            service.trouble = why
            self._back_off(service, self.config.suspect_seconds if service.fixed else 0.0)
            self._suspect(service, why)

    def failed(self, service: Service, why: str) -> None:
        """An episode could not begin there. It gets no more for a while, longer each time, so that one that fails fast, and
        therefore has the most free places, does not attract all of them."""
        with self._lock:
            service.trouble = why
            self._back_off(service, 0.0)

    def began(self, service: Service) -> None:
        """An episode began there."""
        with self._lock:
            service.failed, service.trouble = 0, ""
            queue = self._queues.get(World(service.about.name, service.about.identity.digest))
            if queue is not None:
                queue.moved = self.clock()

    def full(self, service: Service, seconds: float) -> None:
        """It said that it is full: no new episodes for so long."""
        with self._lock:
            service.full_until = self.clock() + seconds

    def services(self, world: World | None = None) -> list[Service]:
        """Who is there, in order of registration."""
        with self._lock:
            return [s for s in self._services.values() if world is None or _plays(s, world)]

    def place(self, world: World) -> Service | None:
        """A place at the least loaded service; None where all are full, or others wait already. `release` gives it back."""
        with self._lock:
            queue = self._queues.get(world)
            return None if queue is not None and queue.waiting else self._take(world)

    async def wait(self, world: World, seconds: float, since: float | None = None) -> Service:
        """A place, when there is one: first come, first served.

        Args:
            world: what is to be played.
            seconds: longest time in which no episode of this world begins; while others do, waiting goes on.
            since: when this one began to wait, on the directory's clock; None means now.

        Raises:
            ServiceFault: none began for so long; says how the services are doing.
        """
        loop, since = asyncio.get_running_loop(), self.clock() if since is None else since
        with self._lock:
            service = self.place(world)
            if service is not None:
                return service
            queue = self._queues.setdefault(world, _Queue(deque(), since))
            place: asyncio.Future[Service] = loop.create_future()
            queue.waiting.append((loop, place))
        try:
            while not place.done():
                left = max(queue.moved, since) + seconds - self.clock()
                if left <= 0:
                    raise ServiceFault(f"no place at a service of {world.name!r} for {seconds:g} s: {self.why(world)}")
                await asyncio.wait([place], timeout=min(left, 1.0))
                with self._lock:
                    self._dispatch(world)  # who said that it is full may not be by now
            return place.result()
        except BaseException:
            if place.done() and not place.cancelled():
                self.release(place.result())
            place.cancel()
            raise
        finally:
            with self._lock, suppress(ValueError):
                queue.waiting.remove((loop, place))

    def release(self, service: Service) -> None:
        """Gives a place back."""
        with self._lock:
            service.placed -= 1
            if service.state is State.draining and not service.placed:
                self._remove(service, "it left")
            self._dispatch(World(service.about.name, service.about.identity.digest))

    def waiting(self, world: World) -> int:
        """How many episodes wait for a place."""
        queue = self._queues.get(world)
        return 0 if queue is None else len(queue.waiting)

    def why(self, world: World) -> str:
        """How the services of a world are doing, in words."""
        found = self.services(world)
        if not found:
            meant = self._expected.get(world)
            words = world.name if meant is None else meant.words
            return f"none is there; start one with: phronesis env serve {words} --register ADDRESS"
        return "; ".join(self.words(s) for s in found)

    def words(self, service: Service) -> str:
        """How a service is doing: ``http://b1:8500 is alive, 3 of 8 places taken``."""
        about, why = service.about, service.why or service.trouble
        why = f" ({why})" if why else ""
        full = ", asked again later" if service.state is State.alive and self.clock() < service.full_until else ""
        return f"{about.url} is {service.state}{why}, {service.placed} of {about.capacity} places taken{full}"

    def report(self) -> list[dict[str, object]]:
        """All services for people and programs, those that left last."""
        with self._lock:
            shown = [*self._services.values(), *self._left]
            return [
                {
                    "id": s.id, "name": s.about.name, "url": s.about.url, "state": str(s.state), "capacity": s.about.capacity,
                    "placed": s.placed, "open": s.load, "heard": round(max(self.clock() - s.heard, 0.0), 1),
                    "digest": s.about.identity.digest, "words": self.words(s),
                }
                for s in shown
            ]  # fmt: skip

    @contextmanager
    def flight(self, service: Service, deadline: asyncio.Timeout) -> Generator[None]:
        """While this lasts, the deadline passes when the service is removed."""
        flight = Flight(asyncio.get_running_loop(), deadline)
        with self._lock:
            service.flights.add(flight)
        try:
            yield
        finally:
            with self._lock:
                service.flights.discard(flight)

    def _check(self, about: Registration, world: World) -> None:
        if not self._expected or world in self._expected:
            return
        meant = [i for w, i in self._expected.items() if w.name == about.name]
        if not meant:
            names = sorted({w.name for w in self._expected})
            raise Refused(404, "unknown_world", f"this run plays {names}, nothing named {about.name!r}")
        differences = " - or ".join(i.differs(about.identity) for i in meant)
        raise Refused(409, "other_world", f"this run plays another {about.name!r}: {differences}")

    def _find(self, id: str) -> Service:
        if id not in self._services:
            raise Refused(404, "unknown_service", f"there is no service {id!r}; register again")
        return self._services[id]

    def _heard(self, service: Service) -> None:
        if service.state is State.suspected:
            service.state, service.why = State.alive, ""
            self._tell("heard", service)
        self._dispatch(World(service.about.name, service.about.identity.digest))

    def _back_off(self, service: Service, least: float) -> None:
        service.failed += 1
        pause = min(2.0 ** (service.failed - 1), LONGEST) if service.failed > 1 else 0.0
        service.full_until = max(service.full_until, self.clock() + max(pause, least))

    def _suspect(self, service: Service, why: str) -> None:
        if service.state is State.alive:
            service.state, service.why = State.suspected, why
            self._tell("suspected", service)

    def _remove(self, service: Service, why: str) -> None:
        service.state, service.why = State.gone, why
        self._services.pop(service.id, None)
        self._left.append(service)
        for flight in service.flights:
            with suppress(RuntimeError):  # its loop has ended, so nobody waits
                flight.loop.call_soon_threadsafe(_end, flight.deadline)
        self._tell("gone", service)

    def _tell(self, kind: str, service: Service) -> None:
        self.on_event(kind, service)

    def _take(self, world: World) -> Service | None:
        now = self.clock()
        for service in self._services.values():
            if service.fixed and service.state is State.suspected and now >= service.full_until:
                service.state, service.why = State.alive, ""  # as far as anybody knows; the next episode finds out
        free = [
            s
            for s in self._services.values()
            if _plays(s, world) and s.state is State.alive and s.placed < s.about.capacity and now >= s.full_until
        ]
        if not free:
            return None
        least = min(free, key=lambda s: (s.placed / s.about.capacity, s.load / s.about.capacity))
        least.placed += 1
        return least

    def _dispatch(self, world: World) -> None:
        queue = self._queues.get(world)
        while queue is not None and queue.waiting and (service := self._take(world)) is not None:
            loop, place = queue.waiting.popleft()
            try:
                loop.call_soon_threadsafe(self._give, place, service)
            except RuntimeError:  # its loop has ended
                service.placed -= 1

    def _give(self, place: asyncio.Future[Service], service: Service) -> None:
        if place.done():
            self.release(service)
        else:
            place.set_result(service)


def _plays(service: Service, world: World) -> bool:
    return service.about.name == world.name and service.about.identity.digest == world.digest


def _end(deadline: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # the call has just ended by itself
        deadline.reschedule(asyncio.get_running_loop().time())


_CURRENT: ContextVar[Directory | None] = ContextVar("phronesis_services", default=None)


def current() -> Directory | None:
    """The directory of the run that this code belongs to; None outside of a run with services."""
    return _CURRENT.get()


@contextmanager
def using(directory: Directory) -> Generator[None]:
    """Makes a directory the `current` one, here and in tasks begun here."""
    before = _CURRENT.set(directory)
    try:
        yield
    finally:
        _CURRENT.reset(before)
