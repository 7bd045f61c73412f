"""The example of docs/gateway.md in a short version: an agent around the `openai` SDK gets better at held-out tasks."""

import asyncio
import threading
import time
from pathlib import Path

import agent
import httpx
import prime
from shop import prove
from test_train_from_gateway import free_port

from phronesis.store import Run
from phronesis.store.index import Where
from phronesis.train import job, presets

EXAMPLE = Path(prime.__file__).parent


def play_when_ready(address):
    """The agent, once the run listens."""
    until = time.monotonic() + 200
    while time.monotonic() < until:
        try:
            httpx.get(f"{address}/health", timeout=5)
            return asyncio.run(agent.main(address, 16, "unused"))
        except httpx.TransportError:
            time.sleep(0.1)
    return None


def test_the_agent_of_the_example_improves_on_held_out_tasks(tmp_path):
    prime.prime(tmp_path / "model", seed=0)
    port = free_port()
    changes = [f"model.path={tmp_path / 'model'}", f"gateway.port={port}", "steps=9", "evaluation.tasks=96"]
    config = presets.load([EXAMPLE / "pantry.toml"], changes)
    player = threading.Thread(target=play_when_ready, args=(f"http://127.0.0.1:{port}",), daemon=True)
    player.start()
    summary = job.run(config, tmp_path / "run")
    player.join(30)
    assert not player.is_alive()
    before, after = summary.heldout_before, summary.heldout_after
    assert before.n == after.n == 96 and before.faults == after.faults == 0
    assert after.success > before.success + 0.2
    with Run.open(tmp_path / "run") as run:
        episodes = list(run.episodes(Where(kind="train")))
        measured = [s.values for s in run.steps() if "gateway/episodes" in s.values]
    assert len(episodes) == 9 * 64
    for episode in map(prove, episodes):
        assert {t.version for t in episode.turns} == {(episode.step, episode.step)}
        assert [t.parent for t in episode.turns] == [None, *range(len(episode.turns) - 1)]
    assert all(v["gateway/rewritten"] == v["gateway/left_out"] == v["gateway/unrewarded"] == 0 for v in measured)
    assert max(v["mismatch/max_logprob_difference"] for v in measured) < 1e-3
