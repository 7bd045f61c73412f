"""What it costs that an environment's episodes are played by a service, another process on this machine, and not here.

The same scripted player plays the same tasks on both sides: one episode at a time, for the latency a step gains, and many at
once, for what one service plays in a second. Prices are per call (reset or step), over equal replies.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import NamedTuple

from bench.measure import Row, compare, quick
from phronesis.env import EnvSpec
from phronesis.envs import registry
from phronesis.envs.services.directory import Directory, using
from phronesis.envs.services.registrar import listening
from phronesis.envs.services.served import served_in
from phronesis.records import Message, Reply

WORLD, ARGS = "ledger", {"max_difficulty": 1}
EPISODES, ROUNDS, AT_ONCE = 150, 5, 64


class Played(NamedTuple):
    """One pass over the tasks."""

    replies: list[list[Reply]]
    """By episode."""
    wall: float
    """Seconds."""
    cpu: float
    """CPU-seconds of this process."""

    @property
    def calls(self) -> int:
        """Resets and steps."""
        return sum(map(len, self.replies))


async def scripts() -> list[list[Message]]:
    """What the oracle says in each episode."""
    spec, found = registry.get(WORLD, ARGS), []
    for index in range(10 if quick() else EPISODES):
        env, said = spec.make(), []
        reply = await env.reset(spec.task("train", index), index)
        while not reply.done:
            said.append(await env.expert())
            reply = await env.step(said[-1])
        await env.close()
        found.append(said)
    return found


async def played(spec: EnvSpec, actions: list[list[Message]], at_once: int) -> Played:
    """All episodes."""
    gate = asyncio.Semaphore(at_once)

    async def episode(index: int) -> list[Reply]:
        async with gate:
            env = spec.make()
            replies = [await env.reset(spec.task("train", index), index)]
            for action in actions[index]:
                replies.append(await env.step(action))
            await env.close()
            return replies

    wall, cpu = time.perf_counter(), time.process_time()
    replies = await asyncio.gather(*(episode(i) for i in range(len(actions))))
    return Played(list(replies), time.perf_counter() - wall, time.process_time() - cpu)


def used(process: int) -> float:
    """CPU-seconds of another process."""
    with open(f"/proc/{process}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def sides(here: EnvSpec, there: EnvSpec, actions: list[list[Message]], at_once: int, service: int) -> list[Row]:
    """Both sides, in turns."""
    ours, peer, extra = list[Played](), list[Played](), list[float]()
    for _ in range(1 if quick() else ROUNDS):
        peer.append(await played(here, actions, at_once))
        before = used(service)
        ours.append(await played(there, actions, at_once))
        extra.append(used(service) - before)
    assert all(p.replies == peer[0].replies for p in (*ours, *peer))
    calls = ours[0].calls

    def row(what: str, one: list[float], other: list[float]) -> Row:
        by_call = [[1e3 * seconds / calls for seconds in side] for side in (one, other)]
        return compare("services", f"{what}, {at_once} at once", *by_call, unit="ms", peer_name="in-process")

    wall, cpu = [p.wall for p in peer], [p.cpu for p in peer]
    return [
        row("wall time of a call", [p.wall for p in ours], wall),
        row("CPU of the run, a call", [p.cpu for p in ours], cpu),
        row("CPU of run and service, a call", [p.cpu + e for p, e in zip(ours, extra, strict=True)], cpu),
    ]


async def measured() -> list[Row]:
    """All rows."""
    here, there, directory = registry.get(WORLD, ARGS), registry.get("served", {"env": WORLD, "args": ARGS}), Directory()
    served_in(there)[0].expected(directory)
    actions, rows = await scripts(), []
    with listening(directory) as address, using(directory):
        words = [
            "env",
            "serve",
            WORLD,
            *(f"{k}={v}" for k, v in ARGS.items()),
            "--register",
            address,
            "--capacity",
            str(AT_ONCE),
        ]
        command = [sys.executable, "-c", "from phronesis.cli.main import main; raise SystemExit(main())", *words]
        service = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            await played(there, actions[:10], 1)  # warm
            for at_once in (1, AT_ONCE):
                rows += await sides(here, there, actions, at_once, service.pid)
        finally:
            service.terminate()
            service.wait()
    return rows


def services() -> list[Row]:
    """All rows."""
    return asyncio.run(measured())
