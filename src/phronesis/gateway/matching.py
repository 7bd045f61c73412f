"""When a message that comes back from a client is the one that was sent.

Clients keep history in their own structures and write it anew. Two assistant messages are the same when

* their texts are equal, or equal once white space at both ends is removed (repair ``whitespace``);
* they call the same tools in the same order with equal arguments as JSON values: key order, spacing and ``1`` against
  ``1.0`` do not matter; call ids may have been replaced (repair ``call_id``);
* the reasoning is equal up to white space at its ends (repair ``whitespace``), or was dropped (repair ``reasoning``).

All other messages are the same when role, text, images and the answered call are equal, however the text is cut into parts.
Anything else is another message, and the conversation that holds it another branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from phronesis.records import Message, TextPart, ToolCall

Repairs = tuple[str, ...]
"""Kinds of differences that were overlooked."""


def same(sent: Message, back: Message) -> Repairs | None:
    """What must be overlooked to read `back` as `sent`; None when it is another message.

    >>> from phronesis.records import say
    >>> same(say("assistant", "4 "), say("assistant", "4")), same(say("assistant", "4"), say("assistant", "5"))
    (('whitespace',), None)
    """
    if sent == back and not sent.tool_calls:  # for Python, true equals 1
        return ()
    if sent.role != "assistant" or back.role != "assistant":
        return () if _given(sent, back) else None
    repairs: list[str] = []
    if sent.text != back.text:
        if sent.text.strip() != back.text.strip():
            return None
        repairs.append("whitespace")
    calls = _calls(sent.tool_calls, back.tool_calls)
    if calls is None or _images(sent) != _images(back):
        return None
    thought = _thought(sent.thought, back.thought)
    if thought is None:
        return None
    return tuple(dict.fromkeys([*repairs, *calls, *thought]))


def equal_json(a: object, b: object) -> bool:
    """Whether two JSON values are equal; ``1`` equals ``1.0`` and differs from ``true``.

    >>> equal_json({"a": 1, "b": [2]}, {"b": [2.0], "a": 1}), equal_json({"a": 1}, {"a": True})
    (True, False)
    """
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        left, right = cast("dict[str, object]", a), cast("dict[str, object]", b)
        return left.keys() == right.keys() and all(equal_json(left[k], right[k]) for k in left)
    if isinstance(a, list) and isinstance(b, list):
        first, second = cast("list[object]", a), cast("list[object]", b)
        return len(first) == len(second) and all(map(equal_json, first, second))
    return a == b


def _calls(sent: Sequence[ToolCall], back: Sequence[ToolCall]) -> Repairs | None:
    if len(sent) != len(back):
        return None
    if any(a.name != b.name or not equal_json(a.arguments, b.arguments) for a, b in zip(sent, back, strict=True)):
        return None
    return () if all(a.id == b.id for a, b in zip(sent, back, strict=True)) else ("call_id",)


def _thought(sent: str | None, back: str | None) -> Repairs | None:
    if sent == back:
        return ()
    if back is None:
        return ("reasoning",)
    return ("whitespace",) if (sent or "").strip() == back.strip() else None


def _given(a: Message, b: Message) -> bool:
    """Messages a client wrote itself."""
    return (a.role, a.text, a.tool_call_id, a.name, _images(a)) == (b.role, b.text, b.tool_call_id, b.name, _images(b))


def _images(message: Message) -> tuple[object, ...]:
    return tuple(p for p in message.content if not isinstance(p, TextPart))
