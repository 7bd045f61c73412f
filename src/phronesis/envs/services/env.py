"""An episode at a service: placed at the least loaded one, played there to the end; where that breaks, a fault."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from phronesis.envs.services.config import token
from phronesis.envs.services.directory import Directory
from phronesis.envs.services.known import Service, State, World
from phronesis.envs.services.link import Answered, Link
from phronesis.envs.services.wire import Begin, Call, Refused, decode, encode
from phronesis.errors import EnvFault, SandboxFault, ServiceFault, one_line
from phronesis.records import Message, Reply, Task

T = TypeVar("T")
CLOSE_SECONDS, LOST_SECONDS = 10.0, 1.0
"""Longest the end of an episode waits for its service, which closes what is forgotten by itself; for one that is silent."""
FULL_SECONDS = 1.0
"""When to ask a service again that is full and does not say when."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long one waits."""

    place_seconds: float = 600.0
    """Longest time in which nobody gets a place, before waiting for one is a fault."""
    call_seconds: float = 600.0
    """Longest one call may take."""


class ServedEnv:
    """One episode at a service. `snapshot`, `restore`, `legal` and `expert` are there where the service's world has them."""

    def __init__(self, directory: Directory, world: World, patience: Patience):
        """Asks nobody yet.

        Args:
            directory: who is there.
            world: what is to be played.
            patience: how long to wait.
        """
        self.directory, self.world, self.patience = directory, world, patience
        self.service: Service | None = None
        """Where it is played; None before `admit` and after `close`."""
        self._link: Link | None = None
        self._id = secrets.token_hex(16)
        self._number = 0
        known = directory.services(world)
        if known:
            self._enable(known[0].about.abilities)

    @property
    def waits_for(self) -> str:
        """What `admit` waits for, in words."""
        return f"a place at a service of {self.world.name!r}"

    async def admit(self) -> None:
        """Waits for a place, first come, first served, and takes it. How long depends on the other episodes, so that it is not
        counted as the world's time.

        Raises:
            ServiceFault: nobody got a place for `Patience.place_seconds`.
        """
        since = self.directory.clock()
        while self.service is None:
            service = await self.directory.wait(self.world, self.patience.place_seconds, since)
            try:
                await self._open(service)
            except BaseException as error:
                self.directory.release(service)
                if not isinstance(error, EnvFault | Refused):
                    raise
                if isinstance(error, Refused) and error.code not in ("full", "draining"):
                    raise _fault(service, error) from error
            else:
                self.service = service
                self._enable(service.about.abilities)

    async def reset(self, task: Task, seed: int) -> Reply:
        """Begins the episode."""
        await self.admit()
        return await self._call("reset", Reply, task=task, seed=seed)

    async def step(self, action: Message) -> Reply:
        """Answers one assistant message."""
        return await self._call("step", Reply, action=action)

    async def close(self) -> None:
        """Ends the episode and gives its place back. That the service does not answer any more is no fault of the episode."""
        service, link, self.service, self._link = self.service, self._link, None, None
        if service is None:
            return
        seconds = CLOSE_SECONDS if service.state in (State.alive, State.draining) else LOST_SECONDS
        try:
            if link is not None:
                with suppress(ServiceFault, Refused, TimeoutError):
                    async with asyncio.timeout(seconds) as deadline:
                        with self.directory.flight(service, deadline):
                            await link.ask("DELETE", f"/sessions/{self._id}")
        finally:
            if link is not None:
                link.close()
            self.directory.release(service)

    async def _open(self, service: Service) -> None:
        """Opens a session there.

        Raises:
            Refused, ServiceFault: it could not be; the directory knows why.
        """
        link = Link(service.about.url, token())
        begin, kind = encode(Begin(digest=self.world.digest, run=self.directory.run))
        try:
            await self._asked(service, link, "PUT", body=begin, kind=kind)
        except Refused as refused:
            link.close()
            if refused.code in ("full", "draining"):
                self.directory.full(service, FULL_SECONDS if refused.retry_after is None else refused.retry_after)
            else:
                self.directory.failed(service, str(refused))
            raise
        except BaseException:
            await self._take_back(link)
            raise
        self._link = link

    async def _take_back(self, link: Link) -> None:
        """Closes a session that may have been opened, though nobody heard of it; else its place would be lost for long."""
        try:
            with suppress(ServiceFault, Refused, TimeoutError):
                async with asyncio.timeout(LOST_SECONDS):
                    await link.ask("DELETE", f"/sessions/{self._id}")
        finally:
            link.close()

    async def _call(self, method: str, type: type[T], **fields: object) -> T:
        service, link = self.service, self._link
        if service is None or link is None:
            raise EnvFault(f"{method} of an episode that was never begun, or is closed")
        self._number += 1
        try:
            body, kind = encode(msgspec.structs.replace(Call(number=self._number), **fields))
        except (TypeError, ValueError, RecursionError) as error:
            raise EnvFault(f"{method} cannot be sent to a service: {one_line(error)}") from error
        try:
            answered = await self._asked(service, link, "POST", f"/{method}", body=body, kind=kind)
        except Refused as refused:
            if self._number == 1:
                self.directory.failed(service, str(refused))
            raise _fault(service, refused) from refused
        if self._number == 1:
            self.directory.began(service)
        try:
            return decode(answered.content, answered.kind, type)
        except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as error:
            raise EnvFault(f"{method} gave no {type.__name__}: {one_line(error)}") from error

    async def _asked(self, service: Service, link: Link, method: str, path: str = "", *, body: bytes, kind: str) -> Answered:
        """One call, given up when the service is removed."""
        deadline = asyncio.timeout(self.patience.call_seconds)
        try:
            async with deadline:
                with self.directory.flight(service, deadline):
                    return await link.ask(method, f"/sessions/{self._id}{path}", body, kind)
        except ServiceFault as fault:
            self.directory.suspect(service, str(fault))
            raise
        except TimeoutError as error:
            what = path.removeprefix("/") or "open"
            why = service.why or f"no answer to {what} within {self.patience.call_seconds:g} s"
            raise ServiceFault(f"the service of {self.world.name!r} at {service.about.url} is lost: {why}") from error

    def _enable(self, abilities: Sequence[str]) -> None:
        """Gives this instance the capabilities of the service's world."""
        known = {"snapshot": self._snapshot, "restore": self._restore, "legal": self._legal, "expert": self._expert}
        for name in ("restore", *abilities) if "snapshot" in abilities else abilities:
            if name in known:
                setattr(self, name, known[name])

    async def _snapshot(self) -> bytes:
        return await self._call("snapshot", bytes)

    async def _restore(self, state: bytes) -> None:
        await self.admit()
        await self._call("restore", type(None), state=state)

    async def _legal(self) -> Sequence[Message]:
        return await self._call("legal", tuple[Message, ...])

    async def _expert(self) -> Message:
        return await self._call("expert", Message)


def _fault(service: Service, refused: Refused) -> EnvFault | SandboxFault:
    """What a service's refusal means for an episode."""
    if refused.code in ("world_failed", "world_hung"):
        return EnvFault(str(refused))
    if refused.code == "sandbox_failed":
        return SandboxFault(str(refused))
    return ServiceFault(f"the service at {service.about.url} refused ({refused.code}): {refused}")
