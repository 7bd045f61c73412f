"""Tools of MCP servers, through the MCP SDK: a connection per episode, in a task of its own.

| what goes wrong | what comes of it |
|---|---|
| the tool says that it failed (``isError``), or that the arguments are wrong | `ToolError`: the policy reads it |
| no answer in time, but the server answers otherwise | `ToolError` of kind ``timeout`` |
| the server died, hangs, or says what is no answer | `EnvFault`: the world is broken, nothing is learned from it |
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Literal, cast

import httpx2
from mcp import Client
from mcp.client._transport import Transport
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    REQUEST_TIMEOUT,
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)
from mcp.types import (
    Tool as McpTool,
)

from phronesis.errors import EnvFault, PhronesisError, ToolError, one_line
from phronesis.records import Effect
from phronesis.tool import MAX_CHARS, Picture, Tool
from phronesis.tools.adapters.mcp_lines import command_streams
from phronesis.tools.mcp import MOST_TOOLS, Listed, McpServer, as_tools, clashes

MOST_BLOCKS = 64
"""Blocks of one result that are read."""
LARGEST_PICTURE = 8 << 20
"""Bytes of one picture."""
LARGEST_ANSWER = 16 << 20
"""Bytes of one answer over HTTP."""
LARGEST_STREAM = 256 << 20
"""Bytes of one stream of events over HTTP."""
PATIENCE = 5.0
"""Seconds a server has to show that it is alive after a call ran out of time."""


def mcp_tools(*servers: McpServer) -> Callable[[object], AbstractAsyncContextManager[list[Tool]]]:
    """A factory for `from_tools`: the tools of these servers, connected when an episode begins and closed when it ends.

    Raises:
        ConfigError: a server that cannot be reached as it is written.
    """
    for server in servers:
        server.validate()

    @asynccontextmanager
    async def opened(task: object) -> AsyncGenerator[list[Tool]]:
        async with AsyncExitStack() as stack:
            found = [await stack.enter_async_context(connected(server)) for server in servers]
            tools = [tool for one in found for tool in one]
            if twice := clashes(tools):
                raise EnvFault(f"two MCP servers have a tool {twice[0]!r}; set prefix for one of them")
            yield tools

    return opened


@asynccontextmanager
async def connected(server: McpServer) -> AsyncGenerator[list[Tool]]:
    """The tools of one server while it is connected. May be left in another task than it was entered in.

    Raises:
        EnvFault: it cannot be started or reached, or says nothing sensible.
    """
    connection = _Connection(server)
    try:
        yield await connection.open()
    finally:
        await connection.close()


class _Connection:
    """A client in a task of its own: what the SDK enters it also leaves there."""

    def __init__(self, server: McpServer):
        self.server = server
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: Client | None = None

    async def open(self) -> list[Tool]:
        ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(ready), name=f"mcp {self.server.called}")
        try:
            async with asyncio.timeout(self.server.start_seconds):
                self._client = client = await ready
                return as_tools(self.server, await _listed(self.server, client), self._call)
        except TimeoutError as error:
            raise EnvFault(f"the MCP server {self.server.called!r} did not begin in {self.server.start_seconds:g} s") from error
        except PhronesisError:
            raise
        except Exception as error:  # the SDK raises what a server makes it raise
            raise EnvFault(f"the MCP server {self.server.called!r} cannot be used: {_why(error)}") from error

    async def close(self) -> None:
        if self._task is None:
            return
        self._stop.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._task), PATIENCE)
        if not self._task.done():
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._task = None

    async def _live(self, ready: asyncio.Future[Client]) -> None:
        server = self.server
        mode: Literal["auto", "legacy", "2026-07-28"] = (
            "auto" if server.family == "auto" else "legacy" if server.family == "handshake" else "2026-07-28"
        )
        try:
            async with AsyncExitStack() as stack:
                transport: Transport = command_streams(server)
                if server.url is not None:
                    http = await stack.enter_async_context(create_mcp_http_client(headers=server.headers))
                    http.event_hooks["response"].append(_bound)
                    transport = streamable_http_client(server.url, http_client=http)
                client = Client(transport, mode=mode, cache=None, read_timeout_seconds=server.start_seconds)
                ready.set_result(await stack.enter_async_context(client))
                await self._stop.wait()
        except Exception as error:  # also groups of errors; what happens after the beginning shows in the calls
            if not ready.done():
                ready.set_exception(error)
        finally:
            if not ready.done():
                ready.cancel()

    async def _call(self, name: str, arguments: Mapping[str, object]) -> object:
        if self._client is None:
            raise EnvFault(f"the MCP server {self.server.called!r} is not connected")
        try:
            async with asyncio.timeout(self.server.call_seconds):
                result = await self._client.call_tool(name, dict(arguments), read_timeout_seconds=self.server.call_seconds)
        except MCPError as error:
            if error.code == INVALID_PARAMS:
                raise ToolError(one_line(error), "bad_argument") from error
            if error.code != REQUEST_TIMEOUT:
                raise EnvFault(f"the MCP server {self.server.called!r} failed at {name!r}: {one_line(error)}") from error
        except TimeoutError:
            pass
        except Exception as error:  # the SDK raises what a server makes it raise
            raise EnvFault(
                f"the MCP server {self.server.called!r} answered {name!r} with what is none: {_why(error)}"
            ) from error
        else:
            return _result(result)
        await self._alive(name)
        raise ToolError(f"{name} gave no answer within {self.server.call_seconds:g} s", "timeout")

    async def _alive(self, name: str) -> None:
        """Tells a slow tool from a dead server."""
        assert self._client is not None
        try:
            async with asyncio.timeout(PATIENCE):
                await self._client.list_tools(cache_mode="bypass")
        except (MCPError, TimeoutError, OSError, RuntimeError) as error:
            raise EnvFault(f"the MCP server {self.server.called!r} hangs since a call of {name!r}: {_why(error)}") from error


class _Bounded(httpx2.AsyncByteStream):
    """The body of an answer, which may not go on for ever: what is no stream of events is kept in memory until it ends."""

    def __init__(self, inner: httpx2.AsyncByteStream, most: int):
        self.inner, self.left = inner, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self.inner:
            self.left -= len(part)
            if self.left < 0:
                raise httpx2.ReadError("the answer is too long")
            yield part

    async def aclose(self) -> None:
        await self.inner.aclose()


async def _bound(response: httpx2.Response) -> None:
    """Bounds what is read of a response."""
    events = response.headers.get("content-type", "").startswith("text/event-stream")
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream, LARGEST_STREAM if events else LARGEST_ANSWER)


async def _listed(server: McpServer, client: Client) -> list[Listed]:
    found: list[Listed] = []
    cursor: str | None = None
    for _ in range(MOST_TOOLS):
        page = await client.list_tools(cursor=cursor)
        found += [Listed(t.name, t.description or t.title or "", t.input_schema, _effect(t)) for t in page.tools]
        cursor = page.next_cursor
        if not cursor or len(found) > 10 * MOST_TOOLS:
            return found
    raise EnvFault(f"the MCP server {server.called!r} never ends its list of tools")


def _effect(tool: McpTool) -> Effect | None:
    """What the server says of itself, where it says anything."""
    said = tool.annotations
    if said is None:
        return None
    if said.read_only_hint:
        return "pure"
    if said.destructive_hint:
        return "irreversible"
    return "mutating" if said.read_only_hint is False or said.destructive_hint is False else None


def _result(result: CallToolResult) -> object:
    """Texts and pictures of a result, bounded.

    Raises:
        ToolError: the tool failed.
    """
    blocks = result.content[:MOST_BLOCKS]
    parts = [_part(block) for block in blocks]
    if len(result.content) > MOST_BLOCKS:
        parts.append(f"[{len(result.content) - MOST_BLOCKS} more parts left out]")
    if result.is_error:
        text = "\n".join(p for p in parts if isinstance(p, str))
        raise ToolError(text[:MAX_CHARS] or "the tool failed and does not say why", "tool_raised")
    if not parts and result.structured_content is not None:
        return result.structured_content
    if any(isinstance(p, Picture) for p in parts):
        return tuple(parts)
    return "\n".join(p for p in parts if isinstance(p, str))


def _part(block: TextContent | ImageContent | AudioContent | ResourceLink | EmbeddedResource) -> str | Picture:
    match block:
        case TextContent():
            return block.text
        case ImageContent():
            return _picture(block.data, block.mime_type)
        case AudioContent():
            return f"[{block.mime_type[:60]}, {len(block.data) * 3 // 4} bytes, not shown]"
        case ResourceLink():
            return f"[resource {block.uri[:500]}]"
        case EmbeddedResource(resource=BlobResourceContents() as blob):
            return f"[{(blob.mime_type or 'data')[:60]} {blob.uri[:500]}, not shown]"
        case EmbeddedResource():
            return str(getattr(block.resource, "text", ""))


def _picture(data: str, kind: str) -> str | Picture:
    if len(data) * 3 // 4 > LARGEST_PICTURE or not kind.startswith("image/"):
        return f"[{kind[:60]}, {len(data) * 3 // 4} bytes, not shown]"
    try:
        return Picture(base64.b64decode(data, validate=True), kind[:60])
    except binascii.Error:
        return f"[{kind[:60]}, which is no base64, not shown]"


def _why(error: BaseException) -> str:
    """The first error of a group, on one line."""
    first = error
    while isinstance(first, BaseExceptionGroup):
        first = cast("BaseExceptionGroup[BaseException]", first).exceptions[0]
    return f"{type(first).__name__}: {one_line(first)}"
