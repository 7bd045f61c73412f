"""Our tools as an MCP server, over standard streams or HTTP at loopback, through the MCP SDK.

Every session has tools of its own, made when it first needs them and closed when it ends. Standard streams are one session.
Over HTTP a session is what the handshake family calls one; the stateless family has none, so where the tools keep state the
server offers the handshake family alone, and where they do not it offers both.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, cast

import msgspec
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallToolRequestParams,
    CallToolResult,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    ToolAnnotations,
)
from mcp.types import (
    Tool as McpTool,
)
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS

from phronesis.errors import EpisodeFault, ToolError, UserError
from phronesis.pictures import SHELF
from phronesis.records import TextPart
from phronesis.tool import Tool

Context = ServerRequestContext[Any, Any]
Tools = Callable[[], AbstractAsyncContextManager[list[Tool]]]
"""Makes the tools of one session."""
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
IDLE = 1800.0
"""Seconds after which a session that nobody uses is closed."""
SWEEP = 60.0
"""Seconds between two looks for such sessions."""
MOST = 64
"""Sessions at once."""
_SESSION = b"mcp-session-id"
_VERSION = b"mcp-protocol-version"


class _Open:
    """The tools of one session, entered and left in a task of their own."""

    def __init__(self, make: Tools):
        self.make, self.used = make, time.monotonic()
        self.turn = asyncio.Lock()
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[dict[str, Tool]] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live())

    async def tools(self) -> dict[str, Tool]:
        self.used = time.monotonic()
        return await asyncio.shield(self._ready)

    async def close(self) -> None:
        self._stop.set()
        await asyncio.wait([self._task])

    async def _live(self) -> None:
        try:
            async with self.make() as tools:
                self._ready.set_result({tool.spec.name: tool for tool in tools})
                await self._stop.wait()
        except Exception as error:  # told to whoever waits for the tools
            if not self._ready.done():
                self._ready.set_exception(error)


class Sessions:
    """All sessions of one server."""

    def __init__(self, make: Tools, *, one: bool):
        """Opens none yet.

        Args:
            make: the tools of a session.
            one: everything is one session, as over standard streams.
        """
        self.make, self.one = make, one
        self.open: dict[str, _Open] = {}

    @asynccontextmanager
    async def of(self, context: Context) -> AsyncGenerator[_Open]:
        """The session of a request; a request without one gets fresh tools, closed behind it.

        Raises:
            MCPError: too many sessions.
        """
        name = "" if self.one else _header(context)
        if name is None:
            fresh = _Open(self.make)
            try:
                yield fresh
            finally:
                await fresh.close()
            return
        await self.sweep()
        if name not in self.open:
            if len(self.open) >= MOST:
                raise MCPError(INVALID_PARAMS, f"{MOST} sessions are open; close one")
            self.open[name] = _Open(self.make)
        yield self.open[name]

    async def sweep(self, before: float | None = None) -> None:
        """Closes sessions last used before that moment; idle ones by default."""
        moment = time.monotonic() - IDLE if before is None else before
        for name in [n for n, session in self.open.items() if session.used < moment]:
            await self.end(name)

    async def end(self, name: str) -> None:
        """Closes a session, if it is open."""
        session = self.open.pop(name, None)
        if session is not None:
            await session.close()

    async def watch(self) -> None:
        """Closes sessions that nobody uses, for ever."""
        while True:
            await asyncio.sleep(SWEEP)
            await self.sweep()

    async def close(self) -> None:
        """Closes all."""
        for name in list(self.open):
            await self.end(name)


def server_of(sessions: Sessions, name: str = "phronesis") -> Server[Any]:
    """An MCP server of the sessions' tools."""

    async def listed(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        async with sessions.of(context) as session:
            return ListToolsResult(tools=[_told(tool) for tool in (await session.tools()).values()])

    async def called(context: Context, params: CallToolRequestParams) -> CallToolResult:
        async with sessions.of(context) as session:
            tools = await session.tools()
            if params.name not in tools:
                raise MCPError(INVALID_PARAMS, f"there is no tool {params.name[:80]!r}; tools: {', '.join(tools)}")
            async with session.turn:
                return await _called(tools[params.name], params.arguments or {})

    return Server(name, on_list_tools=listed, on_call_tool=called)


async def serve_stdio(make: Tools) -> None:
    """Serves one session over standard streams until the input ends."""
    sessions = Sessions(make, one=True)
    server = server_of(sessions)
    try:
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())
    finally:
        await sessions.close()


