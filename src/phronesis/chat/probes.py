"""Fixed conversations with which templates are tried out, and the first place where two renderings differ."""

from __future__ import annotations

from msgspec import Struct

from phronesis.records import Message, TextPart, ToolCall, ToolSpec, say

THOUGHT = "seven is odd"
"""A thought that occurs nowhere else in a probe."""
ANSWER = "Odd answer."
"""What the probed assistant says."""
RESULT = 'busy "5"'
"""A tool result with a quote, so that a template that writes results as JSON shows itself."""

TOOLS = (
    ToolSpec(
        name="look_up",
        description="Price of an item.",
        parameters={"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
    ),
)
"""One tool."""


class Difference(Struct, frozen=True, kw_only=True):
    """Where two renderings part."""

    at: int
    """First character that differs."""
    before: str
    """Up to 40 characters they share just before it."""
    expected: str
    """How the expected rendering goes on, up to 60 characters; empty when it ends."""
    found: str
    """How the other goes on."""

    def __str__(self) -> str:
        return f"at character {self.at}, after {self.before!r}: expected {self.expected!r}, found {self.found!r}"


def first_difference(expected: str, found: str) -> Difference | None:
    """Where the texts part; None when they are equal.

    >>> first_difference("user: hi\\n", "user: hi").at
    8
    """
    if expected == found:
        return None
    pairs = enumerate(zip(expected, found, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(expected), len(found)))
    return Difference(at=at, before=expected[max(0, at - 40) : at], expected=expected[at : at + 60], found=found[at : at + 60])


def prefix_difference(shorter: str, longer: str) -> Difference | None:
    """Where `longer` stops being a continuation of `shorter`; None when it is one."""
    return None if longer.startswith(shorter) else first_difference(shorter, longer[: len(shorter)])


def call(id: str = "call00000", **arguments: object) -> ToolCall:
    """A call of the probe's tool; nine letters and digits, since some templates insist on it."""
    return ToolCall(id=id, name="look_up", arguments=arguments or {"item": "fig"})


def assistant(text: str = "", thought: str | None = None, calls: tuple[ToolCall, ...] = ()) -> Message:
    """An assistant message."""
    return Message(role="assistant", content=(TextPart(text=text),) if text else (), thought=thought, tool_calls=calls)


def result(text: str = RESULT, id: str = "call00000") -> Message:
    """A tool's answer."""
    return Message(role="tool", content=(TextPart(text=text),), tool_call_id=id, name="look_up")


PLAIN = (say("user", "Is 7 odd?"), assistant(ANSWER), say("user", "Sure?"), assistant("Yes."), say("user", "And 8?"))
"""Talk without tools or thoughts."""
INSTRUCTED = (say("system", "Be brief."), *PLAIN)
"""The same below a system message."""
SPACED = (say("user", " a \n"), assistant(ANSWER), say("user", "\tb\n\n"))
"""White space at the edges of user messages."""
CALLING = (say("user", "Price?"), assistant(calls=(call(),)), result(), assistant(ANSWER), say("user", "Thanks."))
"""One call and its result."""
TALKING = (say("user", "Price?"), assistant("Let me see.", calls=(call(),)), result())
"""Text beside a call."""
PARALLEL = (
    say("user", "Prices?"),
    assistant(calls=(call("call00000"), call("call00001", item="kiwi"))),
    result("5", "call00000"),
    result("6", "call00001"),
)
"""Two calls in one message."""
THOUGHT_TOOL = (say("user", "Price?"), assistant("", THOUGHT, (call(),)), result())
"""A thought before a call that was answered."""
THOUGHT_USER = (say("user", "Is 7 odd?"), assistant(ANSWER, THOUGHT), say("user", "And 8?"))
"""A thought before a new user message."""
