"""What the rules of the checker share: tasks to look at, ways to play them under a deadline, and the two ways to object."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from phronesis.env import Env, EnvSpec, Speaker
from phronesis.envs.guard import validate_reply
from phronesis.envs.scripted import Clock, Played, play_scripted, reward_of
from phronesis.records import Message, Reply, Task
from phronesis.seeding import stream

SAMPLE = 12
"""Tasks looked at per split where looking is cheap but not free."""


class Broken(Exception):
    """The environment breaks this rule; the text says how, and what to do."""


class NotApplicable(Exception):
    """The rule does not apply; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Rewards of one agent."""

    mean: float
    """Mean reward."""
    n: int
    """Episodes."""
    spread: float
    """Standard deviation of the rewards."""


class Inspection:
    """What the rules share: the environment, tasks of it, and ways to play them."""

    def __init__(self, spec: EnvSpec, *, split: str, seed: int, clock: Clock):
        self.spec, self.split, self.seed, self.clock = spec, split, seed, clock

    def task(self, index: int) -> Task:
        """A task of the split; a finite split is gone through again and again."""
        size = self.spec.sizes.get(self.split)
        return self.spec.task(self.split, index % size if size else index)

    async def play(self, index: int, speaker: Speaker, *, seed: int | None = None, max_turns: int | None = None) -> Played:
        """One scripted episode of task `index`."""
        seed = stream(self.seed, "check", index) if seed is None else seed
        return await play_scripted(self.spec, self.task(index), seed, speaker, clock=self.clock, max_turns=max_turns)

    async def open(self, index: int) -> tuple[Env, Reply]:
        """A fresh environment and its opening."""
        env = self.spec.make()
        return env, await self.reset(env, self.task(index), stream(self.seed, "check", index))

    async def reset(self, env: Env, task: Task, seed: int) -> Reply:
        """The validated opening."""
        return validate_reply(await self.clock.call("reset", env.reset(task, seed)), opening=True)

    async def step(self, env: Env, action: Message) -> Reply:
        """The validated answer."""
        return validate_reply(await self.clock.call("step", env.step(action)))

    async def close(self, env: Env) -> None:
        """Closes under the deadline."""
        await self.clock.call("close", env.close())

    async def scores(self, speaker: Callable[[int], Speaker], n: int, seconds: float = math.inf) -> Score:
        """Rewards of up to `n` episodes, fewer when the time runs out (at least 10)."""
        began, rewards = asyncio.get_running_loop().time(), list[float]()
        for i in range(n):
            played = await self.play(i, speaker(i))
            value = (await reward_of(self.spec, played.episode)).value
            if value is None:
                raise Broken(f"the rubric left an episode unscored that ended with {played.episode.stop.value!r}")
            rewards.append(value)
            if len(rewards) >= 10 and asyncio.get_running_loop().time() - began > seconds:
                break
        mean = math.fsum(rewards) / len(rewards)
        return Score(mean=mean, n=len(rewards), spread=math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / len(rewards)))
