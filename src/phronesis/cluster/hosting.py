"""Environments that live in processes of their own, apart from the workers that play them: browsers here, GPUs there.

A host keeps one environment per episode (`phronesis.envs.services.sessions`, without its HTTP). When a host dies, its episodes
end in `ServiceFault`, which is retried elsewhere with fresh state like every fault that says nothing about the policy; who
starts the host again is the cluster's affair.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import msgspec
from msgspec import Struct

from phronesis.cluster.plan import Recipe, spec_of
from phronesis.cluster.remote import WorkerGone
from phronesis.env import Env, EnvSpec
from phronesis.envs.services.sessions import Sessions
from phronesis.envs.services.wire import Call, Refused, decode
from phronesis.errors import EnvFault, SandboxFault, ServiceFault
from phronesis.records import Message, Reply, Task

T = TypeVar("T")
CAPACITY = 1_000_000
"""Episodes a host takes: how many there are at once is bounded by the workers that play them."""
PAUSE = 0.5
"""Seconds between two looks for a host that answers."""
FOREVER = 1e9
"""Seconds: an episode is closed by who plays it, or with its host."""


class Said(Struct, frozen=True, kw_only=True):
    """What a call of an environment gave."""

    content: bytes = b""
    """The value."""
    kind: str = ""
    """Its format."""
    code: str = ""
    """Why there is none: a stable code; empty where there is one."""
    message: str = ""
    """The same in words."""


class Host(Protocol):
    """A process that hosts environments. Every call raises `WorkerGone` when it dies before it has answered."""

    async def abilities(self) -> Mapping[str, Sequence[str]]:
        """By environment, which of ``snapshot``, ``legal``, ``expert`` it can do."""
        ...

    async def open(self, env: str, id: str) -> Said:
        """Makes the environment of an episode."""
        ...

    async def ask(self, env: str, id: str, method: str, call: bytes) -> Said:
        """One call of it."""
        ...

    async def close(self, env: str, id: str) -> None:
        """Closes it."""
        ...


class EnvWorker:
    """The inside of a host."""

    def __init__(self, recipe: Recipe, call_seconds: float):
        """Nothing is made yet.

        Args:
            recipe: of the environment.
            call_seconds: longest one call may take.
        """
        self._recipe, self._seconds = recipe, call_seconds
        self._made: dict[str, Sessions] = {}

    async def abilities(self) -> dict[str, tuple[str, ...]]:
        """By environment, what it can do besides the three methods.

        Raises:
            ConfigError: this node cannot make it.
        """
        return {name: sessions.abilities() for name, sessions in self._sessions().items()}

    async def open(self, env: str, id: str) -> Said:
        """Makes the environment of an episode."""
        try:
            self._sessions()[env].open(id, "")
        except Refused as refused:
            return Said(code=refused.code, message=str(refused))
        return Said()

    async def ask(self, env: str, id: str, method: str, call: bytes) -> Said:
        """One call of it."""
        try:
            answer = await self._sessions()[env].ask(id, method, msgspec.msgpack.decode(call, type=Call))
        except Refused as refused:
            return Said(code=refused.code, message=str(refused))
        if answer.refused is not None:
            return Said(code=answer.refused.code, message=str(answer.refused))
        return Said(content=answer.content, kind=answer.kind)

    async def close(self, env: str, id: str) -> None:
        """Closes it."""
        await self._sessions()[env].close(id)

    def _sessions(self) -> dict[str, Sessions]:
        if not self._made:
            spec = spec_of(self._recipe)
            parts = spec.parts or {spec.name: spec}
            for name, part in parts.items():
                self._made[name] = Sessions(part, capacity=CAPACITY, idle_seconds=FOREVER, call_seconds=self._seconds)
        return self._made


@dataclass(frozen=True)
class Hosts:
    """All hosts of a run, and what their environments can do."""

    hosts: tuple[Host, ...]
    """At least one."""
    abilities: Mapping[str, Sequence[str]]
    """By environment."""
    patience: float = 120.0
    """Seconds one waits for a host that answers."""

    def hosted(self, spec: EnvSpec) -> EnvSpec:
        """The same environment, whose episodes live at the hosts; tasks and rubric stay here."""
        loads = [0] * len(self.hosts)
        if spec.parts:
            return replace(spec, parts={name: self._one(part, name, loads) for name, part in spec.parts.items()})
        return self._one(spec, spec.name, loads)

    def _one(self, spec: EnvSpec, name: str, loads: list[int]) -> EnvSpec:
        def make() -> Env:
            return HostedEnv(self, name, loads)

        return replace(spec, make=make)


class HostedEnv:
    """One episode at a host, the least loaded by this process when it begins. Implements `Env` and what its world can do."""

    def __init__(self, hosts: Hosts, name: str, loads: list[int]):
        """Asks nobody yet.

        Args:
            hosts: where it may live.
            name: of the environment.
            loads: episodes this process has at each host; shared by all of its episodes.
        """
        self._hosts, self._name, self._loads = hosts, name, loads
        self._id, self._number = secrets.token_hex(16), 0
        self._at: int | None = None
        known = {"snapshot": self._snapshot, "restore": self._restore, "legal": self._legal, "expert": self._expert}
        abilities = hosts.abilities.get(name, ())
        for ability in ("restore", *abilities) if "snapshot" in abilities else abilities:
            setattr(self, ability, known[ability])

    async def reset(self, task: Task, seed: int) -> Reply:
        """Begins the episode.

        Raises:
            ServiceFault: no host answers, or it died.
        """
        await self.admit()
        return await self._call("reset", Reply, task=task, seed=seed)

    async def step(self, action: Message) -> Reply:
        """Answers one assistant message."""
        return await self._call("step", Reply, action=action)

    async def close(self) -> None:
        """Ends the episode; that its host is gone is no fault of it."""
        at, self._at = self._at, None
        if at is not None:
            self._loads[at] -= 1
            with suppress(WorkerGone):
                await self._hosts.hosts[at].close(self._name, self._id)

    @property
    def waits_for(self) -> str:
        """What `admit` waits for, in words."""
        return f"an environment worker of {self._name!r}"

    async def admit(self) -> None:
        """Waits for a host, which may be starting again; how long is not the world's time.

        Raises:
            ServiceFault: none answered for `Hosts.patience` seconds.
        """
        began = time.monotonic()
        while self._at is None:
            gone = await self._open()
            if self._at is None:
                if time.monotonic() - began > self._hosts.patience:
                    raise ServiceFault(f"no environment worker of {self._name!r} answers: {'; '.join(gone)}")
                await asyncio.sleep(PAUSE)

    async def _open(self) -> list[str]:
        """Tries every host, the least loaded first; what is the matter with those that do not answer."""
        gone: list[str] = []
        for at in sorted(range(len(self._loads)), key=lambda i: self._loads[i]):
            self._at = at
            self._loads[at] += 1
            try:
                _checked(await self._hosts.hosts[at].open(self._name, self._id))
                break
            except WorkerGone as error:
                self._loads[at] -= 1
                self._at = None
                gone.append(str(error))
        return gone

    async def _call(self, method: str, type: type[T], **fields: object) -> T:
        if self._at is None:
            raise EnvFault(f"{method} of an episode that was never begun, or is closed")
        self._number += 1
        call = msgspec.msgpack.encode(msgspec.structs.replace(Call(number=self._number), **fields))
        try:
            said = _checked(await self._hosts.hosts[self._at].ask(self._name, self._id, method, call))
        except WorkerGone as error:
            raise ServiceFault(f"the environment worker of {self._name!r} is gone: {error}") from error
        return decode(said.content, said.kind, type)

    async def _snapshot(self) -> bytes:
        return await self._call("snapshot", bytes)

    async def _restore(self, state: bytes) -> None:
        await self.admit()
        await self._call("restore", type(None), state=state)

    async def _legal(self) -> Sequence[Message]:
        return await self._call("legal", tuple[Message, ...])

    async def _expert(self) -> Message:
        return await self._call("expert", Message)


def _checked(said: Said) -> Said:
    """The answer, where there is one.

    Raises:
        EnvFault: the world broke; `ServiceFault` where its host has forgotten the episode, since it was started again.
        SandboxFault: the world's sandbox broke.
    """
    if not said.code:
        return said
    if said.code == "sandbox_failed":
        raise SandboxFault(said.message)
    if said.code in ("world_failed", "world_hung", "unable"):
        raise EnvFault(said.message)
    raise ServiceFault(f"the environment worker refused: {said.message}")
