"""Third way in: a list of `@tool` functions, a rubric, and tasks."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import cast

from phronesis.env import EnvSpec, Rubric
from phronesis.envs.blocking import Worker
from phronesis.envs.tasks import Tasks, task_table
from phronesis.envs.tool_env import NoCall, Opening, ToolEnv
from phronesis.errors import ConfigError, EnvFault
from phronesis.records import Task
from phronesis.tool import Tool, as_tool

ToolLike = Tool | Callable[..., object]
ToolList = Sequence[ToolLike]
ToolFactory = Callable[
    [Task], ToolList | Awaitable[ToolList] | AbstractContextManager[ToolList] | AbstractAsyncContextManager[ToolList]
]
"""Builds the tools of one episode: a function of the task, sync or async, or a context manager that also cleans up."""


class ToolListEnv(ToolEnv):
    """Plays one episode with a list of tools; a message without calls is the final answer."""

    def __init__(self, tools: Sequence[Tool] | ToolFactory, no_call: NoCall = "done", thread: bool = True):
        super().__init__()
        self._source, self.no_call = tools, no_call
        self._resources = AsyncExitStack()
        self._leave: Callable[[], object] | None = None
        self._worker = Worker() if thread else None

    async def begin(self, task: Task, seed: int) -> Opening:
        """Opens with the task's messages."""
        if not callable(self._source):
            return Opening(task.messages, self._placed(self._source))
        made = await self._run(self._source, task)
        if isinstance(made, AbstractAsyncContextManager):
            made = await self._resources.enter_async_context(cast("AbstractAsyncContextManager[object]", made))
        elif isinstance(made, AbstractContextManager):
            context = cast("AbstractContextManager[object]", made)
            made = await self._run(context.__enter__)
            self._leave = partial(context.__exit__, None, None, None)
        if not isinstance(made, list | tuple):
            raise EnvFault(f"the tool factory returned {type(made).__name__!r}, expected a list of tools")
        return Opening(task.messages, self._placed([as_tool(t) for t in cast("ToolList", made)]))

    async def close(self) -> None:
        """Leaves the factory's context."""
        await super().close()
        leave, self._leave = self._leave, None
        try:
            await self._resources.aclose()
        finally:
            if self._worker is not None:
                await self._worker.release(leave)
            elif leave is not None:
                leave()

    def _placed(self, tools: Sequence[Tool]) -> tuple[Tool, ...]:
        """The tools, their functions moved to the thread if there is one."""
        return tuple(tools if self._worker is None else (replace(t, function=partial(self._run, t.function)) for t in tools))

    async def _run(self, function: Callable[..., object], /, *arguments: object, **named: object) -> object:
        if self._worker is not None:
            return await self._worker.run(function, *arguments, **named)
        result = function(*arguments, **named)
        return await cast("Awaitable[object]", result) if inspect.isawaitable(result) else result


def from_tools(
    name: str,
    tools: ToolList | ToolFactory,
    rubric: Rubric,
    tasks: Tasks,
    *,
    system: str | None = None,
    max_turns: int = 16,
    no_call: NoCall = "done",
    description: str = "",
    thread: bool = True,
) -> EnvSpec:
    """An environment from tools. For promised scores use `dataclasses.replace` on the result.

    Args:
        name: name used in configs and records.
        tools: functions, decorated or not; or a factory that makes fresh ones for every episode, for tools with state.
        rubric: judges the finished episode; hidden facts are in ``episode.task.payload``.
        tasks: rows with a ``prompt`` (the other columns become the payload), `Task`s, or a generator.
        system: system message put before every row's prompt.
        max_turns: turns an episode needs at most.
        no_call: whether a message without calls is the final answer (``done``) or gets a reminder (``remind``).
        description: one sentence for people.
        thread: run an episode's sync tools, and a sync factory, in a thread of its own, so that one that hangs fails its
            own episode and no other. Costs about 0.1 ms a call. Tools that share state between episodes must then be
            safe to call from several threads.

    Raises:
        ConfigError: no tools, two of one name, a tool without hints or docstring, bad tasks.
    """
    source: Sequence[Tool] | ToolFactory
    if callable(tools):
        source = tools
    else:
        source = [as_tool(t) for t in tools]
        names = [t.spec.name for t in source]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"environment {name!r} needs tools with distinct names, got {names}")
    table = task_table(name, tasks, system=system)
    return EnvSpec(
        name=name,
        make=lambda: ToolListEnv(source, no_call, thread),
        task=table.task,
        sizes=table.sizes,
        rubric=rubric,
        description=description,
        max_turns=max_turns,
        oracle_reward=None,
        null_reward=None,
    )
