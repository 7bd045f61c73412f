"""Messages of MCP over lines: between us and a command, in a box or not. Bounded, whatever the command writes.

The package's own way over standard streams keeps an endless line in memory and writes the server's errors among ours; this one
does neither. Lines that are no messages are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCNotification, JSONRPCRequest, jsonrpc_message_adapter

from phronesis.errors import EnvFault
from phronesis.sandbox import Box, BoxSpec, Limits, start
from phronesis.tools.mcp import McpServer

LONGEST = 1 << 22
"""Bytes of one line; the connection ends at a longer one."""
MOST_SKIPPED = 10_000
"""Lines that are no messages, before the connection ends."""
MOST_REQUESTS = 1000
"""Requests of the server to us, each of which has to be answered, before the connection ends."""
MOST_NOTES = 100_000
"""Notifications of the server, before the connection ends."""
GRACE = 1.0
"""Seconds a command has to end by itself when its input ends."""


@asynccontextmanager
async def command_streams(server: McpServer) -> AsyncGenerator[TransportStreams]:
    """Starts the server's command and talks to it; on leaving, its process group is dead, or its whole box."""
    opened = _boxed(server) if server.sandbox else _plain(server)
    async with opened as (reader, writer), _streams(reader, writer) as streams:
        yield streams


@asynccontextmanager
async def _plain(server: McpServer) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    environment = {n: v for n in ("PATH", "HOME", "LANG", "USER") if (v := os.environ.get(n))} | server.environment
    try:
        process = await asyncio.create_subprocess_exec(
            *server.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            limit=LONGEST,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise EnvFault(f"the MCP server {server.called!r} cannot be started: {error}") from error
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout, process.stdin
    finally:
        with anyio.CancelScope(shield=True):
            await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Closes the command's input, waits a little, and kills its process group."""
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A reader that was paused never sees the end of the output, for which both waiting and letting go would wait.
    process._transport.close()  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportAttributeAccessIssue]
    await process.wait()


@asynccontextmanager
async def _boxed(server: McpServer) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    sandbox = await start()
    try:
        limits = Limits(seconds=1e9, memory=None)
        spec = BoxSpec(readable=server.readable, environment=server.environment, limits=limits)
        async with await sandbox.open(spec) as box:
            child = await box.start(_inside(box, server.command))
            yield child.output, child.given
    finally:
        sandbox.close()


def _inside(box: Box, command: Sequence[str]) -> list[str]:
    """The command; ``python -c`` is the interpreter of the box, which has started already."""
    ready = command[0] in ("python", "python3") and command[1:2] == ("-c",)
    return [box.python if ready else command[0], *command[1:]]


@asynccontextmanager
async def _streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncGenerator[TransportStreams]:
    told, heard = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, to_send = anyio.create_memory_object_stream[SessionMessage](0)

    async def read() -> None:
        skipped = requests = notes = 0
        async with told:
            with contextlib.suppress(ValueError, OSError, asyncio.IncompleteReadError, anyio.BrokenResourceError):
                while skipped < MOST_SKIPPED and (line := await reader.readline()):
                    try:
                        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                    except (ValueError, RecursionError):
                        skipped += 1
                        continue
                    requests += isinstance(message, JSONRPCRequest)
                    notes += isinstance(message, JSONRPCNotification)
                    if requests > MOST_REQUESTS or notes > MOST_NOTES:
                        break
                    await told.send(SessionMessage(message))

    async def write() -> None:
        with contextlib.suppress(OSError, anyio.BrokenResourceError):
            async with to_send:
                async for message in to_send:
                    text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                    writer.write(text.encode() + b"\n")
                    await writer.drain()

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        group.start_soon(write)
        try:
            yield heard, outgoing
        finally:
            group.cancel_scope.cancel()
            for stream in (told, heard, outgoing, to_send):
                stream.close()
