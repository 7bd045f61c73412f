"""The probes with demonstrations: how to answer, in random or careless hands; what pays is left to be learned."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

from phronesis.env import Env, EnvSpec, Expert, Legal, Speaker
from phronesis.envs import probes
from phronesis.envs.scripted import Clock, play_scripted, uniform
from phronesis.records import Conversation, Message, Reply, Task, ToolSpec
from phronesis.seeding import rng, stream


def careless(source: random.Random) -> Speaker:
    """Looks, and says what it saw; but after a look that failed it guesses as often as it looks again."""
    looked = 0

    async def speak(env: Env, tools: tuple[ToolSpec, ...]) -> Message:
        nonlocal looked
        assert isinstance(env, Legal) and isinstance(env, Expert)
        look, *letters = await env.legal()
        best = await env.expert()
        if source.random() < (0.5 if best == look and looked else 0.9):
            looked += 1
            return best
        return source.choice(letters)

    return speak


def taught(spec: EnvSpec, manner: Callable[[random.Random], Speaker] = uniform) -> EnvSpec:
    """The environment, showing an agent that picks legal actions without knowing what they are good for."""

    async def show(index: int, seed: int) -> Conversation:
        task = spec.task("train", index % (spec.sizes["train"] or 1))
        speaker = manner(rng(seed, "lesson"))
        played = await play_scripted(spec, task, stream(seed, "world"), speaker, clock=Clock(5.0))
        pairs = zip(played.actions, played.replies, strict=True)
        return Conversation(
            opening=played.opening.messages,
            tools=played.opening.tools or (),
            exchanges=tuple((said, heard.messages) for said, heard in pairs),
        )

    return replace(spec, demonstrate=show)


def bandit() -> EnvSpec:
    return taught(probes.bandit())


def copy(letters: int = 2) -> EnvSpec:
    return taught(probes.copy(letters))


class _Slow:
    """An environment that takes some milliseconds for each answer."""

    def __init__(self, inner: Env):
        self._inner = inner

    async def reset(self, task: Task, seed: int) -> Reply:
        return await self._inner.reset(task, seed)

    async def step(self, action: Message) -> Reply:
        await asyncio.sleep(0.02)
        return await self._inner.step(action)

    async def close(self) -> None:
        await self._inner.close()


def slow_copy(letters: int = 2) -> EnvSpec:
    spec = copy(letters)
    return replace(spec, make=lambda: _Slow(spec.make()))


def memory(letters: int = 2) -> EnvSpec:
    return taught(probes.memory(letters))


def recovery(letters: int = 2, busy: int = 1) -> EnvSpec:
    return taught(probes.recovery(letters, busy), careless)
