"""Holds what an environment returns to the contract: garbage becomes `EnvFault`, floods are cut where all can see it."""

from __future__ import annotations

import math
from typing import cast, get_args

import msgspec

from phronesis.errors import EnvFault
from phronesis.records import ImagePart, Message, Reply, Role, Stop, TextPart, ToolCall, ToolSpec

MAX_MESSAGES = 64
"""Messages one reply may hold."""
ROLES = frozenset(cast("tuple[str, ...]", get_args(Role)))


def validate_reply(reply: object, *, opening: bool = False, max_chars: int = 20_000) -> Reply:
    """The reply, known to be well-formed, with texts longer than `max_chars` cut and marked as cut.

    Records do not check their fields when they are built, so a user's environment can hand over anything.

    Args:
        reply: whatever `reset` or `step` returned.
        opening: True for the reply of `reset`, which must open a conversation unless it is done already.
        max_chars: characters of all texts of one message together that reach the policy.

    Raises:
        EnvFault: not a `Reply`; a field of the wrong type; a reward or metric that is not finite; neither done nor a
            message to go on from; a stop without done; more than 64 messages. Names the field and shows its value.
    """
    where = "reset" if opening else "step"
    if not isinstance(reply, Reply):
        raise EnvFault(f"{where} returned {type(reply).__name__!r}, expected phronesis.records.Reply")
    _number(where, "reward", reply.reward)
    if not isinstance(cast("object", reply.done), bool):
        raise EnvFault(f"{where}: done is {reply.done!r}, expected True or False")
    if reply.stop is not None and not (reply.done and isinstance(cast("object", reply.stop), Stop)):
        raise EnvFault(f"{where}: stop is {reply.stop!r} with done {reply.done!r}; a stop is a Stop and needs done")
    if reply.state_key is not None and not isinstance(cast("object", reply.state_key), str):
        raise EnvFault(f"{where}: state_key is {reply.state_key!r}, expected text or None")
    _texts(where, "errors", reply.errors)
    if not isinstance(cast("object", reply.metrics), dict):
        raise EnvFault(f"{where}: metrics is {type(reply.metrics).__name__!r}, expected a dict")
    for name, value in reply.metrics.items():
        _number(where, f"metrics[{name!r}]", value)
    if reply.tools is not None:
        _tools(where, reply.tools)
    messages = _messages(where, reply.messages, max_chars)
    if not messages and not reply.done:
        raise EnvFault(f"{where}: the reply is neither done nor has a message to go on from")
    return reply if messages is reply.messages else msgspec.structs.replace(reply, messages=messages)


def _number(where: str, field: str, value: object) -> None:
    if value is None and field == "reward":
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise EnvFault(f"{where}: {field} is {value!r}, expected a finite number")


def _shown(found: object) -> str:
    return "no tuple" if found is None else repr(found)[:200]


def _texts(where: str, field: str, values: object) -> None:
    found = cast("tuple[object, ...] | None", values if isinstance(values, tuple) else None)
    if found is None or not all(isinstance(v, str) for v in found):
        raise EnvFault(f"{where}: {field} is {_shown(found)}, expected a tuple of texts")


def _tools(where: str, tools: object) -> None:
    found = cast("tuple[object, ...] | None", tools if isinstance(tools, tuple) else None)
    if found is None or not all(isinstance(t, ToolSpec) for t in found):
        raise EnvFault(f"{where}: tools is {_shown(found)}, expected a tuple of ToolSpec")
    names = [t.name for t in cast("tuple[ToolSpec, ...]", tools)]
    if len(names) != len(set(names)):
        raise EnvFault(f"{where}: two tools share a name: {sorted(names)}")


def _messages(where: str, messages: object, max_chars: int) -> tuple[Message, ...]:
    """The same tuple when nothing had to be cut."""
    if not isinstance(messages, tuple):
        raise EnvFault(f"{where}: messages is {type(messages).__name__!r}, expected a tuple of Message")
    found = cast("tuple[object, ...]", messages)
    if len(found) > MAX_MESSAGES:
        raise EnvFault(f"{where}: {len(found)} messages in one reply, at most {MAX_MESSAGES} are allowed")
    checked = tuple(_message(where, m, max_chars) for m in found)
    unchanged = all(a is b for a, b in zip(checked, found, strict=True))
    return cast("tuple[Message, ...]", messages) if unchanged else checked


def _message(where: str, message: object, max_chars: int) -> Message:
    if not isinstance(message, Message):
        raise EnvFault(f"{where}: a message is {type(message).__name__!r}, expected phronesis.records.Message")
    if message.role not in ROLES:
        raise EnvFault(f"{where}: a message has the role {message.role!r}, expected one of {sorted(ROLES)}")
    if not isinstance(cast("object", message.content), tuple):
        raise EnvFault(f"{where}: a message's content is {type(message.content).__name__!r}; use say(role, text)")
    for part in cast("tuple[object, ...]", message.content):
        if isinstance(part, TextPart):
            if not isinstance(cast("object", part.text), str):
                raise EnvFault(f"{where}: a text part holds {type(part.text).__name__!r}, expected text")
            if not part.text.isascii() and any("\ud800" <= c <= "\udfff" for c in part.text):
                raise EnvFault(f"{where}: a message holds a lone surrogate, which no tokenizer can encode")
        elif not isinstance(part, ImagePart):
            raise EnvFault(f"{where}: a message part is {type(part).__name__!r}, expected TextPart or ImagePart")
    if not all(isinstance(c, ToolCall) for c in cast("tuple[object, ...]", message.tool_calls)):
        raise EnvFault(f"{where}: a message's tool_calls hold something else than ToolCall")
    return message if len(message.text) <= max_chars else _cut(message, max_chars)


def _cut(message: Message, max_chars: int) -> Message:
    left, parts = max_chars, list[TextPart | ImagePart]()
    cut = len(message.text) - max_chars
    for part in message.content:
        if isinstance(part, TextPart):
            part, left = TextPart(text=part.text[:left]), left - min(left, len(part.text))
        parts.append(part)
    parts.append(TextPart(text=f"\n[{cut} characters cut]"))
    return msgspec.structs.replace(message, content=tuple(parts))
