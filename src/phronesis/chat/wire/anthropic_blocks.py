"""The content blocks of Anthropic messages: text, pictures, thoughts and tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phronesis.chat.wire.exchange import Images, image_base64, keep_base64
from phronesis.chat.wire.fields import Fields, shown
from phronesis.records import ImagePart, Message, Part, TextPart, ToolCall


def write_blocks(content: Sequence[Part], where: str, images: Images) -> list[dict[str, Any]]:
    """Text and pictures as blocks; empty texts, which the format refuses, are left out."""
    blocks: list[dict[str, Any]] = []
    for i, part in enumerate(content):
        if isinstance(part, ImagePart):
            data = image_base64(part, images, f"{where}.content[{i}]")
            blocks.append({"type": "image", "source": {"type": "base64", "media_type": part.media_type, "data": data}})
        elif part.text:
            blocks.append({"type": "text", "text": part.text})
    return blocks


def blocks_of(fields: Fields) -> list[Fields]:
    """The content as blocks; a text is one text block."""
    value = fields.value("content")
    if isinstance(value, str):
        return [Fields({"type": "text", "text": value}, fields.place("content"))]
    if not isinstance(value, list):
        raise fields.wrong("content", f"expected a text or a list of blocks, got {shown(value)}")
    return fields.each("content")


def read_texts(blocks: Sequence[Fields]) -> tuple[Part, ...]:
    """Blocks that must all be text."""
    for block in blocks:
        if block.text("type") != "text":
            raise block.wrong("type", f"expected 'text', got {block.text('type')!r}")
    return tuple(TextPart(text=text) for block in blocks if (text := block.text("text")))


def read_parts(blocks: Sequence[Fields], images: Images) -> tuple[Part, ...]:
    """Blocks that must be text or pictures."""
    parts: list[Part] = []
    for block in blocks:
        kind = block.text("type")
        if kind == "text":
            text = block.text("text")
            parts += [TextPart(text=text)] if text else []
        elif kind == "image":
            source = block.child("source")
            if source.text("type") != "base64":
                raise source.wrong("type", f"expected 'base64', got {source.text('type')!r}; send the picture's bytes")
            parts.append(keep_base64(source.text("data"), source.text("media_type"), images, source.place("data")))
        else:
            raise block.wrong("type", f"expected 'text' or 'image', got {kind!r}; other blocks cannot be shown to a policy")
    return tuple(parts)


def read_assistant(fields: Fields, turn: int) -> Message:
    """An assistant message, of a request or an answer; `turn` numbers the calls that come without an id."""
    thoughts: list[str] = []
    parts: list[Part] = []
    calls: list[ToolCall] = []
    for block in blocks_of(fields):
        kind = block.text("type")
        if kind == "text":
            text = block.text("text")
            parts += [TextPart(text=text)] if text else []
        elif kind == "thinking":
            thoughts.append(block.text("thinking"))
        elif kind == "tool_use":
            id = block.text_or("id", "") or f"call_{turn}_{len(calls)}"
            calls.append(ToolCall(id=id, name=block.text("name"), arguments=block.mapping_or("input", None) or {}))
        elif kind != "redacted_thinking":
            raise block.wrong("type", f"expected text, thinking or tool_use, got {kind!r}")
    thought = "\n\n".join(t for t in thoughts if t)
    return Message(role="assistant", content=tuple(parts), thought=thought or None, tool_calls=tuple(calls))
