"""Pins services in processes of their own: known, killed, silent, leaving, full, unwanted, and a run that comes back."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager

import httpx
import msgspec
import pytest
from served_worlds import counter, machines, until
from test_services_play import NAME, play

from phronesis.envs.services.config import ServicesConfig
from phronesis.envs.services.directory import Directory, using
from phronesis.envs.services.known import State
from phronesis.envs.services.registrar import listening
from phronesis.envs.services.served import make, served_in
from phronesis.errors import ServiceFault
from phronesis.records import say

QUICK = ServicesConfig(heartbeat_seconds=0.1, suspect_seconds=1.0, lost_seconds=2.0)


@contextmanager
def a_run(config: ServicesConfig = QUICK, token: str | None = None, **args):
    """A directory that listens, of a run that plays the counter."""
    spec, directory = make(NAME, args, wait_seconds=60), Directory(config)
    served_in(spec)[0].expected(directory)
    with listening(directory, token) as at, using(directory):
        yield spec, directory, at


async def test_a_killed_service_faults_its_episodes_and_the_other_one_plays_on():
    with a_run(delay=0.01) as (spec, directory, at), machines() as start:
        victim = start(at, "delay=0.01", "--capacity", "2")
        await until(lambda: len(directory.services()) == 1)
        env = spec.make()
        await env.reset(spec.task("train", 0), 1)
        start(at, "delay=0.01", "--capacity", "2")
        await until(lambda: len(directory.services()) == 2)
        first, second = directory.services()
        victim.end(signal.SIGKILL)
        with pytest.raises(ServiceFault, match="cannot be reached"):
            await env.step(say("assistant", "one"))
        await env.close()
        assert first.state is State.suspected and first.placed == 0  # at once, not after missed heartbeats
        here = [await play(counter().make(), spec, i) for i in range(6)]
        assert await asyncio.gather(*(play(spec.make(), spec, i) for i in range(6))) == here
        await until(lambda: first.state is State.gone)
        assert directory.services() == [second]
        await until(lambda: second.state is State.alive)


async def test_a_world_that_ends_its_process_is_a_service_fault():
    with a_run() as (spec, _, at), machines() as start:
        machine = start(at)
        env = spec.make()
        await env.reset(spec.task("train", 0), 1)  # waits until it is there
        with pytest.raises(ServiceFault):
            await env.step(say("assistant", "die"))
        await env.close()
        assert machine.wait()[0] == 9


async def test_a_service_that_stands_still_is_suspected_and_its_calls_end_when_it_is_removed():
    with a_run() as (spec, directory, at), machines() as start:
        machine = start(at)
        env = spec.make()
        await env.reset(spec.task("train", 0), 1)
        (service,) = directory.services()
        machine.process.send_signal(signal.SIGSTOP)  # its connections stay open
        step = asyncio.create_task(env.step(say("assistant", "one")))
        await until(lambda: service.state is State.suspected)
        assert not step.done()
        with pytest.raises(ServiceFault, match=r"is lost: nothing was heard of it for \d"):
            await step
        await env.close()
        machine.process.send_signal(signal.SIGCONT)
        await until(lambda: len(directory.services()) == 1)  # it registers again
        assert await play(spec.make(), spec, 0) == await play(counter().make(), spec, 0)


async def test_a_world_that_computes_for_long_is_not_lost():
    with a_run() as (spec, directory, at), machines() as start:
        start(at)
        env = spec.make()
        await env.reset(spec.task("train", 0), 1)
        seen: list[str] = []
        directory.on_event = lambda kind, service: seen.append(kind)
        assert (await env.step(say("assistant", "compute"))).state_key == "1"  # 3 s; 2 s of silence would be too long
        assert "gone" not in seen
        await env.close()


async def test_on_sigterm_a_service_takes_nothing_new_and_finishes_what_it_plays():
    with a_run() as (spec, directory, at), machines() as start:
        leaving = start(at)
        env = spec.make()
        await env.reset(spec.task("train", 1), 1)
        leaving.process.send_signal(signal.SIGTERM)
        (service,) = directory.services()
        await until(lambda: service.state is State.draining)
        start(at)
        pid = spec.make()
        await pid.reset(spec.task("train", 0), 1)  # waits for the new one
        assert (await pid.step(say("assistant", "pid"))).messages[0].text != str(leaving.process.pid)
        await pid.close()
        replies = [await env.step(say("assistant", "one")) for _ in range(2)]
        assert [r.done for r in replies] == [False, True] and leaving.process.poll() is None
        await env.close()
        code, said = await asyncio.to_thread(leaving.wait)
        assert code == 0 and "leaving when 1 episodes are over" in said
        assert service.state is State.gone


async def test_a_second_signal_ends_a_service_at_once():
    with a_run() as (spec, directory, at), machines() as start:
        machine = start(at)
        env = spec.make()
        await env.reset(spec.task("train", 1), 1)
        machine.process.send_signal(signal.SIGTERM)
        await until(lambda: directory.services()[0].state is State.draining)
        assert (await asyncio.to_thread(machine.end))[0] == -signal.SIGTERM
        await env.close()


async def test_services_register_again_with_a_run_that_comes_back_and_forget_the_old_one():
    with machines() as start:
        with a_run() as (spec, directory, at):
            start(at, "--capacity", "1")
            env = spec.make()
            await env.reset(spec.task("train", 0), 1)
        port = int(at.rpartition(":")[2])  # that run is gone, killed perhaps, and never closed its episode
        with a_run(ServicesConfig(port=port, heartbeat_seconds=0.1, suspect_seconds=1, lost_seconds=2)) as (spec, later, again):
            assert again == at and later.run != directory.run
            assert await play(spec.make(), spec, 0) == await play(counter().make(), spec, 0)  # the only place is free again
        await env.close()


async def test_the_token_is_asked_for_on_both_sides():
    with a_run(token="secret") as (spec, directory, at), machines() as start:
        code, said = await asyncio.to_thread(start(at, token="guess").wait)
        assert code == 2 and "PHRONESIS_SERVICES_TOKEN" in said and "refuses this service" in said
        assert httpx.get(f"{at}/services").status_code == 401
        start(at, token="secret")
        await until(lambda: len(directory.services()) == 1)
        about = directory.services()[0].about
        assert httpx.get(about.url).status_code == 401
        with pytest.raises(ServiceFault, match="unauthorized"):
            await play(spec.make(), spec, 0)  # this process has no token
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PHRONESIS_SERVICES_TOKEN", "secret")
            assert await play(spec.make(), spec, 0) == await play(counter().make(), spec, 0)


async def test_a_service_that_plays_something_else_says_so_and_ends():
    with a_run() as (_, directory, at), machines() as start:
        code, said = await asyncio.to_thread(start(at, "delay=0.5").wait)
        assert code == 2 and "args is {'delay': 0.5}, expected {}" in " ".join(said.split())
        assert directory.services() == []


async def test_people_can_read_who_is_there():
    with a_run() as (_, directory, at), machines() as start:
        start(at, "--capacity", "3")
        await until(lambda: len(directory.services()) == 1)
        said = httpx.get(f"{at}/services", headers={"accept": "text/plain"}).text
        assert "is alive, 0 of 3 places taken" in said
        (row,) = msgspec.json.decode(httpx.get(f"{at}/services").content)
        assert (row["name"], row["state"], row["capacity"], row["placed"]) == (NAME, "alive", 3, 0)
