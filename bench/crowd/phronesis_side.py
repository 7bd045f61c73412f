"""Phronesis' side: the real session, chat format, groups, rubric and run folder; only the model and the tool are sleeps.

python -m bench.crowd.phronesis_side CONCURRENCY WORDS [--rounds 2] [--profile FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import random
import sys
import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from bench.crowd.plan import TURNS, WORDS, Clock, Found, Ticker, question, waits
from phronesis.chat.detect import format_for
from phronesis.chat.format import ChatFormat
from phronesis.env import EnvSpec
from phronesis.models.tokenizer import train_tokenizer
from phronesis.policy import Completion, SamplingParams, prompt_crc
from phronesis.reason.react import ReAct
from phronesis.records import Finish, Message, Reply, Task, ToolCall, ToolSpec, say
from phronesis.rewards import EnvReward
from phronesis.rollout.limits import Limits
from phronesis.rollout.pauses import short_pauses
from phronesis.rollout.play import Naming, Stage, Ticket, play_group
from phronesis.seeding import stream
from phronesis.store import Run
from phronesis.store.run import RunWriter
from phronesis.train.config import EnvChoice, RunConfig

GROUP = 8
THOUGHT = "The last answer names the next key, so I look that one up before I say anything."
TOOL = ToolSpec(
    name="look_up",
    description="Looks up a key and tells the next one.",
    parameters={"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
)


class Model:
    """A policy whose answers are known; it only takes its time, and reports what it consumed like any engine."""

    def __init__(self, chat: ChatFormat):
        calls = [
            Message(
                role="assistant",
                thought=THOUGHT,
                tool_calls=(ToolCall(id="", name="look_up", arguments={"key": f"{word}-{n}"}),),
            )
            for word in WORDS
            for n in range(20)
        ]
        rng = random.Random(0)
        self.said: list[tuple[tuple[int, ...], tuple[bool, ...], tuple[float, ...]]] = []
        for call in calls:
            ids = chat.render(call)
            self.said.append((ids, (True,) * len(ids), tuple(-rng.expovariate(2.0) for _ in ids)))
        self.waits: dict[str, list[float]] = {}

    async def sample(self, prompt: tuple[int, ...] | list[int], params: SamplingParams) -> Completion:
        """Any call, after this turn's time."""
        crc = prompt_crc(prompt)
        await asyncio.sleep(self.waits[params.cache_key or ""].pop())
        ids, sampled, logprobs = self.said[params.seed % len(self.said)]
        return Completion(
            ids=ids, sampled=sampled, logprobs=tuple(map(float, logprobs)), finish=Finish.stop, prompt_crc=crc,
            cached_tokens=len(prompt),
        )  # fmt: skip


class Desk:
    """A world of one tool that only takes its time."""

    def __init__(self, tool_waits: dict[int, list[float]], words: int):
        self.waits, self.words, self.turns = tool_waits, words, 0

    async def reset(self, task: Task, seed: int) -> Reply:
        """The question."""
        self.own = self.waits[seed]
        return Reply(messages=(say("user", question(int(task.id), self.words)),), tools=(TOOL,))

    async def step(self, action: Message) -> Reply:
        """What the key says."""
        await asyncio.sleep(self.own.pop())
        self.turns += 1
        call = action.tool_calls[0]
        text = f"The entry of {call.arguments['key']} says: go on with {WORDS[self.turns % 12]}-{self.turns} and do not stop."
        answer = Message(role="tool", content=say("tool", text).content, tool_call_id=call.id)
        return Reply(messages=(answer,), reward=1.0 if self.turns == TURNS else 0.0, done=self.turns == TURNS)

    async def close(self) -> None:
        """Nothing is held."""


class Crowd:
    """All episodes of one run: what they wait for, and the stage they play on."""

    def __init__(self, chat: ChatFormat, episodes: int, words: int):
        self.naming = Naming(name="crowd", seed=0, size=GROUP, step=0)
        self.model = Model(chat)
        self.lengths: list[float] = []
        tool_waits: dict[int, list[float]] = {}
        self.spec = EnvSpec(
            name="crowd", make=lambda: Desk(tool_waits, words), task=lambda split, index: Task(id=str(index), env="crowd"),
            rubric=EnvReward(), max_turns=TURNS,
        )  # fmt: skip
        self.groups = [self.naming.tickets(g, self.spec.task("train", g)) for g in range(episodes // GROUP)]
        for number, ticket in enumerate(t for group in self.groups for t in group):
            own = waits(number)
            self.model.waits[f"{ticket.id}/0"] = [w.model for w in reversed(own)]
            tool_waits[stream(ticket.seed, "env")] = [w.tool for w in reversed(own)]
            self.lengths.append(sum(w.model + w.tool for w in own))
        self.stage = Stage(
            spec=self.spec, policy=self.model, chat=chat, agent=ReAct(), limits=Limits(max_turns=TURNS, max_turn_tokens=256)
        )

    async def play(self, run: RunWriter, concurrency: int, clock: Clock, ticker: Ticker) -> list[float]:
        """Plays and stores every group; the seconds of each episode."""
        gate = asyncio.Semaphore(concurrency)
        taken: list[float] = []

        async def one(tickets: list[Ticket]) -> None:
            group = await play_group(self.stage, tickets, gate)
            for episode in group.episodes:
                if episode.stop.is_fault or len(episode.turns) != TURNS or episode.reward is None or episode.reward.value != 1:
                    raise RuntimeError(f"episode {episode.id} went wrong: {episode.stop} {episode.failure}")
                run.append(episode)
                taken.append(episode.seconds)

        async def weigh() -> None:
            await asyncio.sleep(min(self.lengths) * 0.8)
            clock.full()

        beside = [asyncio.create_task(ticker.run()), asyncio.create_task(weigh())]
        await asyncio.sleep(0)
        with clock:
            await asyncio.gather(*(one(tickets) for tickets in self.groups))
        for task in beside:
            task.cancel()
        return taken


def tokenizer() -> PreTrainedTokenizerFast:
    """That of every side that encodes."""
    return train_tokenizer([question(t, 60) for t in range(200)] + [THOUGHT, str(TOOL)] * 20, 900)


def measure(concurrency: int, words: int, rounds: float, profile: Path | None = None) -> Found:
    """One run of `rounds` times as many episodes as are in flight."""
    chat = format_for(tokenizer())
    episodes = round(concurrency * rounds) // GROUP * GROUP
    crowd, ticker, clock = Crowd(chat, episodes, words), Ticker(), Clock()
    opened = len(chat.open([say("user", question(0, words))], (TOOL,)))
    tracer = cProfile.Profile() if profile is not None else None
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(name="crowd", env=EnvChoice(name="countdown"))
        with Run.create(Path(folder) / "run", config) as run:
            if tracer is not None:
                tracer.enable()
            with short_pauses():
                taken = asyncio.run(crowd.play(run, concurrency, clock, ticker))
            if tracer is not None and profile is not None:
                tracer.disable()
                tracer.dump_stats(profile)
    print(f"prompt of {opened} tokens, {len(crowd.model.said[0][0])} tokens a turn", file=sys.stderr)
    return Found.of(crowd.lengths, taken, concurrency, ticker, clock)


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("concurrency", type=int)
    parser.add_argument("words", type=int)
    parser.add_argument("--rounds", type=float, default=2.0)
    parser.add_argument("--profile", type=Path)
    given = parser.parse_args(arguments)
    print(json.dumps(measure(given.concurrency, given.words, given.rounds, given.profile)._asdict()))


if __name__ == "__main__":
    main(sys.argv[1:])
