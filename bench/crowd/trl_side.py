"""TRL's side, run by its own interpreter: the rollout loop of AsyncGRPOTrainer, in one process; model and tool only sleep.

.venv-trl/bin/python -m bench.crowd.trl_side TOKENIZER CONCURRENCY WORDS [--rounds 2]

`_AsyncRolloutLoop` is used as it is, but for three methods: the request to vLLM is a sleep (which spares it the HTTP client
that it has otherwise), the prompts end, and an episode's seconds are noted. Every episode says one last message without a
call, since that is how it ends there; that message takes no time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import queue
import random
import sys
import time
from contextvars import ContextVar
from types import SimpleNamespace

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from accelerate.state import PartialState
from datasets import Dataset
from transformers import AutoTokenizer
from trl.chat_template_utils import qwen3_template
from trl.experimental.async_grpo.async_rollout_worker import _AsyncRolloutLoop

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
        self.taken = 0.0


async def look_up(key: str) -> str:
    """Looks up a key and tells the next one.

    Args:
        key: the key.
    """
    episode = EPISODE.get()
    await asyncio.sleep(episode.tool.pop())
    n = 8 - len(episode.tool)
    return f"The entry of {key} says: go on with {WORDS[n % 12]}-{n} and do not stop."


def one(completions: list[object], **_: object) -> list[float]:
    """A reward."""
    return [1.0] * len(completions)


class Loop(_AsyncRolloutLoop):
    """Its loop with a model that sleeps."""

    def __init__(self, tokenizer: object, episodes: int, words: int, concurrency: int):
        rows = Dataset.from_list(
            [{"prompt": [{"role": "user", "content": question(t, words)}]} for t in range(episodes // GROUP)]
        )
        super().__init__(
            model_name="none", dataset=rows, reward_funcs=[one], processing_class=tokenizer,
            eos_token_ids=[tokenizer.convert_tokens_to_ids("<|im_end|>")], rollout_buffer=queue.Queue(),
            model_version_value=SimpleNamespace(value=0), heartbeat_value=SimpleNamespace(value=0.0), failed_event=None,
            exception_info_queue=None, metrics_queue=queue.Queue(), tools=[look_up], num_generations=GROUP,
            max_inflight_tasks=concurrency, score_queue_maxsize=0, max_tokens=256,
        )  # fmt: skip
        self.episodes: list[Episode] = []
        self.wanted = episodes
        self.enough = asyncio.Event()
        rng = random.Random(0)
        self.said = []
        for word in WORDS:
            for n in range(20):
                call = f'<tool_call>\n{{"name": "look_up", "arguments": {{"key": "{word}-{n}"}}}}\n</tool_call><|im_end|>'
                self.said.append(tokenizer.encode(THOUGHT + "\n" + call, add_special_tokens=False))
        self.last = tokenizer.encode("Done.<|im_end|>", add_special_tokens=False)
        self.logprobs = [-rng.expovariate(2.0) for _ in range(256)]
        self.draws = random.Random(1)

    def _repeat_iterator(self):
        for n, row in enumerate(super()._repeat_iterator()):
            if n == self.wanted - 1:
                self.enough.set()
            yield row

    async def _generate_one(self, *arguments, **settings):
        episode = Episode(len(self.episodes))
        self.episodes.append(episode)
        EPISODE.set(episode)
        began = time.perf_counter()
        found = await super()._generate_one(*arguments, **settings)
        episode.taken = time.perf_counter() - began
        if found[3] != 8 or found[4]:
            raise RuntimeError(f"{found[3]} calls, {found[4]} of them failed")
        return found

    async def _generate_one_turn(self, prompt_ids):
        episode = EPISODE.get()
        if not episode.model:
            return self.last, self.logprobs[: len(self.last)]
        await asyncio.sleep(episode.model.pop())
        ids = self.draws.choice(self.said)
        return list(ids), self.logprobs[: len(ids)]

    async def all(self, clock: Clock, ticker: Ticker) -> None:
        """Every episode, and the scores of every group."""

        async def weigh() -> None:
            await asyncio.sleep(3.0)
            clock.full()

        beside = [asyncio.create_task(ticker.run()), asyncio.create_task(weigh())]
        await asyncio.sleep(0)
        with clock:
            await asyncio.gather(self._generate_loop(self.enough), self._score_loop(asyncio.Event()))
        for task in beside:
            task.cancel()


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer")
    parser.add_argument("concurrency", type=int)
    parser.add_argument("words", type=int)
    parser.add_argument("--rounds", type=float, default=2.0)
    given = parser.parse_args(arguments)
    PartialState()
    tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
    # TRL knows templates of published models by their exact text; this one is another text of the same format.
    tokenizer.response_template = qwen3_template
    episodes = round(given.concurrency * given.rounds) // GROUP * GROUP
    loop = Loop(tokenizer, episodes, given.words, given.concurrency)
    clock, ticker = Clock(), Ticker()
    asyncio.run(loop.all(clock, ticker))
    if len(loop.episodes) != episodes or loop._total_groups_scored != episodes // GROUP:
        raise RuntimeError(f"{len(loop.episodes)} episodes, {loop._total_groups_scored} groups scored")
    found = Found.of([e.length for e in loop.episodes], [e.taken for e in loop.episodes], given.concurrency, ticker, clock)
    print(json.dumps(found._asdict()))


if __name__ == "__main__":
    main(sys.argv[1:])
