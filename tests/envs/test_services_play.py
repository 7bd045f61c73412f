"""Pins: an episode at a service is the one it would be here; what breaks there is a typed fault; no call is done twice."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import msgspec
import pytest
from served_worlds import Counter, counter, until

from phronesis.config import arguments
from phronesis.env import Admits, Env, EnvSpec, Expert, Legal, Snapshots
from phronesis.envs import registry
from phronesis.envs.services import remote
from phronesis.envs.services.directory import Directory, using
from phronesis.envs.services.env import ServedEnv
from phronesis.envs.services.identity import Identity, identify
from phronesis.envs.services.known import State
from phronesis.envs.services.link import Link
from phronesis.envs.services.remote import RemoteRubric, RemoteTasks, about
from phronesis.envs.services.served import Served, make, served_in
from phronesis.envs.services.service import Service, tidied
from phronesis.envs.services.sessions import Sessions
from phronesis.envs.services.wire import Begin, Call, Refused, Registration, encode
from phronesis.errors import ConfigError, EnvFault, ServiceFault, UnknownName
from phronesis.records import Episode, EpisodeGroup, Reply, Stop, say
from phronesis.serving import serving

NAME = "served_worlds:counter"


@asynccontextmanager
async def served(spec: EnvSpec, identity: Identity, capacity: int = 8, **settings) -> AsyncGenerator[tuple[str, Sessions]]:
    """A service on this event loop."""
    sessions = Sessions(spec, capacity=capacity, **settings)
    app = Service(spec, identity, sessions).application()
    async with tidied(sessions, 0.05), serving(app, host="127.0.0.1", port=0, setting="port") as at:
        yield at, sessions


def known(directory: Directory, at: str, spec: EnvSpec, capacity: int = 8) -> None:
    """Registers a service, as its announcer would."""
    world = served_in(spec)[0]
    world.expected(directory)
    abilities = ("snapshot", "legal") if "plain" not in world.identity.args else ()
    directory.register(Registration(name=NAME, url=at, capacity=capacity, identity=world.identity, abilities=abilities))


@asynccontextmanager
async def one_service(**changes) -> AsyncGenerator[tuple[EnvSpec, Directory, Sessions]]:
    """A served world with one service, in a directory that is in use."""
    args = changes.pop("args", {})
    spec, local, directory = make(NAME, args, wait_seconds=changes.pop("wait", 5.0)), counter(**args), Directory()
    capacity = changes.pop("capacity", 8)
    async with served(local, identify(NAME, args, local), changes.pop("places", capacity), **changes) as (at, sessions):
        known(directory, at, spec, capacity)
        with using(directory):
            yield spec, directory, sessions


async def play(env: Env, spec: EnvSpec, index: int, seed: int = 3) -> list[Reply]:
    try:
        replies = [await env.reset(spec.task("train", index), seed)]
        while not replies[-1].done:
            replies.append(await env.step(say("assistant", "one é☃\0")))
        return replies
    finally:
        await env.close()


async def test_an_episode_at_a_service_is_the_one_it_would_be_here():
    async with one_service() as (spec, directory, sessions):
        for index in (0, 1, 5):  # 5 holds a number of more than 64 bits
            there, here = await play(spec.make(), spec, index), await play(counter().make(), spec, index)
            assert there == here and [r.metrics for r in there] == [r.metrics for r in here]
        assert len(sessions) == 0 and directory.services()[0].placed == 0


async def test_capabilities_are_those_of_the_world():
    async with one_service() as (spec, _, sessions):
        env = spec.make()
        assert isinstance(env, ServedEnv) and isinstance(env, Snapshots) and isinstance(env, Legal)
        assert isinstance(env, Admits) and not isinstance(env, Expert)
        await env.reset(spec.task("train", 0), 1)
        await env.step(say("assistant", "one"))
        state = await env.snapshot()
        assert state == bytes([1, 0, 255])
        assert await env.legal() == tuple(await counter().make().legal())
        other = spec.make()
        await other.restore(state)  # never reset
        assert len(sessions) == 2
        assert (await other.step(say("assistant", "one"))).state_key == "2"
        await env.close()
        await other.close()
        with pytest.raises(EnvFault, match="never begun, or is closed"):
            await env.step(say("assistant", "one"))
    async with one_service(args={"plain": True}) as (spec, _, _):
        env = spec.make()
        await env.reset(spec.task("train", 0), 1)
        assert not isinstance(env, Snapshots) and not isinstance(env, Legal)
        await env.close()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("fail", "ValueError: the world broke"),
        ("hang", "step gave no answer within 0.2 s"),
        ("nonsense", "step returned 'str', expected phronesis.records.Reply"),
        ("unencodable", r"metrics\['x'\] is <object"),
    ],
)
async def test_a_world_that_fails_there_is_the_worlds_fault(word: str, said: str):
    async with one_service(call_seconds=0.2) as (spec, directory, sessions):
        env = spec.make()
        await env.reset(spec.task("train", 0), 1)
        with pytest.raises(EnvFault, match=said) as fault:
            await env.step(say("assistant", word))
        assert not isinstance(fault.value, ServiceFault) and directory.services()[0].state is State.alive
        await env.close()
        assert len(sessions) == 0


async def test_a_service_that_is_gone_is_a_service_fault_and_gets_no_more_episodes():
    async with one_service() as (spec, directory, _):
        env = spec.make()
        await env.reset(spec.task("train", 0), 1)
    with using(directory):
        with pytest.raises(ServiceFault, match="cannot be reached"):
            await env.step(say("assistant", "one"))
        assert directory.services()[0].state is State.suspected
        await env.close()
        assert directory.services()[0].placed == 0


async def test_an_unreachable_service_is_passed_over_for_another():
    async with one_service(capacity=1) as (spec, directory, _):
        known(directory, "http://127.0.0.1:9", spec, capacity=100)
        assert await play(spec.make(), spec, 0) == await play(counter().make(), spec, 0)
        for service in directory.services():
            assert service.placed == 0
        env = spec.make()
        await env.admit()
        assert env.service.about.capacity == 1
        await env.close()


async def test_a_service_full_with_the_episodes_of_others_is_waited_for():
    async with one_service(places=1) as (spec, directory, sessions):
        sessions.open("0123456789abcdef", "another run")
        waiting = asyncio.create_task(play(spec.make(), spec, 0))
        await until(lambda: "asked again later" in directory.why(served_in(spec)[0].expected(directory)))
        await sessions.close("0123456789abcdef")
        assert len(await asyncio.wait_for(waiting, 10)) == 4


async def test_more_episodes_than_places_all_get_played_and_never_more_at_once():
    async with one_service(capacity=3, args={"delay": 0.002}) as (spec, _, sessions):
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(sessions))
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        played = await asyncio.gather(*(play(spec.make(), spec, i) for i in range(20)))
        watching.cancel()
        assert played == [await play(counter().make(), spec, i) for i in range(20)] and most == 3


async def test_a_session_nobody_asks_expires():
    async with one_service(idle_seconds=0.1) as (spec, directory, sessions):
        env = spec.make()
        await env.reset(spec.task("train", 0), 1)
        await until(lambda: len(sessions) == 0)
        assert sessions.expired == 1
        with pytest.raises(ServiceFault, match="nobody asked anything for long"):
            await env.step(say("assistant", "one"))
        assert directory.services()[0].state is State.alive
        await env.close()


async def test_an_episode_that_is_given_up_is_closed_there_whatever_it_does():
    async with one_service() as (spec, _, sessions):
        env = spec.make()
        await env.reset(spec.task("train", 0), 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await env.step(say("assistant", "hang"))
        assert len(sessions) == 1
        await env.close()
        assert len(sessions) == 0


async def test_a_place_that_was_given_up_while_it_was_taken_is_free_again():
    """The session is open, its opener is cancelled before it hears of it; kept for half an hour, places would run out."""
    async with one_service(capacity=1) as (spec, directory, sessions):
        env = spec.make()
        admitting = asyncio.create_task(env.admit())
        while not len(sessions):
            await asyncio.sleep(0)
        admitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await admitting
        assert len(sessions) == 0 and directory.services()[0].placed == 0


async def test_a_world_that_lets_nobody_cancel_it_is_closed_all_the_same():
    class Stubborn(Counter):
        async def step(self, action):
            while not over.is_set():
                with suppress(asyncio.CancelledError):
                    await over.wait()

    over = asyncio.Event()
    sessions = Sessions(replace(counter(), make=Stubborn), capacity=1, call_seconds=0.1)
    sessions.open("0123456789abcdef", "run")
    await sessions.ask("0123456789abcdef", "reset", Call(number=1, task=counter().task("train", 0), seed=1))
    step = asyncio.create_task(sessions.ask("0123456789abcdef", "step", Call(number=2, action=say("assistant", "x"))))
    await asyncio.sleep(0.02)
    await asyncio.wait_for(sessions.close("0123456789abcdef"), 10)
    assert len(sessions) == 0 and sessions.empty.is_set()
    over.set()
    await asyncio.wait([step])


async def test_episodes_of_a_run_that_is_no_more_are_closed_together():
    """One after the other, slow ones would keep the places of all."""
    together = asyncio.Barrier(3)

    class Slow(Counter):
        async def close(self):
            await together.wait()

    sessions = Sessions(replace(counter(), make=Slow), capacity=4)
    for number, run in enumerate(("gone", "gone", "here", "gone")):
        sessions.open(f"{number:016}", run)
    await asyncio.wait_for(sessions.disown("gone"), 10)
    assert len(sessions) == 1


async def test_a_call_that_comes_twice_is_done_once():
    local = counter()
    identity = identify(NAME, {}, local)
    async with served(local, identity) as (at, sessions):
        link, other = Link(at), Link(at)
        session = "/sessions/0123456789abcdef"
        begin, kind = encode(Begin(digest=identity.digest))
        for _ in range(2):
            await link.ask("PUT", session, begin, kind)
        assert len(sessions) == 1
        reset, kind = encode(Call(number=1, task=local.task("train", 0), seed=1))
        await link.ask("POST", f"{session}/reset", reset, kind)
        step, kind = encode(Call(number=2, action=say("assistant", "one")))
        answers = [await a.ask("POST", f"{session}/step", step, kind) for a in (link, link, other)]
        assert len({a.content for a in answers}) == 1
        assert msgspec.msgpack.decode(answers[0].content, type=Reply).state_key == "1"
        for number in (1, 4):
            late, kind = encode(Call(number=number, action=say("assistant", "one")))
            with pytest.raises(Refused, match="came while call 2 was the last one"):
                await link.ask("POST", f"{session}/step", late, kind)
        link.close()
        other.close()


async def test_a_connection_that_broke_between_calls_is_opened_again():
    async with one_service() as (spec, _, _):
        env = spec.make()
        await env.reset(spec.task("train", 0), 1)
        env._link._writer.transport.abort()
        assert (await env.step(say("assistant", "one"))).state_key == "1"
        await env.close()


async def test_sessions_of_another_world_are_refused():
    async with one_service() as (spec, directory, _):
        world = served_in(spec)[0]
        other = make(NAME, {"delay": 0.5})
        wrong = Registration(
            name=NAME, url=directory.services()[0].about.url, capacity=4, identity=served_in(other)[0].identity
        )
        served_in(other)[0].expected(directory)
        directory.deregister(directory.services()[0].id)
        directory.register(wrong)
        with pytest.raises(ServiceFault, match=r"refused \(other_world\)"):
            await other.make().reset(spec.task("train", 0), 1)
        assert world.identity != served_in(other)[0].identity


def test_without_a_run_the_code_at_hand_plays():
    spec = registry.get("served", {"env": "ledger", "args": {"max_difficulty": 1}})
    assert type(spec.make()).__name__ == "LedgerEnv" and isinstance(spec.make, Served)
    local = registry.get("ledger", {"max_difficulty": 1})
    assert spec.task("train", 4) == local.task("train", 4) and spec.demonstrate is not None
    assert spec.name == "ledger"


def test_a_served_world_of_a_served_world_and_no_patience_are_refused():
    with pytest.raises(ConfigError, match="played by services already"):
        make("served", {"env": "ledger"})
    with pytest.raises(ConfigError, match="must be positive"):
        make("ledger", {}, wait_seconds=0)


def test_identities_differ_where_the_game_does():
    same = identify("ledger", {"busy": 0.2}, registry.get("ledger", {"busy": 0.2}))
    assert same.digest == identify("ledger", {"busy": 0.2}, registry.get("ledger", {"busy": 0.2})).digest
    other = identify("ledger", {"max_difficulty": 1}, registry.get("ledger", {"max_difficulty": 1}))
    assert same.digest != other.digest and same.tasks != other.tasks
    own = identify(NAME, {}, counter())
    assert "served_worlds" in own.version and "phronesis" in own.version  # changes with the file


async def test_services_at_known_addresses_play_without_a_registrar():
    local = counter()
    async with served(local, identify(NAME, {}, local), capacity=2) as (at, sessions):
        spec = await asyncio.to_thread(make, NAME, {}, at=[f"{at}/"])
        seen = await asyncio.gather(*(play(spec.make(), spec, i) for i in range(6)))
        assert seen == [await play(counter().make(), spec, i) for i in range(6)]
        env = spec.make()
        await env.reset(spec.task("train", 0), 1)
        assert len(sessions) == 1
        await env.close()


async def test_a_world_whose_code_is_elsewhere_gives_tasks_episodes_and_rewards():
    local = counter()
    async with served(local, identify(NAME, {}, local)) as (at, _):
        spec = await asyncio.to_thread(make, NAME, {}, at=[at], code="there")
        about_of = await asyncio.to_thread(about, at)
        tasks = await asyncio.to_thread(lambda: [spec.task("train", i) for i in (0, 3, 20, 5, 10**6)])
        assert tasks == [local.task("train", i) for i in (0, 3, 20, 5, 10**6)]
        assert await asyncio.to_thread(spec.task, "heldout", 3) == local.task("heldout", 3) and spec.sizes == local.sizes
        for split, index in (("heldout", 4), ("train", -1)):
            with pytest.raises(ConfigError, match="there is no number"):
                spec.task(split, index)
        with pytest.raises(UnknownName, match="split of environment 'counter'"):
            spec.task("test", 0)
        assert await play(spec.make(), local, 0) == await play(counter().make(), local, 0)
        group = EpisodeGroup(id="g", task=tasks[0], episodes=(Episode(id="e", task=tasks[0], seed=1, stop=Stop.completed),))
        assert list(await spec.rubric.score(group)) == list(await local.rubric.score(group))
    with pytest.raises(ServiceFault, match="cannot be reached"):
        await spec.rubric.score(group)
    async with served(local, identify(NAME, {}, local)) as (other, _):
        asked = RemoteTasks([at, other], about_of)  # the first one is gone
        assert await asyncio.to_thread(asked, "train", 30) == local.task("train", 30)


async def test_a_service_that_stands_still_does_not_keep_the_others_from_judging(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "ALIVE_SECONDS", 0.2)
    over, local = asyncio.Event(), counter()

    async def stand(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    task, identity = local.task("train", 0), identify(NAME, {}, local)
    group = EpisodeGroup(id="g", task=task, episodes=(Episode(id="e", task=task, seed=1, stop=Stop.completed),))
    still = await asyncio.start_server(stand, "127.0.0.1", 0)
    async with still, served(local, identity) as (at, _):
        urls = [f"http://127.0.0.1:{still.sockets[0].getsockname()[1]}", at]
        rewards = await asyncio.wait_for(RemoteRubric(urls, identity.digest).score(group), 30)
        assert list(rewards) == list(await local.rubric.score(group))
        over.set()


async def test_a_service_at_a_known_address_that_plays_something_else_is_refused_at_once():
    local = counter(0.5)
    async with served(local, identify(NAME, {"delay": 0.5}, local)) as (at, _):
        for code in ("here", "there"):
            with pytest.raises(ConfigError, match=r"plays something else: args is \{'delay': 0.5\}, expected \{\}"):
                await asyncio.to_thread(make, NAME, {}, at=[at], code=code)
    with pytest.raises(ConfigError, match="no service answers at"):
        make(NAME, {}, at=[at])
    with pytest.raises(ConfigError, match="somebody must give the tasks"):
        make(NAME, {}, code="there")


async def test_a_known_address_that_failed_is_tried_again_after_a_while():
    now = 0.0
    directory, local = Directory(clock=lambda: now), counter()
    one = Registration(name=NAME, url="http://127.0.0.1:9", capacity=1, identity=identify(NAME, {}, local))
    world = directory.expect(NAME, one.identity)
    service = directory.register(one, fixed=True)
    directory.suspect(service, "it broke off")
    assert directory.place(world) is None
    now = 100.0
    directory.sweep()
    assert directory.place(world) is service and service.state is State.alive


def test_an_identity_says_the_command_that_serves_it():
    args = {"busy": 0.1, "habits": {"slip": 0}, "x": "a b", "l": [1, "q"], "t": True}
    name, *dials = shlex.split(Identity(env="ledger", args=args).words)
    assert name == "ledger" and arguments(dials) == args
