"""An imperfect channel between a world and its agent: answers that are lost, garbled or late. The world itself is unchanged.

The first message of an episode is never touched, so that the task can be read; nor are rewards, endings, tools and metrics.
Which answers are hit is a function of the episode's seed and the turn, so an episode replays.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import msgspec
from msgspec import Struct

from phronesis.env import Admits, Env, EnvSpec, Expert, Legal, Snapshots
from phronesis.errors import ConfigError
from phronesis.records import Message, Reply, Task, TextPart
from phronesis.seeding import rng

LOST = "(no answer arrived)"


class Noise(Struct, frozen=True, kw_only=True):
    """How bad the channel is. Each is a probability, in [0, 1]."""

    drop: float = 0.0
    """An answer is replaced by a note that none arrived. What it was is not told again."""
    corrupt: float = 0.0
    """A digit or a letter of an answer in eight is replaced by another, the rest stays."""
    delay: float = 0.0
    """An answer comes one turn late, before that turn's own; its place is taken by a note."""

    def validate(self) -> None:
        """Refuses what is no probability.

        Raises:
            ConfigError: a number outside [0, 1], or all of them over 1 together.
        """
        for name in self.__struct_fields__:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"noise {name} {getattr(self, name)!r} must lie in [0, 1]")
        if self.drop + self.corrupt + self.delay > 1:
            raise ConfigError("noise drop, corrupt and delay are chances of one answer; together they must be at most 1")

    @property
    def any(self) -> bool:
        """Whether anything is wrong with the channel."""
        return self.drop + self.corrupt + self.delay > 0


def noisy(spec: EnvSpec, noise: Noise) -> EnvSpec:
    """The environment behind the channel. Its oracle still sees the world itself, so what it earns stays what it was.

    Raises:
        ConfigError: see `Noise.validate`.
    """
    noise.validate()
    if not noise.any:
        return spec
    return replace(spec, make=lambda: _behind(spec.make(), noise))


class NoisyEnv:
    """One episode behind the channel."""

    def __init__(self, inner: Env, noise: Noise):
        self.inner, self.noise = inner, noise
        self.seed, self.turn = 0, 0
        self.late: tuple[Message, ...] = ()

    async def reset(self, task: Task, seed: int) -> Reply:
        """Begins; the opening arrives whole."""
        self.seed, self.turn, self.late = seed, 0, ()
        return await self.inner.reset(task, seed)

    async def step(self, action: Message) -> Reply:
        """Answers, if the answer arrives."""
        self.turn += 1
        reply = await self.inner.step(action)
        chance = rng(self.seed, "noise", self.turn)
        late, self.late = self.late, ()
        fate = chance.random()
        messages = reply.messages
        hit = ""
        if fate < self.noise.drop:
            messages, hit = _noted(messages), "dropped"
        elif fate < self.noise.drop + self.noise.corrupt:
            messages, hit = tuple(_garbled(m, chance) for m in messages), "corrupted"
        elif fate < self.noise.drop + self.noise.corrupt + self.noise.delay:
            self.late, messages, hit = messages, _noted(messages), "delayed"
        if late:
            messages = (*messages[:-1], *_with_late(late, messages[-1:]))
        metrics = {**reply.metrics, f"noise_{hit}": 1.0} if hit else reply.metrics
        return msgspec.structs.replace(reply, messages=messages, metrics=metrics)

    async def close(self) -> None:
        """Closes the world."""
        await self.inner.close()


class _WithExpert(NoisyEnv):
    async def expert(self) -> Message:
        """What the world's own expert would do."""
        return await cast("Expert", self.inner).expert()


class _WithLegal(NoisyEnv):
    async def legal(self) -> Sequence[Message]:
        """What the world itself accepts."""
        return await cast("Legal", self.inner).legal()


class _WithSnapshots(NoisyEnv):
    async def snapshot(self) -> bytes:
        """The world's state and the channel's."""
        inner = await cast("Snapshots", self.inner).snapshot()
        return msgspec.msgpack.encode((inner, self.seed, self.turn, self.late))

    async def restore(self, state: bytes) -> None:
        """Continues from both."""
        inner, self.seed, self.turn, self.late = msgspec.msgpack.decode(state, type=tuple[bytes, int, int, tuple[Message, ...]])
        await cast("Snapshots", self.inner).restore(inner)


class _WithAdmits(NoisyEnv):
    @property
    def waits_for(self) -> str:
        """What the world waits for."""
        return cast("Admits", self.inner).waits_for

    async def admit(self) -> None:
        """Waits for the world's place, where it may turn out what the world can do."""
        await cast("Admits", self.inner).admit()
        self.__class__ = _kind(self.inner)  # pyright: ignore[reportAttributeAccessIssue]


def _kind(inner: Env) -> type[NoisyEnv]:
    """The channel with the capabilities that a world has."""
    able = ((_WithExpert, Expert), (_WithLegal, Legal), (_WithSnapshots, Snapshots), (_WithAdmits, Admits))
    bases = tuple(mixin for mixin, capability in able if isinstance(inner, capability))
    return cast("type[NoisyEnv]", type("NoisyEnv", bases or (NoisyEnv,), {}))


def _behind(inner: Env, noise: Noise) -> NoisyEnv:
    """The channel before a world."""
    return _kind(inner)(inner, noise)


def _noted(messages: Sequence[Message]) -> tuple[Message, ...]:
    """As many messages as there were, each saying that it did not arrive."""
    return tuple(msgspec.structs.replace(m, content=(TextPart(text=LOST),)) for m in messages)


def _with_late(late: Sequence[Message], last: Sequence[Message]) -> tuple[Message, ...]:
    """The last message, told after what came late."""
    text = "\n".join(f"(late) {m.text}" for m in late)
    return tuple(msgspec.structs.replace(m, content=(TextPart(text=f"{text}\n{m.text}"),)) for m in last)


def _garbled(message: Message, chance: random.Random) -> Message:
    """Replaces one letter or digit in eight, at least one, by another of its kind."""
    text = list(message.text)
    places = [i for i, c in enumerate(text) if c.isascii() and c.isalnum()]
    for i in chance.sample(places, min(len(places), max(1, len(places) // 8))):
        kind = "0123456789" if text[i].isdigit() else "abcdefghijklmnopqrstuvwxyz"
        text[i] = chance.choice([c for c in kind if c != text[i].lower()])
    return msgspec.structs.replace(message, content=(TextPart(text="".join(text)),))
