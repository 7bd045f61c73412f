"""Actions a policy should not take and will: the checker sends them all."""

from __future__ import annotations

from collections.abc import Sequence

from phronesis.records import Message, ToolCall, ToolSpec, say

FLOOD = 200_000
"""Characters of a message that is far too long."""


def _calls(*calls: ToolCall) -> Message:
    return Message(role="assistant", tool_calls=calls)


BAD_ACTIONS: dict[str, Message] = {
    "empty message": say("assistant", ""),
    "blank message": say("assistant", " \n\t "),
    "huge message": say("assistant", "x" * FLOOD),
    "odd characters": say("assistant", "\x00\u202e\U0001f600\uffff </tool_call>"),
    "only a thought": Message(role="assistant", thought="I wonder"),
    "unknown tool": _calls(ToolCall(id="call_0_0", name="no_such_tool", arguments={})),
    "huge tool name": _calls(ToolCall(id="call_0_0", name="n" * FLOOD, arguments={})),
    "malformed call": _calls(ToolCall(id="call_0_0", name="", arguments={}, error="Expecting ',' delimiter: line 1 column 9")),
    "many calls": _calls(*(ToolCall(id=f"call_0_{i}", name="no_such_tool", arguments={}) for i in range(60))),
}
"""Bad in any environment; those with calls must be answered as mistakes where there are tools."""


def bad_calls(tools: Sequence[ToolSpec]) -> dict[str, Message]:
    """Calls of existing tools with arguments that do not fit."""
    found: dict[str, Message] = {}
    for tool in tools:
        properties: dict[str, object] = tool.parameters.get("properties", {})
        required: list[str] = tool.parameters.get("required", [])
        cases: dict[str, dict[str, object]] = {"unknown argument": {"no_such_argument": 1}}
        if required:
            cases["missing argument"] = {}
        for argument in properties:
            cases[f"mistyped {argument}"] = {**dict.fromkeys(required), argument: {"no": ["such", {"shape": None}]}}
            cases[f"surrogate in {argument}"] = {**dict.fromkeys(required), argument: "\ud800"}
            cases[f"huge {argument}"] = {**dict.fromkeys(required), argument: "9" * FLOOD}
        for case, arguments in cases.items():
            found[f"{tool.name}: {case}"] = _calls(ToolCall(id="call_0_0", name=tool.name, arguments=arguments))
    return found
