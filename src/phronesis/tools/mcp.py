"""What is known of an MCP server before and after asking it: how to reach it, and its tools as ours.

What a server says is untrusted: names, descriptions and schemas are bounded here, results where they are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import msgspec
from msgspec import Struct

from phronesis.errors import ConfigError, EnvFault
from phronesis.records import Effect, ToolSpec
from phronesis.tool import MAX_CHARS, Tool

RESERVED = frozenset({"reset", "step", "close", "verify", "get_reward", "snapshot", "restore"})
"""Names of what a trainer does to a world; a policy may not call a tool of such a name."""
MOST_TOOLS = 128
LONGEST_DESCRIPTION = 4000
LARGEST_SCHEMA = 50_000
Family = Literal["auto", "handshake", "stateless"]
"""Families of the protocol: 2024-11-05 to 2025-11-25, or from 2026-07-28 on; auto asks the server."""


class McpServer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An MCP server whose tools an episode gets. One of `command` and `url`."""

    command: tuple[str, ...] = ()
    """Program and arguments of a server that talks over its standard input and output, started for every episode."""
    url: str | None = None
    """Address of a server that talks HTTP; every episode has its own session there."""
    prefix: str = ""
    """Put before the names of its tools, so that those of two servers differ."""
    only: tuple[str, ...] | None = None
    """Its names of the tools that are offered; None offers all."""
    sandbox: bool = False
    """Start the command in a box: without network, and with no files but the system's and `readable`."""
    readable: tuple[str, ...] = ()
    """Files and folders of the host that a boxed command may read, besides the system's."""
    environment: dict[str, str] = {}
    """Variables of the command, besides PATH, HOME, LANG and USER."""
    headers: dict[str, str] = {}
    """Of requests to `url`, for example an authorisation."""
    family: Family = "auto"
    """Family of the protocol to speak."""
    start_seconds: float = 30.0
    """Longest wait until its tools are known; then the episode is a fault of the world."""
    call_seconds: float = 30.0
    """Longest wait for one call; then the policy is told, if the server still answers, else the world is at fault."""

    def validate(self) -> None:
        """Refuses what cannot be reached.

        Raises:
            ConfigError: names the field.
        """
        if bool(self.command) == (self.url is not None):
            raise ConfigError("an MCP server has either a command or a url")
        if self.url is not None and not re.match(r"https?://", self.url):
            raise ConfigError(f"url {self.url!r} must begin with http:// or https://")
        if self.url is not None and (self.sandbox or self.readable or self.environment):
            raise ConfigError("sandbox, readable and environment are of a command; a server behind a url runs elsewhere")
        if self.start_seconds <= 0 or self.call_seconds <= 0:
            raise ConfigError("start_seconds and call_seconds must be above 0")

    @property
    def called(self) -> str:
        """Its name for people."""
        told = self.url or " ".join(self.command)
        return told if len(told) <= 120 else f"{told[:119]}…"


class Listed(NamedTuple):
    """One tool as a server lists it."""

    name: str
    description: str
    schema: Mapping[str, Any]
    effect: Effect | None


def as_tools(
    server: McpServer, listed: Sequence[Listed], call: Callable[[str, Mapping[str, object]], Awaitable[object]]
) -> list[Tool]:
    """The server's tools as ours.

    Args:
        server: see `McpServer`.
        listed: what it said.
        call: ``call(name, arguments)`` with the server's own name.

    Raises:
        EnvFault: too many tools, a schema that is none, or names that clash or are reserved.
    """
    wanted = [one for one in listed if server.only is None or one.name in server.only]
    missing = set(server.only or ()) - {one.name for one in wanted}
    if missing:
        raise EnvFault(f"{server.called!r} has no tool {min(missing)!r}; it has {', '.join(sorted(n.name for n in listed))}")
    if len(wanted) > MOST_TOOLS:
        raise EnvFault(f"{server.called!r} lists {len(wanted)} tools, at most {MOST_TOOLS} are taken; choose with only")
    tools = [_tool(server, one, call) for one in wanted]
    clashing = clashes(tools)
    if clashing:
        raise EnvFault(f"{server.called!r} has two tools called {clashing[0]!r}")
    return tools


def clashes(tools: Sequence[Tool]) -> list[str]:
    """Names that several tools have."""
    names = [tool.spec.name for tool in tools]
    return sorted({name for name in names if names.count(name) > 1})


def _tool(server: McpServer, one: Listed, call: Callable[[str, Mapping[str, object]], Awaitable[object]]) -> Tool:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{server.prefix}{one.name}")[:64]
    if not name or name in RESERVED:
        raise EnvFault(f"{server.called!r} has a tool {one.name!r}, a reserved name; set prefix, or leave it out with only")
    if len(json.dumps(one.schema, default=str)) > LARGEST_SCHEMA:
        raise EnvFault(f"{server.called!r}: the schema of {one.name!r} is longer than {LARGEST_SCHEMA} characters")
    try:
        properties = msgspec.convert(one.schema.get("properties", {}), dict[str, dict[str, Any]])
        required = msgspec.convert(one.schema.get("required", []), list[str])
    except msgspec.ValidationError as error:
        raise EnvFault(f"{server.called!r}: the schema of {one.name!r} is no schema of named arguments: {error}") from error
    described = "".join(c for c in one.description if c.isprintable() or c in "\n\t")[:LONGEST_DESCRIPTION]

    async def function(**arguments: object) -> object:
        return await call(one.name, arguments)

    return Tool(
        spec=ToolSpec(
            name=name,
            description=described.strip() or name,
            parameters={**one.schema, "type": "object", "properties": properties, "required": required},
        ),
        function=function,
        types={argument: _type(schema) for argument, schema in properties.items()},
        required=frozenset(required) & frozenset(properties),
        effect=one.effect,
        max_chars=MAX_CHARS,
    )


_TYPES: dict[str, object] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": None,
}


def _type(schema: Mapping[str, Any]) -> object:
    """What can be checked of an argument here; the server checks the rest."""
    choices = schema.get("enum")
    if isinstance(choices, list) and choices and all(isinstance(c, str) for c in cast("list[object]", choices)):
        return Literal[tuple(cast("list[str]", choices))]
    kind = schema.get("type")
    return _TYPES.get(kind, Any) if isinstance(kind, str) else Any
