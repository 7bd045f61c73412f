"""A world behind an OpenEnv server: one WebSocket is one episode.

What the policy does depends on the server's action schema. With one text field, what it says is the action; else it gets one
tool, ``act``, whose arguments are the fields. What it sees is the observation: its text where it has but one field, else JSON.
The state of an episode may hold answers; it is never asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from phronesis.env import EnvSpec
from phronesis.envs.digest import digest
from phronesis.envs.tool_env import answer
from phronesis.errors import ConfigError, EnvFault, one_line
from phronesis.records import Message, Reply, Task, TextPart, ToolSpec, say
from phronesis.rewards import EnvReward

LONGEST = 1 << 24
"""Bytes of one frame."""
TOOL = "act"
"""Name of the tool, where actions have several fields."""
OWN = frozenset({"metadata", "done", "reward"})
"""Fields of actions and observations that are the protocol's, not the world's."""


class Server(NamedTuple):
    """What is known of a server before an episode."""

    url: str
    """Of the socket."""
    field: str | None
    """The one text field of an action; None where the tool is used."""
    tool: ToolSpec
    """The tool, where it is used."""
    seconds: float
    """Longest wait for one answer."""


class OpenEnvEnv:
    """One session with a server."""

    def __init__(self, server: Server):
        self.server = server
        self.socket: ClientConnection | None = None

    async def reset(self, task: Task, seed: int) -> Reply:
        """Connects, and begins with the task's seed."""
        await self.close()
        try:
            self.socket = await connect(self.server.url, max_size=LONGEST, open_timeout=self.server.seconds, proxy=None)
        except (OSError, WebSocketException, TimeoutError) as error:
            raise EnvFault(f"no connection to {self.server.url!r}: {one_line(error)}") from error
        told = await self._asked("reset", {"seed": task.payload["seed"]})
        reply = _reply(told)
        opening = (*task.messages, *reply.messages)
        if not opening:
            opening = (say("user", "Begin."),)
        tools = () if self.server.field is not None else (self.server.tool,)
        return Reply(messages=opening, tools=tools, done=reply.done, reward=reply.reward)

    async def step(self, action: Message) -> Reply:
        """Sends the action. One that does not fit the schema is answered with what is wrong, and counted."""
        if self.server.field is not None:
            told = await self._asked("step", {self.server.field: action.text})
            return _reply(told)
        call = next((c for c in action.tool_calls if c.name == TOOL and c.error is None), None)
        if call is None or len(action.tool_calls) != 1:
            hint = f"error: act with exactly one call of the tool {TOOL}"
            messages = tuple(answer(c, TextPart(text=hint)) for c in action.tool_calls) or (say("user", hint),)
            return Reply(messages=messages, errors=("no_action",))
        reply = _reply(await self._asked("step", dict(call.arguments)))
        text = "\n".join(m.text for m in reply.messages) or "done"
        return Reply(messages=(answer(call, TextPart(text=text)),), reward=reply.reward, done=reply.done, errors=reply.errors)

    async def close(self) -> None:
        """Ends the session."""
        socket, self.socket = self.socket, None
        if socket is not None:
            with contextlib.suppress(WebSocketException):  # it may have ended already
                await socket.send(json.dumps({"type": "close"}))
            await socket.close()

    async def _asked(self, kind: Literal["reset", "step"], data: Mapping[str, object]) -> dict[str, Any]:
        if self.socket is None:
            raise EnvFault("reset comes first")
        try:
            async with asyncio.timeout(self.server.seconds):
                await self.socket.send(json.dumps({"type": kind, "data": data}))
                frame = await self.socket.recv()
            told = cast("dict[str, Any]", json.loads(frame))
            named, found = str(told["type"]), cast("dict[str, Any]", told["data"])
        except TimeoutError as error:
            raise EnvFault(f"{self.server.url!r} gave no answer to {kind} within {self.server.seconds:g} s") from error
        except (WebSocketException, OSError) as error:
            raise EnvFault(f"{self.server.url!r} broke off during {kind}: {one_line(error)}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise EnvFault(f"{self.server.url!r} answered {kind} with something else than a frame of OpenEnv") from error
        if named == "error":
            code, text = str(found.get("code")), str(found.get("message"))
            if kind == "step" and code == "VALIDATION_ERROR":
                return {"observation": {"text": f"error: {_problems(found) or text}"}, "mistake": True}
            raise EnvFault(f"{self.server.url!r}, {kind}: {code}: {text[:400]}")
        if named != "observation":
            raise EnvFault(f"{self.server.url!r} answered {kind} with a frame of type {named!r}")
        return found


def _problems(found: Mapping[str, Any]) -> str:
    """What is wrong with an action, field by field."""
    errors = cast("list[dict[str, Any]]", found.get("errors") or [])
    return "; ".join(f"{'.'.join(map(str, e.get('loc', ())))}: {e.get('msg')}" for e in errors[:5])


def _reply(told: Mapping[str, Any]) -> Reply:
    """An observation as a reply."""
    reward = told.get("reward")
    if reward is not None and not isinstance(reward, int | float):
        raise EnvFault(f"an OpenEnv server rewarded with {reward!r}")
    text = shown(cast("Mapping[str, Any]", told.get("observation") or {}))
    done = bool(told.get("done"))
    return Reply(
        messages=(say("user", text),) if text else () if done else (say("user", "(nothing to see)"),),
        reward=None if reward is None else float(reward),
        done=done,
        errors=("bad_action",) if told.get("mistake") else (),
    )


def shown(observation: Mapping[str, Any]) -> str:
    """An observation as text.

    >>> shown({"text": "higher"}), shown({"board": [0, 1], "turn": "x"}), shown({})
    ('higher', '{"board": [0, 1], "turn": "x"}', '')
    """
    fields = {name: value for name, value in observation.items() if name not in OWN}
    values = list(fields.values())
    if len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return json.dumps(fields, ensure_ascii=False) if fields else ""


def make(
    url: str,
    system: str = "",
    max_turns: int = 32,
    first_seed: int = 0,
    seconds: float = 30.0,
    action: Literal["auto", "text", "tool"] = "auto",
) -> EnvSpec:
    """The world of an OpenEnv server that runs already. A task is a seed.

    Args:
        url: of the server, e.g. ``http://localhost:8000`` or ``ws://localhost:8000``.
        system: system message; the server tells the rest.
        max_turns: turns of an episode at most.
        first_seed: seeds of training are this one, two further, …; those of the held-out split lie between.
        seconds: longest wait for one answer.
        action: what the policy says is the action (``text``), or it calls a tool (``tool``); ``auto`` looks at the schema.

    Raises:
        ConfigError: the server cannot be reached, or its actions have no single text field although ``text`` is asked for.
    """
    base = url.rstrip("/").removesuffix("/ws")
    web, socket = _both(base)
    server = _server(web, f"{socket}/ws", action, seconds)
    opening = (say("system", system),) if system else ()

    def task(split: str, index: int) -> Task:
        seed = first_seed + 2 * index + (split == "heldout")
        key = digest(["openenv", seed])
        return Task(
            id=f"{split}-{index}", env="openenv", messages=opening, payload={"seed": seed}, split=split, content_key=key
        )

    return EnvSpec(
        name="openenv",
        make=lambda: OpenEnvEnv(server),
        task=task,
        rubric=EnvReward(name="success"),
        description=f"The world of an OpenEnv server at {base}",
        max_turns=max_turns,
        oracle_reward=None,
        null_reward=None,
        secrets=("seed",),
    )


def _both(base: str) -> tuple[str, str]:
    """The address for pages and the one for sockets."""
    scheme, separator, rest = base.partition("://")
    pairs = {"http": ("http", "ws"), "ws": ("http", "ws"), "https": ("https", "wss"), "wss": ("https", "wss")}
    if not separator or scheme not in pairs:
        raise ConfigError(f"{base!r} is no address of an OpenEnv server; write http://HOST:PORT")
    web, socket = pairs[scheme]
    return f"{web}://{rest}", f"{socket}://{rest}"


def _server(web: str, socket: str, action: str, seconds: float) -> Server:
    try:
        found = httpx.get(f"{web}/schema", timeout=seconds)
        schema = cast("dict[str, Any]", found.raise_for_status().json()["action"])
        properties = cast("dict[str, dict[str, Any]]", schema["properties"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"no OpenEnv server answers at {web}: {one_line(error)}") from error
    fields = {name: about for name, about in properties.items() if name not in OWN}
    required = [name for name in cast("list[str]", schema.get("required", [])) if name in fields]
    sole = next(iter(fields)) if len(fields) == 1 else required[0] if len(required) == 1 else None
    if sole is not None and fields[sole].get("type") != "string":
        sole = None
    if action == "text" and sole is None:
        raise ConfigError(f"actions of {web} have no single text field ({', '.join(fields)}); leave out action=text")
    parameters: dict[str, Any] = {"type": "object", "properties": fields, "required": required}
    if "$defs" in schema:
        parameters["$defs"] = schema["$defs"]
    tool = ToolSpec(
        name=TOOL, description=str(schema.get("description") or "Do one thing in the world."), parameters=parameters
    )
    return Server(socket, None if action == "tool" or (action == "auto" and len(fields) > 1) else sole, tool, seconds)
