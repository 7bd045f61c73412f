"""A run whose episodes are played through the gateway is the run that plays them itself, bit for bit."""

import json
import socket
import sys
from pathlib import Path

import httpx
from msgspec.structs import replace
from outside_agents import agents, mirror

sys.path.append(str(Path(__file__).parents[1] / "train"))

import lessons
import tiny_jobs

from phronesis.gateway import GatewayConfig
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.config import EnvChoice


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def asker(spec, port, max_turns):
    """An agent that begins once the run listens."""

    async def run(stop):
        import asyncio

        while not stop.is_set():
            try:
                await mirror(spec, f"http://127.0.0.1:{port}", stop, max_turns)
                return
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
            except (httpx.TransportError, httpx.HTTPStatusError):
                return  # the run is over

    return run


def outcome(folder, steps):
    """What two runs must agree on: weights, and of every episode what was asked, sampled and earned."""
    with Run.open(folder) as run:
        episodes = {}
        for row in run.rows():
            episode = run.read(row)
            turns = [(t.context, t.completion, t.logprobs, t.version, t.seed, t.prompt_crc) for t in episode.turns]
            episodes[row.kind, row.id] = (episode.task.id, episode.seed, turns, episode.reward.value, episode.stop)
        return tiny_jobs.weights(folder, steps), episodes


def test_outside_agents_and_inside_play_give_the_same_run(tmp_path):
    spec = lessons.memory()
    inside = tiny_jobs.config(env=EnvChoice(name="lessons:memory"))
    job.run(inside, tmp_path / "inside")
    port = free_port()
    outside = replace(inside, gateway=GatewayConfig(port=port))
    with agents(3, asker(spec, port, inside.limits.max_turns)):
        summary = job.run(outside, tmp_path / "outside")
    mine, theirs = outcome(tmp_path / "inside", 4), outcome(tmp_path / "outside", 4)
    swapped = {k for k in mine[1] if k[0] == "heldout_swapped"}
    assert {k: v for k, v in mine[1].items() if k not in swapped} == theirs[1]
    assert mine[0] == theirs[0]
    assert len(theirs[1]) > 40
    results = json.loads((tmp_path / "outside" / "summary.json").read_text())
    assert results and summary.steps == 4
