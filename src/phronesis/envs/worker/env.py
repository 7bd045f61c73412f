"""An episode that a worker plays: its replies become ours, its faults become faults, and nothing of it becomes a reward by
accident.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from phronesis.envs.tasks import messages_of
from phronesis.envs.worker.hub import hub, soon
from phronesis.envs.worker.process import Process
from phronesis.envs.worker.spec import WorkerSpec
from phronesis.errors import ConfigError, EnvFault, one_line
from phronesis.records import Message, Reply, Stop, Task, TextPart, ToolSpec

RESERVED = frozenset({"reset", "close", "verify"})
"""Names that no tool of a catalogue may have: a policy that calls them would reach for the episode itself."""
LARGEST = 1e9
"""Of a reward, and of a metric."""
_numbers = itertools.count()


class WorkerEnv:
    """Plays one episode in a worker process, which answers with messages, reward, done, truncated, errors, metrics."""

    def __init__(self, spec: WorkerSpec, tasks_open: bool = False):
        """Asks nothing yet.

        Args:
            spec: the worker.
            tasks_open: the task's own messages come before those of ``reset``.
        """
        self.spec, self.tasks_open = spec, tasks_open
        self.episode = f"e{next(_numbers)}"
        self.process: Process | None = None

    async def reset(self, task: Task, seed: int) -> Reply:
        """Begins the episode in the living process, or in a new one."""
        self.process = await soon(hub().process(self.spec))
        told = await self.ask("reset", task={"id": task.id, "payload": task.payload}, seed=seed)
        reply = as_reply(told)
        return msgspec.structs.replace(reply, messages=task.messages + reply.messages) if self.tasks_open else reply

    async def step(self, action: Message) -> Reply:
        """Hands over what was said: text and calls."""
        calls = [
            {"id": c.id, "name": c.name, "arguments": c.arguments, "error": c.error} for c in action.tool_calls
        ]  # fmt: skip
        return as_reply(await self.ask("step", text=action.text, calls=calls))

    async def state(self) -> dict[str, Any]:
        """What the catalogue tells of the episode; may hold answers, and is never shown."""
        return await self.ask("state")

    async def close(self) -> None:
        """Ends the episode; the process stays."""
        process, self.process = self.process, None
        if process is not None and not process.ended:
            await soon(process.ask("close", {"episode": self.episode}))

    async def ask(self, op: str, **fields: object) -> dict[str, Any]:
        """Asks the process of this episode.

        Raises:
            EnvFault: the process ended, hung, or the package raised.
        """
        if self.process is None:
            raise EnvFault(f"{self.spec.name!r}: reset comes first")
        return await soon(self.process.ask(op, {"episode": self.episode, **fields}))


def as_reply(told: Mapping[str, Any]) -> Reply:
    """What a worker said, as a reply. A metric that is no number is left out; a reward that is none is a fault.

    Raises:
        EnvFault: a message, a tool or a reward that is none; or a tool of a reserved name.
    """
    reward, done = told.get("reward"), bool(told.get("done"))
    if reward is not None and (isinstance(reward, bool) or not isinstance(reward, int | float) or abs(reward) > LARGEST):
        raise EnvFault(f"a worker rewarded with {str(reward)[:80]!r}")
    tools, errors = told.get("tools"), told.get("errors", ())
    try:
        reply = Reply(
            messages=tuple(m for found in told.get("messages", ()) for m in _message(found)),
            reward=None if reward is None else float(reward),
            done=done,
            stop=Stop.max_turns if done and told.get("truncated") else None,
            tools=None if tools is None else tuple(_tool(t) for t in tools),
            errors=tuple(str(e) for e in errors),
            effect=told.get("effect"),
            metrics={str(k): float(v) for k, v in told.get("metrics", {}).items() if _finite(v)},
        )
        return msgspec.convert(msgspec.to_builtins(reply), Reply)
    except (TypeError, ValueError, AttributeError, msgspec.ValidationError, ConfigError) as error:
        raise EnvFault(f"a worker answered with something that is no reply: {one_line(error)}") from error


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= LARGEST


def _message(found: Mapping[str, Any]) -> tuple[Message, ...]:
    if found.get("role") == "tool":
        text = TextPart(text=str(found.get("content", "")))
        return (Message(role="tool", content=(text,), tool_call_id=found.get("tool_call_id"), name=found.get("name")),)
    return messages_of([found])


def _tool(found: Mapping[str, Any]) -> ToolSpec:
    name = str(found.get("name"))
    if name in RESERVED:
        raise EnvFault(f"a worker offers a tool named {name!r}; that name is reserved: rename the tool")
    parameters = cast("dict[str, Any]", found.get("parameters") or {"type": "object", "properties": {}})
    return ToolSpec(name=name, description=str(found.get("description") or name), parameters=parameters)
