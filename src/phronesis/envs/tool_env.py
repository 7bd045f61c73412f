"""Environments made of tools: runs the calls of a message, and turns every mistake into something the policy can read.

A wrong name, malformed JSON, or a wrong argument is answered with a tool message that says so, and counted in
`Reply.errors`. `ToolError` raised by a tool is such an answer too; anything else a tool raises is the environment's fault
and passes through.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from phronesis.errors import ToolError
from phronesis.records import Effect, Message, Part, Reply, Task, TextPart, ToolCall, say
from phronesis.tool import Tool

MAX_CALLS = 16
"""Calls of one message that are run; the rest are refused."""

NoCall = Literal["done", "remind"]
"""What a message without calls means: the final answer, or a slip that is answered with a reminder."""

_SEVERITY: dict[Effect | None, int] = {None: 0, "pure": 1, "mutating": 2, "irreversible": 3}


class Outcome(NamedTuple):
    """What running the calls of one message gave."""

    messages: tuple[Message, ...]
    """One tool message per call, in order."""
    errors: tuple[str, ...]
    """Kinds of mistakes, e.g. ``unknown_tool``."""
    effect: Effect | None
    """The gravest declared effect of the calls that ran; None when none was declared."""
    calls: int
    """Calls that ran without error."""


class Opening(NamedTuple):
    """How an episode begins."""

    messages: tuple[Message, ...]
    """The whole opening conversation."""
    tools: tuple[Tool, ...]
    """What can be called."""
    state_key: str | None = None
    """Hash of the state at the start."""


class ToolEnv(ABC):
    """An environment whose actions are tool calls. Subclass it with `begin`, and `settle` for rewards and endings.

    Example: a message with the calls ``look()`` and ``fly()`` where only ``look`` exists is answered with two tool messages,
    the second one ``error: there is no tool 'fly'; tools: look``, and ``errors == ("unknown_tool",)``.
    """

    no_call: NoCall = "done"
    """What a message without tool calls means."""

    def __init__(self) -> None:
        self.tools: dict[str, Tool] = {}
        """The tools of this episode, by name."""

    @abstractmethod
    async def begin(self, task: Task, seed: int) -> Opening:
        """Prepares the episode's state."""

    async def settle(self, action: Message, outcome: Outcome | None) -> Reply:
        """The part of the reply that is not the tools' answers: reward, done, state key, metrics, further messages.

        Args:
            action: what the policy said.
            outcome: None when the message held no calls and `no_call` is ``done``; the default then ends the episode.
        """
        return Reply(done=outcome is None)

    async def close(self) -> None:
        """Releases everything."""
        self.tools = {}

    async def reset(self, task: Task, seed: int) -> Reply:
        """Begins the episode and offers the tools."""
        opening = await self.begin(task, seed)
        self.tools = {tool.spec.name: tool for tool in opening.tools}
        specs = tuple(tool.spec for tool in opening.tools)
        return Reply(messages=opening.messages, tools=specs, state_key=opening.state_key)

    async def step(self, action: Message) -> Reply:
        """Runs the calls of the message in order and settles the turn."""
        if not action.tool_calls and self.no_call == "done":
            return await self.settle(action, None)
        if not action.tool_calls:
            hint = say("user", f"Call one of the tools: {', '.join(self.tools)}.")
            outcome = Outcome((hint,), ("no_call",), None, 0)
        else:
            outcome = await run_calls(self.tools, action.tool_calls)
        reply = await self.settle(action, outcome)
        return msgspec.structs.replace(
            reply,
            messages=outcome.messages + reply.messages,
            errors=outcome.errors + reply.errors,
            effect=reply.effect or outcome.effect,
        )


async def run_calls(tools: Mapping[str, Tool], calls: Sequence[ToolCall]) -> Outcome:
    """Runs calls one after the other. Mistakes are answered, not raised.

    Raises:
        Exception: whatever a tool raises besides `ToolError`.
    """
    messages: list[Message] = []
    errors: list[str] = []
    effect: Effect | None = None
    for n, call in enumerate(calls):
        try:
            if n >= MAX_CALLS:
                raise ToolError(f"only {MAX_CALLS} calls of a message are run", "too_many_calls")
            tool = _lookup(tools, call)
            content = await tool.parts(call.arguments)
            effect = max(effect, tool.effect, key=_SEVERITY.__getitem__)
        except ToolError as error:
            content = (TextPart(text=f"error: {error}"),)
            errors.append(error.kind)
        messages.append(answer(call, *content))
    return Outcome(tuple(messages), tuple(errors), effect, len(calls) - len(errors))


def answer(call: ToolCall, *content: Part) -> Message:
    """The tool message that answers a call."""
    return Message(role="tool", content=content, tool_call_id=call.id, name=call.name)


def _lookup(tools: Mapping[str, Tool], call: ToolCall) -> Tool:
    if call.error is not None:
        raise ToolError(f"the call could not be read: {call.error[:300]}", "malformed_call")
    if not isinstance(call.arguments, dict):  # pyright: ignore[reportUnnecessaryIsInstance] - parsers are foreign code
        raise ToolError("the arguments must be a JSON object", "malformed_call")
    if call.name not in tools:
        raise ToolError(f"there is no tool {call.name[:80]!r}; tools: {', '.join(tools) or 'none'}", "unknown_tool")
    return tools[call.name]
