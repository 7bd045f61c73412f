"""Our worlds, served in OpenEnv's protocol: a session is a socket, an action is a message, and the state tells nothing.

An action is ``{"message": "text"}``, or ``{"tool_calls": [{"name": "look", "arguments": {…}}]}``; an observation holds
``messages`` and, when they change, ``tools``. Rewards add up to what the world's rubric gives. The protocol knows no
authentication, so only this machine is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import socket
import urllib.parse
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, cast

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from phronesis.env import Env, EnvSpec
from phronesis.envs.guard import MAX_MESSAGES, validate_reply
from phronesis.envs.scripted import as_episode, reward_of
from phronesis.errors import ConfigError, UserError, one_line
from phronesis.records import Message, Reply, Task, ToolCall, say

LOCAL = ("127.0.0.1", "::1", "localhost")
"""Hosts that are this machine."""
log = logging.getLogger(__name__)


class Call(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A call of a tool."""

    name: str
    """Of the tool."""
    arguments: dict[str, Any] = {}
    """By name."""


class Action(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a client may send as a step."""

    message: str = ""
    """What is said."""
    tool_calls: Annotated[list[Call], msgspec.Meta(max_length=MAX_MESSAGES)] = []
    """What is called."""
    metadata: dict[str, Any] = {}
    """Left alone."""


class Begin(msgspec.Struct, kw_only=True):
    """What a client may send as a reset."""

    seed: int | None = None
    """Of the episode, and number of the task where there is no index."""
    episode_id: str | None = None
    split: str = "train"
    index: int | None = None


ACTION: dict[str, Any] = {
    "title": "Action",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "message": {"type": "string", "default": "", "description": "What is said."},
        "tool_calls": {
            "type": "array",
            "default": [],
            "description": "Tools to call: name, and arguments by the tool's schema.",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "arguments": {"type": "object"}},
                "required": ["name"],
            },
        },
        "metadata": {"type": "object"},
    },
}
OBSERVATION = {
    "title": "Observation",
    "type": "object",
    "properties": {
        "messages": {"type": "array", "items": {"type": "object"}},
        "tools": {"type": "array", "items": {"type": "object"}},
        "done": {"type": "boolean", "default": False},
        "reward": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
        "metadata": {"type": "object"},
    },
}
STATE = {
    "title": "State",
    "type": "object",
    "properties": {"episode_id": {"type": ["string", "null"]}, "step_count": {"type": "integer"}},
}


class Refusal(Exception):
    """An error frame."""

    def __init__(self, code: str, text: str):
        super().__init__(text)
        self.code = code


class Session:
    """One client: one episode at a time."""

    def __init__(self, spec: EnvSpec):
        self.spec = spec
        self.env: Env | None = None
        self.task: Task | None = None
        self.opening = Reply()
        self.actions: list[Message] = []
        self.replies: list[Reply] = []
        self.seed = self.paid = 0
        self.name: str | None = None

    async def reset(self, data: object) -> dict[str, Any]:
        """Begins an episode."""
        asked = _as(data, Begin)
        size = self.spec.sizes.get(asked.split, 0)
        index = asked.index if asked.index is not None else (asked.seed or 0) % (size or 1 << 31)
        await self.close()
        if asked.split not in self.spec.sizes or not 0 <= index < (size or 1 << 31):
            raise Refusal("VALIDATION_ERROR", f"there is no task {index} of split {asked.split!r}; splits: {self.spec.sizes}")
        self.seed, self.name = asked.seed or 0, asked.episode_id
        self.task, self.env = self.spec.task(asked.split, index), self.spec.make()
        self.actions, self.replies, self.paid = [], [], 0.0
        self.opening = validate_reply(await self.env.reset(self.task, self.seed), opening=True)
        return self._observed(self.opening, self.opening.reward, self.opening.done)

    async def step(self, data: object) -> dict[str, Any]:
        """One action. Its reward is what the world pays; the last one makes the sum what the rubric gives."""
        asked = _as(data, Action)
        if self.env is None or self.task is None:
            raise Refusal("EXECUTION_ERROR", "there is no episode; reset comes first")
        calls = tuple(
            ToolCall(id=f"call_{len(self.actions)}_{i}", name=c.name, arguments=c.arguments)
            for i, c in enumerate(asked.tool_calls)
        )
        self.actions.append(msgspec.structs.replace(say("assistant", asked.message), tool_calls=calls))
        self.replies.append(reply := validate_reply(await self.env.step(self.actions[-1])))
        done = reply.done or len(self.replies) >= self.spec.max_turns
        reward = reply.reward
        if done:
            episode = as_episode(self.task, self.seed, self.opening, actions=self.actions, replies=self.replies)
            whole = (await reward_of(self.spec, episode)).value
            reward = None if whole is None else whole - self.paid
            await self.close()
        self.paid += reward or 0.0
        return self._observed(reply, reward, done)

    def state(self) -> dict[str, Any]:
        """How far it is; never what is hidden."""
        return {"episode_id": self.name, "step_count": len(self.replies)}

    async def close(self) -> None:
        """Ends the episode."""
        env, self.env = self.env, None
        if env is not None:
            await env.close()

    def _observed(self, reply: Reply, reward: float | None, done: bool) -> dict[str, Any]:
        messages = [{k: v for k, v in _shown(m).items() if v is not None} for m in reply.messages]
        observation: dict[str, Any] = {"messages": messages}
        if reply.tools is not None:
            observation["tools"] = msgspec.to_builtins(reply.tools)
        return {"observation": observation, "reward": reward, "done": done}


def _shown(message: Message) -> dict[str, object]:
    return {"role": message.role, "content": message.text, "name": message.name, "tool_call_id": message.tool_call_id}


def _as(data: object, kind: type[Any]) -> Any:  # noqa: ANN401 - a value of this kind
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise Refusal("VALIDATION_ERROR", str(error)) from error


def application(spec: EnvSpec, most: int = 64, seconds: float = 120.0) -> Starlette:
    """The server of a world.

    Args:
        spec: the world.
        most: sessions at once.
        seconds: longest that one frame may take; beyond, its episode is over.

    Raises:
        ConfigError: a world that only agents outside can play.
    """
    if not spec.playable:
        raise ConfigError(f"{spec.name!r} is played by agents outside and cannot be served")
    open_sessions = 0

    async def serve(client: WebSocket) -> None:
        nonlocal open_sessions
        if not _from_here(client.headers.get("origin")):
            await client.close()
            return
        await client.accept()
        if open_sessions >= most:
            await client.send_json(_error("CAPACITY_REACHED", f"{most} sessions are open; close one, or try again later"))
            await client.close()
            return
        open_sessions += 1
        session = Session(spec)
        try:
            while (answer := await _answer(session, await _frame(client), seconds)) is not None:
                await client.send_text(json.dumps(answer))
            await client.close()
        except WebSocketDisconnect:
            pass
        finally:
            open_sessions -= 1
            await session.close()

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "healthy"})

    async def metadata(request: Request) -> JSONResponse:
        return JSONResponse({"name": spec.name, "description": spec.description, "version": "1"})

    async def schema(request: Request) -> JSONResponse:
        return JSONResponse({"action": ACTION, "observation": OBSERVATION, "state": STATE})

    async def splits(request: Request) -> JSONResponse:
        return JSONResponse([{"name": name, "num_tasks": size} for name, size in spec.sizes.items()])

    return Starlette(
        routes=[
            WebSocketRoute("/ws", serve),
            Route("/health", health),
            Route("/metadata", metadata),
            Route("/schema", schema),
            Route(f"/{spec.name}/splits", splits),
        ]
    )


def _from_here(origin: str | None) -> bool:
    """Whether a socket was opened by a program, or by a page of this machine: a page from elsewhere is none of our clients."""
    return origin is None or urllib.parse.urlsplit(origin).hostname in LOCAL


async def _frame(client: WebSocket) -> str | bytes:
    message = await client.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    return cast("str | bytes", message.get("text") or message.get("bytes") or "")


async def _answer(session: Session, text: str | bytes, seconds: float) -> dict[str, Any] | None:
    """The frame that answers a frame; None ends the session."""
    try:
        asked = cast("dict[str, Any]", json.loads(text))
    except (ValueError, RecursionError) as error:
        return _error("INVALID_JSON", f"Invalid JSON: {one_line(error)}")
    kind = asked.get("type") if isinstance(cast("object", asked), Mapping) else None
    try:
        match kind:
            case "reset":
                async with asyncio.timeout(seconds):
                    return {"type": "observation", "data": await session.reset(asked.get("data", {}))}
            case "step":
                async with asyncio.timeout(seconds):
                    return {"type": "observation", "data": await session.step(asked.get("data"))}
            case "state":
                return {"type": "state", "data": session.state()}
            case "close":
                return None
            case _:
                return _error("UNKNOWN_TYPE", f"Unknown message type: {kind!r}")
    except Refusal as refusal:
        return _error(refusal.code, str(refusal))
    except UserError as error:
        await session.close()
        return _error("EXECUTION_ERROR", one_line(error))
    except Exception as error:  # the boundary to the world; its text may hold what is hidden, so that only we read it
        log.warning("%s failed: %s: %s", session.spec.name, type(error).__name__, one_line(error))
        await session.close()
        return _error("EXECUTION_ERROR", f"the world failed with {type(error).__name__}; the episode is over")


def _error(code: str, text: str) -> dict[str, Any]:
    return {"type": "error", "data": {"message": text, "code": code}}


@contextlib.asynccontextmanager
async def serving(
    spec: EnvSpec, host: str = "127.0.0.1", port: int = 0, most: int = 64, seconds: float = 120.0
) -> AsyncGenerator[str]:
    """Serves a world on the running event loop; gives the address.

    Args:
        spec: the world.
        host: a loopback address.
        port: 0 takes a free one.
        most: sessions at once.
        seconds: longest that one frame may take.

    Raises:
        ConfigError: another host, or the extra for sockets is not installed.
        UserError: the port is taken.
    """
    if host not in LOCAL:
        raise ConfigError(f"{host!r} is not this machine, and the protocol knows no password; put a proxy that does in front")
    if importlib.util.find_spec("websockets") is None:
        raise ConfigError("serving OpenEnv needs the module 'websockets'; install it with: pip install 'phronesis[openenv]'")
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"cannot listen at port {port}: {error.strerror}; --port 0 takes a free one") from error
    settings = uvicorn.Config(
        application(spec, most, seconds), log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2,
        ws="websockets-sansio", ws_max_size=1 << 22,
    )  # fmt: skip
    server = uvicorn.Server(settings)
    task = asyncio.create_task(server._serve([listening]))  # pyright: ignore[reportPrivateUsage] - `serve` would capture signals
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        yield f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listening.close()
