"""A server made with the MCP SDK, as others make them: `python mcp_theirs.py`, over standard streams."""

from __future__ import annotations

import asyncio
import os
from typing import Literal

from mcp.server import MCPServer
from mcp.server.mcpserver import Image
from mcp.types import ToolAnnotations

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
server = MCPServer("theirs")
notes: list[str] = []


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int = 1) -> int:
    """Adds two whole numbers."""
    return a + b


@server.tool(annotations=ToolAnnotations(destructive_hint=False))
def note(text: str) -> str:
    """Keeps a note; says all of them."""
    notes.append(text)
    return " / ".join(notes)


@server.tool()
def picture(kind: Literal["dot", "line"]) -> list[str | Image]:
    """A picture and its caption."""
    return [f"a {kind}", Image(data=PNG, format="png")]


@server.tool()
def refuse() -> str:
    """Always fails."""
    raise ValueError("no such luck")


@server.tool()
async def sleep(seconds: float) -> str:
    """Takes its time."""
    await asyncio.sleep(seconds)
    return "awake"


@server.tool(annotations=ToolAnnotations(destructive_hint=True))
def crash() -> str:
    """Ends the server."""
    os._exit(3)


@server.tool()
def environment() -> str:
    """Its process and the variables it sees."""
    return f"{os.getpid()} {sorted(os.environ)}"


if __name__ == "__main__":
    server.run("stdio")
