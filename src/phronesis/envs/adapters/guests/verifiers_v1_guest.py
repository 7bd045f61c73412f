"""Serves a taskset of verifiers v1: tasks, the tools of its toolsets, stops, and the sum of its weighted rewards."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any, cast

Foreign = Any
"""Something of the package."""
MOST_TASKS = 100_000
"""Tasks read of a taskset without end."""


class Run:
    """One task with its trace and its tools."""

    def __init__(self, task: Foreign, trace: Foreign, runtime: Foreign, tools: dict[str, tuple[Foreign, str]]):
        self.task, self.trace, self.runtime, self.tools = task, trace, runtime, tools
        self.parent: int | None = None


class VerifiersV1:
    """One taskset, many runs."""

    def __init__(self, module: str, args: dict[str, Any]):
        wrong = globals()["Wrong"]
        logging.disable(logging.WARNING)
        self.vf = importlib.import_module("verifiers.v1")
        self.types = importlib.import_module("verifiers.v1.types")
        self.trace = importlib.import_module("verifiers.v1.trace")
        self.node = importlib.import_module("verifiers.v1.graph").MessageNode
        self.decorators = importlib.import_module("verifiers.v1.utils.decorators")
        self.server = importlib.import_module("verifiers.v1.mcp.server")
        generic = importlib.import_module("verifiers.v1.utils.generic")
        found = imported(module)
        everything = list(cast("dict[str, Foreign]", vars(found)).values())
        own = [k for k in everything if isinstance(k, type) and k.__module__ == found.__name__]
        kinds = cast("list[Foreign]", [k for k in own if issubclass(k, self.vf.Taskset)])
        if len(kinds) != 1:
            raise wrong(f"{module!r} has {len(kinds)} tasksets of its own; one is needed")
        config = generic.concrete_type(kinds[0], self.vf.TasksetConfig, origin=self.vf.Taskset) or self.vf.TasksetConfig
        self.taskset: Foreign = kinds[0](config(**args))
        self.loop = asyncio.new_event_loop()
        self.tasks: list[Foreign] = list(itertools.islice(iter(self.taskset), MOST_TASKS))
        for task in self.tasks:
            if task.NEEDS_CONTAINER or task.data.image:
                raise wrong(f"task {task.data.idx} needs a container; that is not played here")
            if task.data.prompt is None:
                raise wrong(f"task {task.data.idx} has no prompt: its user opens the conversation; that is not played here")
        self.runs: dict[str, Run] = {}

    def hello(self) -> dict[str, Any]:
        """Version and size."""
        version = importlib.metadata.version("verifiers")
        return {"package": "verifiers", "version": version, "size": len(self.tasks), "taskset": type(self.taskset).__name__}

    def list_tasks(self, start: int, count: int) -> dict[str, Any]:
        """Tasks by number."""
        rows: list[dict[str, Any]] = []
        for task in self.tasks[start : start + count]:
            data = cast("dict[str, Any]", task.data.model_dump(mode="json"))
            content = {name: value for name, value in data.items() if name not in ("idx", "id")}
            payload = {"index": task.data.idx, "data": data, "answer": data.get("answer")}
            rows.append({"messages": [], "payload": payload, "content": content})
        return {"tasks": rows}

    def reset(self, episode: str, task: dict[str, Any], seed: int) -> dict[str, Any]:
        """Prepares a task, and offers its tools."""
        return self.loop.run_until_complete(self._reset(episode, self.tasks[task["payload"]["index"]]))

    def step(self, episode: str, text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        """One message of the policy: its calls are run; without any, the task is scored."""
        return self.loop.run_until_complete(self._step(self.runs[episode], text, calls))

    def close(self, episode: str) -> dict[str, Any]:
        """Forgets a run."""
        run = self.runs.pop(episode, None)
        if run is not None:
            self.loop.run_until_complete(run.runtime.stop())
        return {}

    async def _reset(self, episode: str, task: Foreign) -> dict[str, Any]:
        info = self.trace.AgentInfo(config=self.vf.AgentConfig())
        trace = self.vf.Trace(task=self.trace.TraceTask(type=type(task).__name__, data=task.data, key=task.key), agent=info)
        state = importlib.import_module("verifiers.v1.state").state_cls(type(task))
        trace.state = state()
        runtimes = importlib.import_module("verifiers.v1.runtimes")
        runtime = runtimes.SubprocessRuntime(runtimes.SubprocessConfig())
        await runtime.start()
        tools: dict[str, tuple[Foreign, str]] = {}
        offered: list[dict[str, Any]] = []
        shared, own = cast("Foreign", type(self.taskset)), cast("Foreign", type(task))
        toolsets: list[Foreign] = [*shared.toolsets(self.taskset.config), *own.toolsets(task.config)]
        for toolset in toolsets:
            await self._offer(toolset, tools, offered)
        self.runs[episode] = run = Run(task, trace, runtime, tools)
        await task.setup(trace, runtime)
        messages: list[Foreign] = []
        if task.data.system_prompt:
            messages.append(self.types.SystemMessage(content=task.data.system_prompt))
        prompt = task.data.prompt
        messages += [self.types.UserMessage(content=prompt)] if isinstance(prompt, str) else list(prompt)
        for message in messages:
            self._note(run, message)
        return {"messages": [_plain(m) for m in messages], "tools": offered}

    async def _offer(self, toolset: Foreign, tools: dict[str, tuple[Foreign, str]], offered: list[dict[str, Any]]) -> None:
        """The tools of a toolset, under the names that the package gives them."""
        server = importlib.import_module("mcp.server.mcpserver").MCPServer("tools")
        toolset._with_state = unchanged  # the state is here, not behind a socket
        await toolset.setup()
        toolset.register(server)
        prefix = toolset.TOOL_PREFIX
        if prefix == "":
            prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(toolset).__name__).lower()
        for tool in await server.list_tools():
            name = tool.name if prefix is None else f"{prefix}_{tool.name}"
            tools[name] = (server, tool.name)
            offered.append({"name": name, "description": tool.description or tool.name, "parameters": tool.input_schema})

    async def _step(self, run: Run, text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        made = [self.types.ToolCall(id=c["id"], name=c["name"], arguments=json.dumps(c["arguments"])) for c in calls]
        self._note(run, self.types.AssistantMessage(content=text or None, tool_calls=made or None), sampled=True)
        if await self._stopped(run) or not calls:
            return await self._scored(run)
        messages, errors = list[dict[str, Any]](), list[str]()
        for call in calls:
            said = await self._called(run, call, errors)
            message = self.types.ToolMessage(tool_call_id=call["id"], content=said, name=call["name"])
            self._note(run, message)
            messages.append(_plain(message))
        if await self._stopped(run):
            return {**await self._scored(run), "messages": messages, "errors": errors}
        return {"messages": messages, "errors": errors}

    async def _called(self, run: Run, call: dict[str, Any], errors: list[str]) -> str:
        if call["name"] not in run.tools:
            errors.append("unknown_tool")
            return f"error: there is no tool {call['name']!r}; tools: {', '.join(run.tools) or 'none'}"
        server, name = run.tools[call["name"]]
        token = self.server._call_state.set(run.trace.state)
        try:
            result = await server.call_tool(name, call["arguments"])
        except Exception as error:
            errors.append("tool_raised")
            return f"error: {error}"
        finally:
            self.server._call_state.reset(token)
        content = cast("list[Foreign]", result.content if hasattr(result, "content") else result)
        return "".join(str(getattr(part, "text", "")) for part in content)

    async def _stopped(self, run: Run) -> bool:
        available = {"task": run.task.data, "trace": run.trace, "runtime": run.runtime}
        for stop in run.task.hooks("stop"):
            if await self.decorators.invoke(stop, available):
                run.trace.stop_condition = stop.__name__
                return True
        return False

    async def _scored(self, run: Run) -> dict[str, Any]:
        run.trace.is_completed = run.trace.ok = True
        await run.task.finalize(run.trace, run.runtime)
        await run.task.score(run.trace, run.runtime)
        rewards = cast("dict[str, Foreign]", run.trace.rewards)
        metrics = {name: float(r.score) for name, r in rewards.items() if r is not None}
        more = {name: float(v) for name, v in run.trace.metrics.items() if isinstance(v, int | float)}
        return {"done": True, "reward": float(run.trace.reward), "metrics": {**more, **metrics}}

    def _note(self, run: Run, message: Foreign, sampled: bool = False) -> None:
        run.trace.nodes.append(self.node(parent=run.parent, message=message, sampled=sampled))
        run.parent = len(run.trace.nodes) - 1


def unchanged(function: Foreign) -> Foreign:
    """The function itself."""
    return function


def _plain(message: Foreign) -> dict[str, Any]:
    found = cast("dict[str, Any]", message.model_dump())
    content = found.get("content") or ""
    text = content if isinstance(content, str) else "".join(str(p.get("text", "")) for p in content)
    return {"role": found["role"], "content": text, "tool_call_id": found.get("tool_call_id"), "name": found.get("name")}


def imported(module: str) -> Foreign:
    """The module of a name, or in a file."""
    if not module.endswith(".py"):
        return importlib.import_module(module.replace("-", "_"))
    path = Path(module)
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise globals()["Wrong"](f"{module!r} is no Python file")
    found = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = found
    try:
        spec.loader.exec_module(found)
    except PermissionError as error:
        text = f"{error}; in a box it is read by nobody in particular: let others read its folder, or say isolated=false"
        raise globals()["Wrong"](text) from error
    return found


def catalogue(module: str, args: dict[str, Any]) -> VerifiersV1:
    """Opens a module."""
    return VerifiersV1(module, args)
