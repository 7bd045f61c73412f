"""Pins who is there and who gets the next episode: heartbeats, leaving, places, first come first served; time is told."""

from __future__ import annotations

import asyncio
import threading

import pytest

from phronesis.envs.services.config import ServicesConfig
from phronesis.envs.services.directory import Directory
from phronesis.envs.services.identity import Identity
from phronesis.envs.services.known import State, World
from phronesis.envs.services.wire import Refused, Registration
from phronesis.errors import ConfigError, ServiceFault

LEDGER = Identity(env="ledger", args={"busy": 0.1}, version="phronesis 1", tasks="ab")
WORLD = World("ledger", LEDGER.digest)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def about(url: str = "http://a:1", capacity: int = 2, identity: Identity = LEDGER, name: str = "ledger") -> Registration:
    return Registration(name=name, url=url, capacity=capacity, identity=identity)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(clock: Clock) -> Directory:
    made = Directory(ServicesConfig(heartbeat_seconds=1, suspect_seconds=3, lost_seconds=10), clock)
    made.expect("ledger", LEDGER)
    return made


def pass_time(directory: Directory, clock: Clock, seconds: int, beating: tuple[str, ...] = ()) -> None:
    for _ in range(seconds):
        clock.now += 1
        for id in beating:
            directory.heartbeat(id, 0)
        directory.sweep()


def test_a_service_that_falls_silent_is_suspected_then_removed(directory: Directory, clock: Clock):
    seen = []
    directory.on_event = lambda kind, service: seen.append((clock.now, kind, service.id))
    dead, alive = directory.register(about("http://a:1")), directory.register(about("http://b:1"))
    pass_time(directory, clock, 2, (alive.id,))
    assert dead.state is State.alive
    pass_time(directory, clock, 1, (alive.id,))
    assert dead.state is State.suspected and alive.state is State.alive
    assert [directory.place(WORLD) for _ in range(3)] == [alive, alive, None]
    pass_time(directory, clock, 7, (alive.id,))
    assert dead.state is State.gone and directory.services() == [alive]
    assert seen == [
        (0, "registered", "ledger-0"),
        (0, "registered", "ledger-1"),
        (3, "suspected", "ledger-0"),
        (10, "gone", "ledger-0"),
    ]
    with pytest.raises(Refused, match="register again") as refused:
        directory.heartbeat(dead.id, 0)
    assert refused.value.status == 404
    assert "silent" not in directory.words(alive) and "nothing was heard of it for 10.0 s" in directory.words(dead)


def test_a_suspected_service_that_beats_gets_episodes_again(directory: Directory, clock: Clock):
    service = directory.register(about())
    pass_time(directory, clock, 4)
    assert directory.place(WORLD) is None
    directory.heartbeat(service.id, 0)
    assert directory.place(WORLD) is service


def test_time_in_which_nobody_could_be_heard_is_not_held_against_a_service(directory: Directory, clock: Clock):
    service = directory.register(about())
    clock.now += 100  # the machine slept
    directory.sweep()
    assert service.state is State.alive
    pass_time(directory, clock, 4)
    assert service.state is State.suspected


def test_the_least_loaded_service_gets_the_next_episode(directory: Directory):
    small, large = directory.register(about("http://a:1", 2)), directory.register(about("http://b:1", 4))
    placed = [directory.place(WORLD) for _ in range(7)]
    assert placed == [small, large, large, small, large, large, None]
    directory.release(large)
    assert directory.place(WORLD) is large
    assert (small.placed, large.placed) == (2, 4)


def test_what_others_play_there_breaks_a_tie(directory: Directory):
    one, two = directory.register(about("http://a:1")), directory.register(about("http://b:1"))
    directory.heartbeat(one.id, 1)
    assert [directory.place(WORLD) for _ in range(2)] == [two, one]


def test_leaving_takes_no_new_episodes_and_waits_for_those_that_are_played(directory: Directory):
    service = directory.register(about())
    directory.place(WORLD)
    assert directory.deregister(service.id).state is State.draining
    assert directory.place(WORLD) is None
    assert directory.heartbeat(service.id, 1).state is State.draining
    directory.release(service)
    assert service.state is State.gone and directory.services() == []


def test_registering_twice_is_one_service_and_with_other_facts_another(directory: Directory):
    first = directory.register(about())
    directory.place(WORLD)
    assert directory.register(about()) is first and first.placed == 1
    other = directory.register(about(capacity=9))
    assert other is not first and first.state is State.gone and directory.services() == [other]
    directory.release(first)  # by the episode that was played there
    assert other.placed == 0


def test_one_that_plays_something_else_is_refused_with_what_differs(directory: Directory):
    with pytest.raises(Refused, match=r"args is \{'busy': 0.2\}, expected \{'busy': 0.1\}") as refused:
        directory.register(about(identity=Identity(env="ledger", args={"busy": 0.2}, version="phronesis 1", tasks="ab")))
    assert (refused.value.status, refused.value.code) == (409, "other_world")
    with pytest.raises(Refused, match=r"this run plays \['ledger'\], nothing named 'guess'") as refused:
        directory.register(about(name="guess", identity=Identity(env="guess")))
    assert refused.value.status == 404
    assert directory.services() == []


