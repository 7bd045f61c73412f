"""A finished conversation as messages: what a demonstration is made of."""

from __future__ import annotations

from msgspec import Struct

from phronesis.records.message import Message, ToolSpec


class Conversation(Struct, frozen=True, kw_only=True, gc=False):
    """A finished conversation, as messages."""

    opening: tuple[Message, ...]
    """What the assistant saw first."""
    tools: tuple[ToolSpec, ...] = ()
    """Tools it could call."""
    exchanges: tuple[tuple[Message, tuple[Message, ...]], ...]
    """Pairs of an assistant message and what was answered; the last answer is usually empty."""
    success: bool | None = None
    """Whether it ended well; None when not known."""
