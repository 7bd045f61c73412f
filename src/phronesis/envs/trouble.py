"""A world behind a service that is slow and sometimes breaks: what infrastructure does, injected on purpose.

Unlike noise (`phronesis.envs.noise`), which is part of the world and the same at every replay, trouble is none of the task's:
it is drawn anew at every attempt, an episode it breaks is a fault and no failure of the policy, and one it does not break is
the episode that would have been played without it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from msgspec import Struct

from phronesis.env import Admits, Env, EnvSpec, Expert, Legal, Snapshots
from phronesis.errors import ConfigError
from phronesis.records import Message, Reply, Task


class Trouble(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How slow and how broken the service is."""

    latency: tuple[float, float] = (0.0, 0.0)
    """Seconds by which every answer to an action is held back, drawn evenly from this interval."""
    faults: float = 0.0
    """Share of attempts that a broken connection ends at one of the first actions, in [0, 1]."""
    hangs: float = 0.0
    """Share of attempts in which one of the first actions is never answered, in [0, 1]; `limits.env_seconds` ends the wait."""
    within: int = 3
    """Faults and hangs fall on one of this many first actions, drawn evenly; at least 1. An episode that is over before is
    spared."""

    def validate(self) -> None:
        """Refuses what cannot be.

        Raises:
            ConfigError: a number out of range.
        """
        low, high = self.latency
        if not 0 <= low <= high:
            raise ConfigError(f"trouble.latency needs 0 <= low <= high, got {self.latency!r}")
        if min(self.faults, self.hangs) < 0 or self.faults + self.hangs > 1:
            raise ConfigError(
                f"trouble.faults {self.faults!r} and trouble.hangs {self.hangs!r} are shares of attempts, together at most 1"
            )
        if self.within < 1:
            raise ConfigError(f"trouble.within must be at least 1, got {self.within!r}")


def troubled(spec: EnvSpec, trouble: Trouble, chance: random.Random | None = None) -> EnvSpec:
    """The environment behind such a service.

    Args:
        spec: what is played.
        trouble: what goes wrong.
        chance: draws it; None draws from the system, so that no two attempts share their luck.

    Raises:
        ConfigError: see `Trouble.validate`.
    """
    trouble.validate()
    source = chance or random.SystemRandom()
    return replace(spec, make=lambda: _behind(spec.make(), trouble, source))


class TroubledEnv:
    """One attempt behind the service."""

    def __init__(self, inner: Env, trouble: Trouble, chance: random.Random):
        self._inner, self._trouble, self._chance = inner, trouble, chance
        self._fate = chance.random()
        self._at = chance.randrange(trouble.within)
        self._actions = 0

    async def reset(self, task: Task, seed: int) -> Reply:
        """Begins; the opening always arrives."""
        return await self._inner.reset(task, seed)

    async def step(self, action: Message) -> Reply:
        """Answers late, if at all.

        Raises:
            ConnectionError: this attempt is one that breaks, here.
        """
        at, self._actions = self._actions, self._actions + 1
        low, high = self._trouble.latency
        if high:
            await asyncio.sleep(self._chance.uniform(low, high))
        if at == self._at and self._fate < self._trouble.faults:
            raise ConnectionError("injected: the connection to the service broke")
        if at == self._at and self._fate < self._trouble.faults + self._trouble.hangs:
            await asyncio.get_running_loop().create_future()
        return await self._inner.step(action)

    async def close(self) -> None:
        """Closes the world."""
        await self._inner.close()


class _WithExpert(TroubledEnv):
    async def expert(self) -> Message:
        """What the world's own expert would do."""
        return await cast("Expert", self._inner).expert()


class _WithLegal(TroubledEnv):
    async def legal(self) -> Sequence[Message]:
        """What the world itself accepts."""
        return await cast("Legal", self._inner).legal()


class _WithSnapshots(TroubledEnv):
    async def snapshot(self) -> bytes:
        """The world's state; trouble has none that is worth keeping."""
        return await cast("Snapshots", self._inner).snapshot()

    async def restore(self, state: bytes) -> None:
        """Continues from it."""
        await cast("Snapshots", self._inner).restore(state)


class _WithAdmits(TroubledEnv):
    @property
    def waits_for(self) -> str:
        """What the world waits for."""
        return cast("Admits", self._inner).waits_for

    async def admit(self) -> None:
        """Waits for the world's place, where it may turn out what the world can do."""
        await cast("Admits", self._inner).admit()
        self.__class__ = _kind(self._inner)  # pyright: ignore[reportAttributeAccessIssue]


def _kind(inner: Env) -> type[TroubledEnv]:
    """The service with the capabilities that a world has."""
    able = ((_WithExpert, Expert), (_WithLegal, Legal), (_WithSnapshots, Snapshots), (_WithAdmits, Admits))
    bases = tuple(mixin for mixin, capability in able if isinstance(inner, capability))
    return cast("type[TroubledEnv]", type("TroubledEnv", bases or (TroubledEnv,), {}))


def _behind(inner: Env, trouble: Trouble, chance: random.Random) -> TroubledEnv:
    """The service before a world."""
    return _kind(inner)(inner, trouble, chance)