async def test_those_who_wait_get_places_in_order(directory: Directory):
    service = directory.register(about(capacity=1))
    assert await directory.wait(WORLD, 5) is service
    got: list[int] = []

    async def want(n: int) -> None:
        await directory.wait(WORLD, 5)
        got.append(n)

    waiting = [asyncio.create_task(want(n)) for n in range(4)]
    await asyncio.sleep(0)
    assert directory.waiting(WORLD) == 4
    assert directory.place(WORLD) is None
    waiting[1].cancel()
    await asyncio.sleep(0.01)
    for _ in range(3):
        directory.release(service)
        assert directory.place(WORLD) is None  # nobody overtakes
        await asyncio.sleep(0.02)
    assert got == [0, 2, 3] and directory.waiting(WORLD) == 0
    directory.release(service)
    assert service.placed == 0


async def test_a_place_given_to_one_who_gave_up_is_not_lost(directory: Directory):
    service = directory.register(about(capacity=1))
    directory.place(WORLD)
    waiting = asyncio.create_task(directory.wait(WORLD, 5))
    await asyncio.sleep(0)
    directory.release(service)  # the place is on its way to the waiting one
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0.01)
    assert service.placed == 0


async def test_a_full_world_does_not_hold_up_another(directory: Directory):
    guess = Identity(env="guess")
    other = directory.expect("guess", guess)
    directory.register(about(capacity=1))
    free = directory.register(about("http://b:1", 1, guess, "guess"))
    directory.place(WORLD)
    stuck = asyncio.create_task(directory.wait(WORLD, 5))
    await asyncio.sleep(0)
    assert await asyncio.wait_for(directory.wait(other, 5), 1) is free
    stuck.cancel()
    await asyncio.wait([stuck])


async def test_waiting_has_an_end_and_says_what_for():
    directory = Directory()
    directory.expect("ledger", LEDGER)
    with pytest.raises(ServiceFault, match=r"no place at a service of 'ledger' for 0.05 s: none is there; start one with: .*"):
        await directory.wait(WORLD, 0.05)
    directory.place(WORLD)
    directory.register(about(capacity=1))
    directory.place(WORLD)
    with pytest.raises(ServiceFault, match=r"http://a:1 is alive, 1 of 1 places taken"):
        await directory.wait(WORLD, 0.05)


async def test_while_others_get_places_waiting_goes_on():
    directory = Directory()
    service = directory.register(about(capacity=1))
    directory.place(WORLD)
    first, last = (asyncio.create_task(directory.wait(WORLD, 0.5)) for _ in range(2))
    await asyncio.sleep(0.3)
    directory.release(service)
    directory.began(service)
    await asyncio.sleep(0.3)
    assert first.done() and not last.done()  # .6 s, but an episode began .3 s ago
    with pytest.raises(ServiceFault):
        await last
    directory.release(service)
    assert service.placed == 0


async def test_calls_in_flight_end_when_their_service_is_removed(directory: Directory, clock: Clock):
    service = directory.register(about())

    async def call() -> None:
        deadline = asyncio.timeout(100)
        async with deadline:
            with directory.flight(service, deadline):
                await asyncio.sleep(50)

    calls = [asyncio.create_task(call()) for _ in range(3)]
    await asyncio.sleep(0)
    thread = threading.Thread(target=pass_time, args=(directory, clock, 10))  # as the registrar's
    thread.start()
    done, late = await asyncio.wait(calls, timeout=5)
    thread.join()
    assert not late and all(isinstance(t.exception(), TimeoutError) for t in done) and not service.flights


def test_settings_that_cannot_work_are_refused():
    for wrong in (
        ServicesConfig(port=70000),
        ServicesConfig(heartbeat_seconds=0),
        ServicesConfig(suspect_seconds=1),
        ServicesConfig(lost_seconds=5),
    ):
        with pytest.raises(ConfigError, match="services"):
            wrong.validate(None)
    with pytest.raises(ConfigError, match="PHRONESIS_SERVICES_TOKEN"):
        ServicesConfig(host="0.0.0.0").validate(None)
    ServicesConfig(host="0.0.0.0").validate("secret")


async def test_a_service_that_fails_fast_does_not_attract_all_episodes(directory: Directory, clock: Clock):
    bad, good = directory.register(about("http://a:1", 100)), directory.register(about("http://b:1", 100))
    asked = []
    for second in range(40):
        clock.now = float(second)
        for service in (bad, good):
            directory.heartbeat(service.id, 0)
        placed = directory.place(WORLD)
        asked.append(placed)
        if placed is bad:
            directory.failed(bad, "no browser is installed")
            directory.release(bad)
        else:
            directory.began(good)
    assert [n for n, s in enumerate(asked) if s is bad] == [0, 1, 3, 7, 15, 31]  # then 2, 4, 8, 16 s apart
    assert "no browser is installed" in directory.words(bad)
    clock.now = 100.0
    directory.began(bad)
    assert bad.failed == 0 and directory.words(bad) == "http://a:1 is alive, 0 of 100 places taken"


async def test_waiting_for_services_that_only_fail_has_an_end():
    directory = Directory()
    service = directory.register(about(capacity=1))
    since = directory.clock()
    with pytest.raises(ServiceFault, match=r"cannot be reached"):
        while True:
            await directory.wait(WORLD, 0.3, since)
            directory.release(service)
            directory.suspect(service, "it cannot be reached")
            directory.heartbeat(service.id, 0)  # it reaches the run, and the run does not reach it
