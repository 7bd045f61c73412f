"""The HTTP application of a service: its sessions, its tasks, its rubric."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from phronesis.env import EnvSpec
from phronesis.envs.services.identity import Identity
from phronesis.envs.services.sessions import Answer, Sessions
from phronesis.envs.services.wire import Begin, Call, Judge, Refused, guarded, lost, read, refusal, told
from phronesis.errors import UserError, one_line

METHODS = ("reset", "step", "snapshot", "restore", "legal", "expert")
"""Calls of a session."""
AT_ONCE = 256
"""Tasks that may be asked for at once."""


class About(Struct, frozen=True, kw_only=True):
    """What a service says of its world: all that a run needs to play it without having its code."""

    name: str
    """Of the environment."""
    identity: Identity
    """What exactly it plays."""
    abilities: tuple[str, ...]
    """Which of ``snapshot``, ``legal``, ``expert`` episodes can do."""
    capacity: int
    """Episodes at once."""
    open: int
    """Episodes now."""
    draining: bool
    """Whether it is leaving."""
    sizes: dict[str, int | None]
    """Number of tasks by split."""
    description: str
    """One sentence."""
    success: float
    """Reward that counts as a success."""
    max_turns: int
    """Turns an episode needs at most."""
    null_reward: float | None = None
    """Mean reward of silence."""
    chance_reward: float | None = None
    """Highest mean reward by chance."""
    secrets: tuple[str, ...] = ()
    """Payload keys that the policy must not see."""
    demonstrates: bool = False
    """Whether it shows imperfect behaviour for priming."""


class Listing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for tasks."""

    split: str
    """Which."""
    start: Annotated[int, Meta(ge=0, le=2**40)] = 0
    """Number of the first."""
    count: Annotated[int, Meta(ge=1, le=AT_ONCE)] = 1
    """How many."""


class Show(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for a demonstration."""

    index: Annotated[int, Meta(ge=0, le=2**40)]
    """Of the training task."""
    seed: int
    """Of the behaviour."""


class Service:
    """A world, served.

    Args:
        spec: the world.
        identity: what exactly it is.
        sessions: its episodes.
        token: secret that every request but ``/health`` must show; None asks for none.
    """

    def __init__(self, spec: EnvSpec, identity: Identity, sessions: Sessions, token: str | None = None):
        self.spec, self.identity, self.sessions, self.token = spec, identity, sessions, token
        self.abilities = sessions.abilities()

    def application(self) -> Starlette:
        """All routes."""

        def at(path: str, endpoint: Any, *methods: str) -> Route:  # noqa: ANN401 - a bound method below
            return Route(path, guarded(endpoint, self.token), methods=list(methods))

        return Starlette(
            routes=[
                Route("/health", self._health, methods=["GET"]),
                at("/", self._about, "GET"),
                at("/sessions/{id}", self._open, "PUT"),
                at("/sessions/{id}", self._close, "DELETE"),
                at("/sessions/{id}/{method}", self._call, "POST"),
                at("/tasks", self._tasks, "POST"),
                at("/score", self._score, "POST"),
                at("/demonstration", self._demonstration, "POST"),
            ],
            exception_handlers={404: lost, 405: lost},
        )

    def about(self) -> About:
        """What it is and how it is doing."""
        spec = self.spec
        return About(
            name=spec.name, identity=self.identity, abilities=self.abilities, capacity=self.sessions.capacity,
            open=len(self.sessions), draining=self.sessions.draining, sizes=spec.sizes, description=spec.description,
            success=spec.success, max_turns=spec.max_turns, null_reward=spec.null_reward, chance_reward=spec.chance_reward,
            secrets=spec.secrets, demonstrates=spec.demonstrate is not None,
        )  # fmt: skip

    async def _health(self, request: Request) -> Response:
        return told({"status": "draining" if self.sessions.draining else "ok", "open": len(self.sessions)}, request)

    async def _about(self, request: Request) -> Response:
        return told(self.about(), request)

    async def _open(self, request: Request) -> Response:
        begin = await read(request, Begin, 1 << 16)
        id = request.path_params["id"]
        if not 16 <= len(id) <= 64:
            raise Refused(400, "invalid_request", "a session is named by 16 to 64 characters of chance")
        self._same(begin.digest)
        self.sessions.open(id, begin.run)
        return told({"session": id}, request)

    async def _call(self, request: Request) -> Response:
        method = request.path_params["method"]
        if method not in METHODS:
            raise Refused(404, "unknown_address", f"a session knows {', '.join(METHODS)}, not {method!r}")
        answer = await self.sessions.ask(request.path_params["id"], method, await read(request, Call))
        return _response(answer, request)

    async def _close(self, request: Request) -> Response:
        await self.sessions.close(request.path_params["id"])
        return told({"closed": True}, request)

    async def _tasks(self, request: Request) -> Response:
        asked = await read(request, Listing, 1 << 16)
        size = self.spec.sizes.get(asked.split, 0)
        stop = asked.start + asked.count if size is None else min(size, asked.start + asked.count)
        if asked.start >= stop:
            raise Refused(404, "no_task", f"there is no task {asked.start} of split {asked.split!r}; sizes: {self.spec.sizes}")
        try:
            found = [self.spec.task(asked.split, index) for index in range(asked.start, stop)]
        except UserError as error:
            raise Refused(404, "no_task", one_line(error)) from error
        return told(found, request)

    async def _score(self, request: Request) -> Response:
        judge = await read(request, Judge)
        self._same(judge.digest)
        try:
            async with asyncio.timeout(self.sessions.call_seconds):
                rewards = await self.spec.rubric.score(judge.group)
            return told(list(rewards), request)
        except Exception as error:  # the boundary to the world
            raise Refused(500, "world_failed", f"{type(error).__name__}: {one_line(error, 2000)}") from error

    async def _demonstration(self, request: Request) -> Response:
        asked = await read(request, Show, 1 << 16)
        if self.spec.demonstrate is None:
            raise Refused(404, "unable", f"{self.spec.name!r} has no demonstrations")
        return told(await self.spec.demonstrate(asked.index, asked.seed), request)

    def _same(self, digest: str) -> None:
        if digest != self.identity.digest:
            raise Refused(
                409, "other_world", f"this service plays {msgspec.json.encode(self.identity).decode()}, not what is meant"
            )


def _response(answer: Answer, request: Request) -> Response:
    if answer.refused is not None:
        return refusal(answer.refused)
    return Response(answer.content, media_type=answer.kind)


@asynccontextmanager
async def tidied(sessions: Sessions, seconds: float = 1.0) -> AsyncGenerator[None]:
    """Closes idle sessions meanwhile, and all of them at the end."""

    async def forever() -> None:
        while True:
            await asyncio.sleep(seconds)
            await sessions.expire()

    tidy = asyncio.create_task(forever())
    try:
        yield
    finally:
        tidy.cancel()
        await asyncio.wait([tidy])
        await sessions.close_all()
