"""The side of verifiers, run by its own interpreter: `ToolEnv.generate`, with a client whose model only sleeps.

.venv-catalogues/verifiers-v0/bin/python -m bench.crowd.verifiers_side CONCURRENCY WORDS [--rounds 2]

Messages alone: the client gives no token ids, so nothing is encoded, checked or kept there. Every episode says one last
message without a call, which takes no time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import sys
import time
from contextvars import ContextVar

import verifiers as vf
from datasets import Dataset
from verifiers.clients.client import Client
from verifiers.types import Response, ResponseMessage, ToolCall

from bench.crowd.plan import WORDS, Clock, Found, Ticker, question, waits

GROUP = 8
THOUGHT = "The last answer names the next key, so I look that one up before I say anything."
EPISODE: ContextVar[Episode] = ContextVar("episode")


class Episode:
    """What one episode has still to wait for."""

    def __init__(self, number: int):
        own = waits(number)
        self.model, self.tool = [w.model for w in reversed(own)], [w.tool for w in reversed(own)]
        self.length = sum(w.model + w.tool for w in own)
        self.began, self.ended = time.perf_counter(), 0.0


class Model(Client):
    """A client that sleeps."""

    def __init__(self) -> None:
        super().__init__(None)
        self.episodes: dict[str, Episode] = {}
        self.draws = random.Random(1)

    def setup_client(self, config):
        return None

    async def to_native_tool(self, tool):
        return tool

    async def to_native_prompt(self, messages):
        return messages, {}

    async def get_native_response(self, prompt, model, sampling_args, tools=None, **kwargs):
        id = kwargs["state"]["trajectory_id"]
        episode = self.episodes.get(id)
        if episode is None:
            episode = self.episodes[id] = Episode(len(self.episodes))
        EPISODE.set(episode)
        if not episode.model:
            episode.ended = time.perf_counter()
            return None
        await asyncio.sleep(episode.model.pop())
        return f"{self.draws.choice(WORDS)}-{self.draws.randrange(20)}"

    async def raise_from_native_response(self, response):
        return None

    async def from_native_response(self, response):
        calls = None
        if response is not None:
            calls = [ToolCall(id="call", name="look_up", arguments=json.dumps({"key": response}))]
        text = THOUGHT if calls else "Done."
        message = ResponseMessage(
            content=text, tool_calls=calls, finish_reason="tool_calls" if calls else "stop", is_truncated=False
        )
        return Response(id="x", created=0, model="none", message=message)

    async def close(self):
        return None


async def look_up(key: str) -> str:
    """Looks up a key and tells the next one.

    Args:
        key: the key.
    """
    episode = EPISODE.get()
    await asyncio.sleep(episode.tool.pop())
    n = 8 - len(episode.tool)
    return f"The entry of {key} says: go on with {WORDS[n % 12]}-{n} and do not stop."


async def one(completion, **_) -> float:
    """A reward."""
    return 1.0


async def play(concurrency: int, words: int, episodes: int) -> Found:
    """Every episode, scored."""
    rows = [{"question": question(t, words), "answer": ""} for t in range(episodes // GROUP)]
    env = vf.ToolEnv(dataset=Dataset.from_list(rows), tools=[look_up], rubric=vf.Rubric(funcs=[one]), max_turns=12)
    inputs = env.get_dataset().repeat(GROUP).sort("example_id").to_list()
    model, clock, ticker = Model(), Clock(), Ticker()

    async def weigh() -> None:
        await asyncio.sleep(3.0)
        clock.full()

    beside = [asyncio.create_task(ticker.run()), asyncio.create_task(weigh())]
    await asyncio.sleep(0)
    with clock:
        await env.generate(
            inputs, model, "none", max_concurrent=concurrency, independent_scoring=True, on_start=lambda *_: None,
            on_progress=lambda *_: None, on_log=lambda *_: None,
        )  # fmt: skip
    for task in beside:
        task.cancel()
    done = list(model.episodes.values())
    if len(done) != episodes or any(e.tool or not e.ended for e in done):
        raise RuntimeError(f"{len(done)} of {episodes} episodes")
    return Found.of([e.length for e in done], [e.ended - e.began for e in done], concurrency, ticker, clock)


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("concurrency", type=int)
    parser.add_argument("words", type=int)
    parser.add_argument("--rounds", type=float, default=2.0)
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    episodes = round(given.concurrency * given.rounds) // GROUP * GROUP
    print(json.dumps(asyncio.run(play(given.concurrency, given.words, episodes))._asdict()))


if __name__ == "__main__":
    main(sys.argv[1:])
