"""Our tools by name, fresh for every episode or session, for settings and for `phronesis mcp`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

from phronesis.config.importing import import_path
from phronesis.errors import ConfigError, UnknownName
from phronesis.sandbox import Box, BoxSpec, start
from phronesis.tool import Tool, as_tool
from phronesis.tools.calculator import calculate
from phronesis.tools.python import PythonTool
from phronesis.tools.search import Corpus, SearchTools
from phronesis.tools.shell import FileTools, ShellTool
from phronesis.tools.sql import SqlTools

BoxMaker = Callable[[], AbstractAsyncContextManager[Box]]
"""Opens the box that the tools of one episode share."""

TOOLS = {
    "calculator": "exact arithmetic",
    "python": "a Python that keeps its variables, in a box",
    "shell": "a shell in a box",
    "files": "list, read, write and edit files of the box",
    "sql:FILE": "queries over a SQLite database, read only",
    "search:FILE": "search over a corpus that `phronesis.tools.Corpus.build` wrote",
    "module:function": "a typed, documented function of your own; all sessions share it",
}
"""What `toolset` takes."""
BOXED = ("python", "shell", "files")
"""Those that run in a box, and keep state."""


@asynccontextmanager
async def own_box() -> AsyncGenerator[Box]:
    """A box of a sandbox of its own."""
    sandbox = await start()
    try:
        async with await sandbox.open(BoxSpec()) as box:
            yield box
    finally:
        sandbox.close()


def check(names: Sequence[str]) -> None:
    """Refuses names before an episode needs them.

    Raises:
        ConfigError: a file or function that does not exist, or no name at all.
        UnknownName: no such tool.
    """
    if not names:
        raise ConfigError(f"name at least one tool: {', '.join(TOOLS)}")
    if len(set(names)) != len(names):
        raise ConfigError(f"a tool is named twice: {', '.join(names)}")
    for name in names:
        kind, colon, rest = name.partition(":")
        if kind in ("sql", "search") and colon:
            if not Path(rest).is_file():
                raise ConfigError(f"there is no file {rest!r} for the tool {name!r}")
            (SqlTools(Path(rest)) if kind == "sql" else Corpus(Path(rest)).rows).close()
        elif colon:
            as_tool(cast("Callable[..., object]", import_path(name)))
        elif name not in ("calculator", *BOXED):
            raise UnknownName("tool", name, TOOLS)


def keeps_state(names: Sequence[str]) -> bool:
    """Whether one call may depend on another."""
    return any(name in BOXED for name in names)


@asynccontextmanager
async def toolset(names: Sequence[str], box: BoxMaker = own_box) -> AsyncGenerator[list[Tool]]:
    """The tools of these names for one episode; what they opened is closed on leaving.

    Args:
        names: see `TOOLS`.
        box: opens the box of those that need one.

    Raises:
        ConfigError: see `check`.
        SandboxUnavailable: a box is needed and this machine gives none.
    """
    check(names)
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(box()) if keeps_state(names) else None
        tools: list[Tool] = []
        for name in names:
            kind, _, rest = name.partition(":")
            if shared is not None and kind in BOXED:
                tools += _boxed(kind, shared, stack)
            elif kind == "sql":
                database = SqlTools(Path(rest))
                stack.callback(database.close)
                tools += database.tools()
            elif kind == "search":
                corpus = Corpus(Path(rest))
                stack.callback(corpus.rows.close)
                tools += SearchTools(corpus).tools()
            else:
                tools.append(as_tool(calculate if kind == "calculator" else cast("Callable[..., object]", import_path(name))))
        yield tools


def _boxed(kind: str, box: Box, stack: AsyncExitStack) -> list[Tool]:
    if kind == "shell":
        return ShellTool(box).tools()
    if kind == "files":
        return FileTools(box).tools()
    python = PythonTool(box)
    stack.push_async_callback(python.close)
    return python.tools()
