"""Anthropic messages, both sides: requests and whole answers.

The rule this module keeps: reading what it wrote gives back the same messages, tools and calls, but for the thoughts that
were left out on purpose, names of speakers (the format has none), seeds, and calls the policy got wrong (which a server
gives as text, as it was written).

An endpoint that signs its thoughts wants those blocks back word for word before the tool results they led to. They are no
part of a message; `thinking_blocks` finds them in an answer and `write_request` puts them back.
Source: Anthropic API reference, messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from phronesis.chat.wire.anthropic_blocks import blocks_of, read_assistant, read_parts, read_texts, write_blocks
from phronesis.chat.wire.exchange import (
    NO_IMAGES,
    ChatRequest,
    Images,
    ToolMode,
    call_arguments,
    said_text,
    sound_calls,
)
from phronesis.chat.wire.fields import Fields, as_text
from phronesis.errors import WireError
from phronesis.policy import Answer
from phronesis.records import Finish, ImagePart, Message, Part, TextPart, ToolSpec, Usage

NOTHING = "(nothing)"
"""Said for a message without content, which the format has no place for."""

Sealed = Callable[[Message], Sequence[Mapping[str, object]] | None]
"""The thinking blocks an endpoint gave with a message of its own; None when it is not known to have given any."""

_FINISHES = {
    "end_turn": Finish.stop,
    "tool_use": Finish.stop,
    "stop_sequence": Finish.stop,
    "pause_turn": Finish.stop,
    "max_tokens": Finish.length,
    "model_context_window_exceeded": Finish.context,
    "refusal": Finish.refused,
}
_MODES: Mapping[str, ToolMode] = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}


def _never(message: Message) -> None:
    return None


# -- requests ----------------------------------------------------------------------------------------------------------


def write_request(
    request: ChatRequest, *, images: Images = NO_IMAGES, thoughts: bool = False, sealed: Sealed = _never
) -> dict[str, Any]:
    """A request as JSON values. Choices that are None are left out; `seed`, `min_p` and `logprobs` have no place here.

    Args:
        request: what to ask.
        images: holds the pictures of the messages.
        thoughts: whether past thoughts without a signature are sent; the endpoint of Anthropic refuses them.
        sealed: finds the signed thinking blocks of a past message; they are always sent.

    Raises:
        WireError: no `max_tokens`, which the format demands, or several answers wanted.
    """
    if request.max_tokens is None:
        raise WireError("max_tokens", "expected a number, got nothing; the format demands one")
    if request.n != 1:
        raise WireError("n", f"the format gives one answer per request, {request.n!r} are wanted")
    first = next((i for i, m in enumerate(request.messages) if m.role != "system"), len(request.messages))
    system = [part.text for m in request.messages[:first] for part in m.content if isinstance(part, TextPart)]
    body: dict[str, Any] = {"model": request.model, "max_tokens": request.max_tokens}
    if system:
        body["system"] = "\n\n".join(system)
    body["messages"] = list(_write_messages(request.messages[first:], first, images, thoughts, sealed))
    if request.tools:
        body["tools"] = [write_tool(tool) for tool in request.tools]
        choice = _write_choice(request)
        if choice != {"type": "auto"}:
            body["tool_choice"] = choice
    chosen = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k or None,
        "stop_sequences": list(request.stop) or None,
        "stream": request.stream or None,
        "output_config": None if request.effort is None else {"effort": request.effort},
    }
    return body | {k: v for k, v in chosen.items() if v is not None} | request.rest


def write_tool(tool: ToolSpec) -> dict[str, Any]:
    """A tool as JSON values."""
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}


def read_request(body: object, *, images: Images = NO_IMAGES) -> ChatRequest:
    """A request a client sent.

    Raises:
        WireError: it is not one; names the field.
    """
    fields = Fields(body)
    model, limit = fields.text("model"), fields.whole("max_tokens")
    if limit < 1:
        raise fields.wrong("max_tokens", f"expected a number of at least 1, got {limit!r}")
    messages = (*_read_system(fields), *_read_messages(fields, images))
    tools = tuple(_read_tool(tool) for tool in fields.each("tools"))
    mode, name, parallel = _read_choice(fields)
    if mode == "required" and not tools:
        raise fields.wrong("tool_choice", "requires a call, but there are no tools")
    if name is not None and name not in [t.name for t in tools]:
        raise fields.wrong("tool_choice.name", f"names the tool {name!r}; the tools are {[t.name for t in tools]}")
    stops = fields.items_or("stop_sequences", list[object]())
    request = ChatRequest(
        model=model,
        messages=messages,
        tools=tools,
        tool_mode=mode,
        tool_name=name,
        parallel_calls=parallel,
        max_tokens=limit,
        temperature=fields.number_or("temperature", None),
        top_p=fields.number_or("top_p", None),
        top_k=fields.whole_or("top_k", None),
        stop=tuple(as_text(s, f"stop_sequences[{i}]") for i, s in enumerate(stops)),
        stream=fields.flag_or("stream", False),
        stream_usage=True,
    )
    output = fields.child_or("output_config")
    return replace(request, effort=None if output is None else output.text_or("effort", None), rest=fields.rest)


# -- answers -----------------------------------------------------------------------------------------------------------


def write_answer(answer: Answer) -> dict[str, Any]:
    """An answer as a server gives it; its `id` and `model` are given as they are."""
    message = answer.message
    calls, text = sound_calls(message), said_text(message)
    content: list[dict[str, Any]] = []
    if message.thought:
        content.append({"type": "thinking", "thinking": message.thought, "signature": ""})
    if text:
        content.append({"type": "text", "text": text})
    content += [{"type": "tool_use", "id": c.id, "name": c.name, "input": c.arguments} for c in calls]
    return {
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": stop_reason(answer.finish, bool(calls)),
        "stop_sequence": None,
        "usage": write_usage(answer.usage),
    }


def read_answer(body: object, turn: int = 0) -> Answer:
    """An answer a server gave.

    Args:
        body: JSON value.
        turn: numbers the calls that come without an id.

    Raises:
        WireError: it is none; names the field.
    """
    fields = Fields(body)
    if fields.value("type") == "error":
        raise WireError("error", fields.child("error").text_or("message", "the server names no reason"))
    message = read_assistant(fields, turn)
    reason = fields.text("stop_reason")
    return Answer(
        message=message,
        finish=read_stop(reason, fields.place("stop_reason")),
        usage=read_usage(fields.child_or("usage")),
        model=fields.text_or("model", ""),
        id=fields.text_or("id", ""),
    )


def thinking_blocks(body: object) -> tuple[Mapping[str, object], ...]:
    """The thinking blocks of an answer, word for word, signatures and redacted ones included."""
    blocks = (block.rest for block in Fields(body).each("content"))
    return tuple(block for block in blocks if block.get("type") in ("thinking", "redacted_thinking"))


def write_usage(usage: Usage) -> dict[str, Any]:
    """Token counts as JSON values; ``input_tokens`` are those no cache was asked for or filled with."""
    return {
        "input_tokens": max(usage.input_tokens - usage.cached_tokens - usage.written_tokens, 0),
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": usage.written_tokens,
        "output_tokens": usage.output_tokens,
    }


def read_usage(fields: Fields | None, before: Usage | None = None) -> Usage:
    """Token counts; what is missing is as it was `before`.

    >>> read_usage(Fields({"input_tokens": 5, "cache_read_input_tokens": 90, "output_tokens": 7})).input_tokens
    95
    """
    old = before or Usage()
    if fields is None:
        return old
    fresh = old.input_tokens - old.cached_tokens - old.written_tokens
    read = fields.count("cache_read_input_tokens") if fields.has("cache_read_input_tokens") else old.cached_tokens
    written = fields.count("cache_creation_input_tokens") if fields.has("cache_creation_input_tokens") else old.written_tokens
    fresh = fields.count("input_tokens") if fields.has("input_tokens") else fresh
    produced = fields.child_or("output_tokens_details")
    return Usage(
        input_tokens=fresh + read + written,
        output_tokens=fields.count("output_tokens") if fields.has("output_tokens") else old.output_tokens,
        cached_tokens=read,
        written_tokens=written,
        thought_tokens=old.thought_tokens if produced is None else produced.count("thinking_tokens"),
    )


def stop_reason(finish: Finish, calls: bool) -> str:
    """Why an answer ended, in this format's words.

    >>> stop_reason(Finish.stop, True), stop_reason(Finish.length, True)
    ('tool_use', 'max_tokens')
    """
    if finish is Finish.length:
        return "max_tokens"
    if finish is Finish.context:
        return "model_context_window_exceeded"
    if finish is Finish.refused:
        return "refusal"
    return "tool_use" if calls else "end_turn"


def read_stop(reason: str, where: str) -> Finish:
    """Why an answer ended, from this format's words."""
    if reason not in _FINISHES:
        raise WireError(where, f"expected one of {', '.join(_FINISHES)}, got {reason!r}")
    return _FINISHES[reason]


