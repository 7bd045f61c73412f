"""`rows`: a file of prompts and a judge make an environment, by settings alone."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import cast

from phronesis.config.importing import import_path
from phronesis.env import Env, EnvSpec, Speaker
from phronesis.envs.boxes import fresh
from phronesis.envs.demonstrations import with_demonstrations
from phronesis.envs.from_tools import ToolFactory, ToolList, ToolListEnv
from phronesis.envs.rows.judge import CHEATS, JUDGES, comparable, gold, judge
from phronesis.envs.rows.source import Duplicates, Equal, Rows, Source, read
from phronesis.envs.scripted import uniform
from phronesis.envs.tool_env import Opening
from phronesis.errors import ConfigError, EnvFault
from phronesis.records import Message, Task, ToolSpec, say
from phronesis.sandbox import BoxSpec
from phronesis.tool import Tool
from phronesis.tools.catalogue import check, toolset
from phronesis.tools.mcp import McpServer, clashes

Connect = Callable[..., Callable[[object], AbstractAsyncContextManager[list[Tool]]]]
"""`phronesis.tools.adapters.mcp_client.mcp_tools`, which is imported when it is asked for."""


class RowEnv(ToolListEnv):
    """One row: its prompt, tools if there are any, and a message without calls as the final answer."""

    def __init__(self, answer: str, tools: ToolFactory | None = None):
        super().__init__(tools or (), "done", thread=False)
        self._answer = answer
        self._right: object = None

    async def begin(self, task: Task, seed: int) -> Opening:
        """Opens with the row's prompt."""
        self._right = task.payload.get(self._answer)
        return await super().begin(task, seed)


class KnownRowEnv(RowEnv):
    """One row whose right answer is known."""

    async def expert(self) -> Message:
        """Says the right answer."""
        return say("assistant", gold(self._right))


def make(
    path: str | list[str],
    heldout: str | list[str] | None = None,
    reward: str = "match",
    *,
    answer: str = "answer",
    columns: dict[str, str] | None = None,
    template: str | None = None,
    system: str | None = None,
    config: str | None = None,
    splits: dict[str, str] | None = None,
    key: tuple[str, ...] = ("prompt",),
    equal: Equal = "spacing",
    duplicates: Duplicates = "keep",
    shown: float = 0.5,
    tools: tuple[str, ...] = (),
    mcp: tuple[McpServer, ...] = (),
    max_turns: int | None = None,
) -> EnvSpec:
    """The environment of a data set.

    Args:
        path: file, folder, several files, or ``module:function``; see `source.read`.
        heldout: the same for held-out rows; by default the split `path` has, else about one row in five, by content.
        reward: ``match`` (texts), ``number`` (exact numbers), or ``module:function``; see `judge.judge`.
        answer: column with the right answer, for the built-in judges, demonstrations and hints.
        columns: our column -> that of the data, e.g. ``{prompt = "question"}``.
        template: the prompt made from columns: ``Question: {question}``.
        system: system message before every prompt.
        config: configuration of a repository of data sets.
        splits: our split -> that of the data set.
        key: columns that make a problem what it is; a problem in both splits is an error.
        equal: which rows count as the same problem; see `source.Equal`.
        duplicates: what becomes of a problem that occurs twice in one split; they are counted in any case.
        shown: how often demonstrations for priming a new model give the right answer, not another row's, in [0, 1].
        tools: names of our tools that every episode gets; see `phronesis.tools.catalogue.TOOLS`.
        mcp: MCP servers whose tools every episode gets.
        max_turns: turns an episode needs at most; by default 1, with tools 16.

    Raises:
        ConfigError: bad data, by file and line; a leak, by both rows; a judge that does not fit.
    """
    if not 0 <= shown <= 1:
        raise ConfigError(f"shown must lie in [0, 1], got {shown!r}")
    source = Source(
        path=path, heldout=heldout, config=config, splits=splits or {}, columns=columns or {}, template=template,
        system=system, key=key, equal=equal, duplicates=duplicates,
    )  # fmt: skip
    compared = reward in JUDGES
    rows = read("rows", source, partial(comparable, reward, answer)) if compared else read("rows", source)
    rubric = judge(reward, answer, rows.columns)
    known = answer in rows.columns
    kind = KnownRowEnv if known else RowEnv
    given = _tools(tools, mcp)
    spec = EnvSpec(
        name="rows",
        make=lambda: kind(answer, given),
        task=rows.table.task,
        sizes=rows.table.sizes,
        rubric=rubric,
        description=f"Rows of {rows.sources}: {_counts(rows)}; judged by {reward}.",
        max_turns=max_turns or (1 if given is None else 16),
        oracle_reward=1.0 if compared else None,
        null_reward=0.0 if compared else None,
        hint=(lambda task: gold(task.payload[answer])) if known else None,
        secrets=(answer,) if known and answer not in key else (),
        cheats=CHEATS if compared else {},
    )
    return with_demonstrations(spec, _imperfect(spec, answer, shown)) if known else spec


def _tools(names: tuple[str, ...], servers: tuple[McpServer, ...]) -> ToolFactory | None:
    """Makes the tools of an episode; None without any.

    Raises:
        ConfigError: a tool or server that cannot be, or the package for servers is missing.
    """
    if names:
        check(names)
    if not names and not servers:
        return None
    connect = cast("Connect", import_path("phronesis.tools.adapters.mcp_client:mcp_tools"))(*servers) if servers else None

    @asynccontextmanager
    async def opened(task: Task) -> AsyncGenerator[ToolList]:
        async with AsyncExitStack() as stack:
            found: list[Tool] = []
            if names:
                found += await stack.enter_async_context(toolset(names, partial(fresh, BoxSpec())))
            if connect is not None:
                found += await stack.enter_async_context(connect(task))
            if twice := clashes(found):
                raise EnvFault(f"two tools are called {twice[0]!r}; set prefix for an MCP server")
            yield found

    return opened


def _counts(rows: Rows) -> str:
    sizes = ", ".join(f"{'endlessly many' if n is None else n} {split}" for split, n in rows.table.sizes.items())
    again = sum(rows.duplicates.values())
    return f"{sizes}; {again} duplicates" if again else sizes


def _imperfect(spec: EnvSpec, answer: str, shown: float) -> Callable[[random.Random], Speaker]:
    """Agents that give the right answer now and then, and that of some other row otherwise."""

    def speaker(source: random.Random) -> Speaker:
        wander = uniform(source)

        async def speak(env: Env, tools: tuple[ToolSpec, ...]) -> Message:
            if source.random() < shown:
                return await cast("KnownRowEnv", env).expert()
            if tools and source.random() < 0.5:
                return await wander(env, tools)
            other = spec.task("train", source.randrange(spec.sizes["train"] or 1000))
            return say("assistant", gold(other.payload[answer]))

        return speak

    return speaker
