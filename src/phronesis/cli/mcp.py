"""`phronesis mcp`: our tools for agents of any make."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Annotated, cast

import typer

from phronesis.cli.output import AsJson, examples, new_app, say, say_json
from phronesis.config.importing import import_path
from phronesis.tools.catalogue import TOOLS, check, keeps_state, toolset

app = new_app()
SERVER = "phronesis.tools.adapters.mcp_server"
"""Imported when it is asked for: the MCP SDK is optional."""


@app.command(
    epilog=examples(
        "phronesis mcp --list",
        "phronesis mcp --tools calculator,python",
        "phronesis mcp --tools shell,files --http --port 8400",
        "phronesis mcp --tools sql:books.sqlite,my_tools:convert",
    )
)
def mcp(
    tools: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Tools to serve; --list says which there are.")
    ] = "calculator",
    http: Annotated[bool, typer.Option("--http", help="Serve over HTTP at 127.0.0.1 instead of standard streams.")] = False,
    port: Annotated[int, typer.Option(help="Port of --http; 0 takes a free one.")] = 0,
    list_tools: Annotated[bool, typer.Option("--list", help="Say which tools there are and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serve tools over the Model Context Protocol, to any client that speaks it.

    Over standard streams a client starts this command itself, and the process is one session. Over HTTP every session has
    tools of its own: variables, files and processes of one are not seen by another.
    """
    if list_tools:
        say_json(TOOLS) if as_json else say("\n".join(f"{name:<16}{about}" for name, about in TOOLS.items()))
        return
    names = [name.strip() for name in tools.split(",") if name.strip()]
    check(names)
    make = partial(toolset, names)
    if http:
        serving = cast("Callable[..., AbstractAsyncContextManager[str]]", import_path(f"{SERVER}:serving"))
        asyncio.run(_until_stopped(serving(make, state=keeps_state(names), port=port), as_json=as_json))
    else:
        asyncio.run(_over_streams(cast("Callable[..., Awaitable[None]]", import_path(f"{SERVER}:serve_stdio")), make))


async def _over_streams(serve: Callable[..., Awaitable[None]], make: object) -> None:
    await serve(make)


async def _until_stopped(serving: AbstractAsyncContextManager[str], *, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serving as address:
        say_json({"address": address}) if as_json else say(f"serving at {address}; Ctrl-C ends it")
        await stop.wait()