# -- writing parts -----------------------------------------------------------------------------------------------------


def _write_messages(
    messages: Sequence[Message], first: int, images: Images, thoughts: bool, sealed: Sealed
) -> Iterator[dict[str, Any]]:
    """Tool results and the user message after them become one user message, as the format wants it."""
    results: list[dict[str, Any]] = []
    for i, message in enumerate(messages, first):
        where = f"messages[{i}]"
        if message.role == "tool":
            results.append(_write_result(message, where, images))
            continue
        blocks = write_blocks(message.content, where, images)
        if message.role == "user" and results:
            yield {"role": "user", "content": [*results, *blocks]}
            results = []
            continue
        if results:
            yield {"role": "user", "content": results}
            results = []
        if message.role == "assistant":
            blocks = [*_write_thought(message, thoughts, sealed), *blocks]
            blocks += [
                {"type": "tool_use", "id": c.id, "name": c.name or "unknown", "input": call_arguments(c)}
                for c in message.tool_calls
            ]
        yield {"role": message.role, "content": blocks or NOTHING}
    if results:
        yield {"role": "user", "content": results}


def _write_thought(message: Message, thoughts: bool, sealed: Sealed) -> list[dict[str, Any]]:
    blocks = sealed(message)
    if blocks is not None:
        return [dict(block) for block in blocks]
    return [{"type": "thinking", "thinking": message.thought, "signature": ""}] if thoughts and message.thought else []


