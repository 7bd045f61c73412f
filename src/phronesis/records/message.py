"""What is said between an agent and its environment, before any token exists."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

Role = Literal["system", "user", "assistant", "tool"]


class TextPart(Struct, frozen=True, kw_only=True, gc=False, tag="text"):
    """A piece of text."""

    text: str
    """The characters, verbatim."""


class ImagePart(Struct, frozen=True, kw_only=True, gc=False, tag="image"):
    """A picture, referenced by the hash of its bytes; the bytes lie in the run's store."""

    sha256: str
    """Hex digest of the image file's bytes."""
    media_type: str
    """MIME type, e.g. ``image/png``."""


Part = TextPart | ImagePart


class ToolCall(Struct, frozen=True, kw_only=True, gc=False):
    """One call of a tool, as the policy wrote it."""

    id: str
    """Unique within the episode, e.g. ``call_3_0`` (turn 3, first call)."""
    name: str
    """The tool's name as written; it may not exist."""
    arguments: dict[str, Any]
    """Parsed JSON object; empty when `error` is set."""
    error: str | None = None
    """Why the call could not be parsed; None when it could."""
    raw: str | None = None
    """What was written instead of a call, tags included, so that history can show it again; None unless `error` is set."""


class ToolSpec(Struct, frozen=True, kw_only=True, gc=False):
    """A tool as the policy sees it."""

    name: str
    """Identifier the policy calls."""
    description: str
    """What it does, one or two sentences."""
    parameters: dict[str, Any]
    """JSON schema of the arguments (type object)."""


class Message(Struct, frozen=True, kw_only=True, gc=False):
    """One message of the conversation."""

    role: Role
    """Who speaks."""
    content: tuple[Part, ...] = ()
    """Parts in order; empty when only tools are called."""
    thought: str | None = None
    """Text of the think block; None when there was none, '' when it was empty."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls made by an assistant message, in order."""
    tool_call_id: str | None = None
    """For role tool: the call this message answers."""
    name: str | None = None
    """For role tool: the tool's name; for multi-agent talk: the speaker."""

    @property
    def text(self) -> str:
        """All text parts joined."""
        return "".join(p.text for p in self.content if isinstance(p, TextPart))


def say(role: Role, text: str) -> Message:
    """A message holding just this text.

    >>> say("user", "hello").text
    'hello'
    """
    return Message(role=role, content=(TextPart(text=text),) if text else ())