def http_app(make: Tools, *, state: bool, json_response: bool = False) -> tuple[App, Sessions]:
    """An ASGI application that serves at ``/mcp``, and its sessions, to be closed at the end.

    Args:
        make: the tools of a session.
        state: whether one call may depend on another; then only the handshake family is offered.
        json_response: answer with JSON instead of a stream of events.
    """
    sessions = Sessions(make, one=False)
    inner = cast("App", server_of(sessions).streamable_http_app(max_sessions=MOST, json_response=json_response))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        headers = dict(cast("Sequence[tuple[bytes, bytes]]", scope["headers"]))
        version = headers.get(_VERSION, b"").decode("latin-1")
        if state and version and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            await _refuse(version, send)
            return
        await inner(scope, receive, send)
        if scope["method"] == "DELETE" and _SESSION in headers:
            await sessions.end(headers[_SESSION].decode("latin-1"))

    return app, sessions


@asynccontextmanager
async def serving(make: Tools, *, state: bool, port: int = 0) -> AsyncGenerator[str]:
    """Serves over HTTP at 127.0.0.1 on the running event loop; gives the address.

    Raises:
        UserError: the port is taken.
    """
    app, sessions = http_app(make, state=state)
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"port {port} cannot be listened at ({error}); choose another with --port, 0 takes a free one"
        ) from error
    server = uvicorn.Server(
        uvicorn.Config(cast("Any", app), log_level="error", access_log=False, lifespan="on", timeout_graceful_shutdown=2)
    )
    watch = asyncio.create_task(sessions.watch())
    task = asyncio.create_task(server._serve([listening]))  # pyright: ignore[reportPrivateUsage] - `serve` captures signals
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        watch.cancel()
        await asyncio.wait([task, watch])
        await sessions.close()
        listening.close()


async def _refuse(version: str, send: Send) -> None:
    """Says which versions there are, so that a client goes back to one of them."""
    error = {
        "code": UNSUPPORTED_PROTOCOL_VERSION,
        "message": "these tools keep state, which needs a session",
        "data": {"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": version},
    }
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": None, "error": error})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _header(context: Context) -> str | None:
    request = context.request
    headers = None if request is None else cast("MutableMapping[str, str]", request.headers)
    return None if headers is None else headers.get(_SESSION.decode())


def _told(tool: Tool) -> McpTool:
    effect: Literal["pure", "mutating", "irreversible"] | None = tool.effect
    hints = (
        None if effect is None else ToolAnnotations(read_only_hint=effect == "pure", destructive_hint=effect == "irreversible")
    )
    return McpTool(name=tool.spec.name, description=tool.spec.description, input_schema=tool.spec.parameters, annotations=hints)


async def _called(tool: Tool, arguments: dict[str, Any]) -> CallToolResult:
    """A tool's answer. What it refuses and what breaks in it are told; no traceback is."""
    try:
        parts = await tool.parts(arguments)
    except (ToolError, EpisodeFault) as error:
        return CallToolResult(content=[TextContent(text=str(error))], is_error=True)
    except Exception as error:  # a user's function may raise anything
        return CallToolResult(content=[TextContent(text=f"the tool broke: {type(error).__name__}")], is_error=True)
    content: list[TextContent | ImageContent] = []
    for part in parts:
        if isinstance(part, TextPart):
            content.append(TextContent(text=part.text))
        else:
            data = base64.b64encode(SHELF.load(part)).decode()
            content.append(ImageContent(data=data, mime_type=part.media_type))
    return CallToolResult(content=[*content])