def _write_result(message: Message, where: str, images: Images) -> dict[str, Any]:
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": message.tool_call_id or ""}
    if any(isinstance(part, ImagePart) for part in message.content):
        result["content"] = write_blocks(message.content, where, images)
    elif message.content:
        result["content"] = message.text
    return result


def _write_choice(request: ChatRequest) -> dict[str, Any]:
    if request.tool_name is not None:
        choice: dict[str, Any] = {"type": "tool", "name": request.tool_name}
    else:
        choice = {"type": "any" if request.tool_mode == "required" else request.tool_mode}
    if not request.parallel_calls and request.tool_mode != "none":
        choice["disable_parallel_tool_use"] = True
    return choice


# -- reading parts -----------------------------------------------------------------------------------------------------


def _read_system(fields: Fields) -> tuple[Message, ...]:
    value = fields.value("system")
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (Message(role="system", content=(TextPart(text=value),)),)
    return (Message(role="system", content=read_texts(fields.each("system"))),)


def _read_messages(fields: Fields, images: Images) -> Iterator[Message]:
    names: dict[str, str] = {}
    if not fields.items("messages"):
        raise fields.wrong("messages", "expected at least one message")
    for number, item in enumerate(fields.each("messages")):
        role = item.text("role")
        if role == "assistant":
            message = read_assistant(item, number)
            names |= {call.id: call.name for call in message.tool_calls}
            yield message
        elif role == "user":
            yield from _read_user(item, images, names)
        elif role == "system":
            yield Message(role="system", content=read_texts(blocks_of(item)))
        else:
            raise item.wrong("role", f"expected user, assistant or system, got {role!r}")


def _read_user(fields: Fields, images: Images, names: Mapping[str, str]) -> Iterator[Message]:
    """A user message, with its tool results as messages of their own, in order."""
    parts: list[Part] = []
    for block in blocks_of(fields):
        if block.text("type") != "tool_result":
            parts += read_parts([block], images)
            continue
        if parts:
            yield Message(role="user", content=tuple(parts))
            parts = []
        id = block.text("tool_use_id")
        inner = blocks_of(block) if block.has("content") else []
        yield Message(role="tool", content=read_parts(inner, images), tool_call_id=id, name=names.get(id))
    if parts:
        yield Message(role="user", content=tuple(parts))
    elif not fields.value("content"):
        yield Message(role="user")


def _read_tool(fields: Fields) -> ToolSpec:
    kind = fields.text_or("type", "custom")
    if kind != "custom":
        raise fields.wrong("type", f"expected 'custom', got {kind!r}; tools that run at the server cannot be offered here")
    schema = fields.mapping_or("input_schema", None) or {"type": "object", "properties": {}}
    return ToolSpec(name=fields.text("name"), description=fields.text_or("description", ""), parameters=schema)


def _read_choice(fields: Fields) -> tuple[ToolMode, str | None, bool]:
    choice = fields.child_or("tool_choice")
    if choice is None:
        return "auto", None, True
    kind = choice.text("type")
    if kind not in _MODES:
        raise choice.wrong("type", f"expected one of {', '.join(_MODES)}, got {kind!r}")
    name = choice.text("name") if kind == "tool" else None
    return _MODES[kind], name, not choice.flag_or("disable_parallel_tool_use", False)
