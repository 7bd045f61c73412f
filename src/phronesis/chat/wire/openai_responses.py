"""OpenAI Responses, both sides: requests and whole answers.

A conversation is a list of items here: messages, calls, outputs of calls and reasoning, each by itself. The rule this module
keeps: the items between two inputs that an assistant wrote are one assistant message, and reading what was written gives back
the same conversation, but for calls the policy got wrong (see `openai_chat`) and names of speakers. State kept at the server
(`previous_response_id`) is refused: the whole conversation is sent every time.   Source: OpenAI API reference, responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from phronesis.chat.wire.exchange import (
    NO_IMAGES,
    ChatRequest,
    Images,
    ToolMode,
    call_arguments,
    compact,
    image_base64,
    read_arguments,
    said_text,
    sound_calls,
)
from phronesis.chat.wire.fields import Fields, shown
from phronesis.chat.wire.openai_chat import read_data_url
from phronesis.errors import WireError
from phronesis.policy import Answer
from phronesis.records import Finish, ImagePart, Message, Part, Role, TextPart, ToolSpec, Usage

_ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_REASONS = {"max_output_tokens": Finish.length, "content_filter": Finish.refused}


# -- requests ----------------------------------------------------------------------------------------------------------


def write_request(request: ChatRequest, *, images: Images = NO_IMAGES, thoughts: bool = True) -> dict[str, Any]:
    """A request as JSON values. Choices that are None are left out; `stop`, `seed`, `top_k` and `min_p` have no place here.

    Args:
        request: what to ask.
        images: holds the pictures of the messages.
        thoughts: whether past thoughts are sent, as reasoning items.
    """
    items = [item for i, m in enumerate(request.messages) for item in _write_items(m, f"input[{i}]", images, thoughts)]
    body: dict[str, Any] = {"model": request.model, "input": items, "store": False}
    if request.tools:
        body["tools"] = [write_tool(tool) for tool in request.tools]
        if request.tool_name is not None:
            body["tool_choice"] = {"type": "function", "name": request.tool_name}
        elif request.tool_mode != "auto":
            body["tool_choice"] = request.tool_mode
        if not request.parallel_calls:
            body["parallel_tool_calls"] = False
    chosen = {
        "max_output_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "reasoning": None if request.effort is None else {"effort": request.effort},
        "stream": request.stream or None,
    }
    return body | {k: v for k, v in chosen.items() if v is not None} | request.rest


def write_tool(tool: ToolSpec) -> dict[str, Any]:
    """A tool as JSON values."""
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.parameters}


def read_request(body: object, *, images: Images = NO_IMAGES) -> ChatRequest:
    """A request a client sent.

    Raises:
        WireError: it is not one, or leans on state kept at the server; names the field.
    """
    fields = Fields(body)
    for name in ("previous_response_id", "conversation", "prompt"):
        if fields.has(name):
            raise fields.wrong(name, "nothing is kept between requests here; send the whole conversation as 'input'")
    mode, name = _read_choice(fields)
    tools = tuple(_read_tool(tool) for tool in fields.each("tools"))
    if mode == "required" and (not tools or (name is not None and name not in [t.name for t in tools])):
        raise fields.wrong("tool_choice", f"requires a call of {name or 'a tool'!r}; the tools are {[t.name for t in tools]}")
    limit = fields.whole_or("max_output_tokens", None)
    if limit is not None and limit < 1:
        raise fields.wrong("max_output_tokens", f"expected a number of at least 1, got {limit!r}")
    reasoning = fields.child_or("reasoning")
    fields.value("store")  # nothing is ever stored
    request = ChatRequest(
        model=fields.text("model"),
        messages=_read_input(fields, images),
        tools=tools,
        tool_mode=mode,
        tool_name=name,
        parallel_calls=fields.flag_or("parallel_tool_calls", True),
        max_tokens=limit,
        temperature=fields.number_or("temperature", None),
        top_p=fields.number_or("top_p", None),
        stream=fields.flag_or("stream", False),
        stream_usage=True,
        effort=None if reasoning is None else reasoning.text_or("effort", None),
    )
    return replace(request, rest=fields.rest)


# -- answers -----------------------------------------------------------------------------------------------------------


def write_answer(answer: Answer, *, created: int) -> dict[str, Any]:
    """An answer as a server gives it; `created` in seconds since 1970."""
    return {**head(answer.id, answer.model, created), **ending(answer.finish), "output": output(answer)} | {
        "usage": write_usage(answer.usage)
    }


def head(id: str, model: str, created: int) -> dict[str, Any]:
    """What every response object begins with, before anything is known of the answer."""
    return {
        "id": id, "object": "response", "created_at": created, "status": "in_progress", "error": None,
        "incomplete_details": None, "instructions": None, "metadata": {}, "model": model, "output": [],
        "parallel_tool_calls": True, "temperature": None, "tool_choice": "auto", "tools": [], "top_p": None, "usage": None,
    }  # fmt: skip


def ending(finish: Finish) -> dict[str, Any]:
    """Status of a finished response."""
    if finish in (Finish.length, Finish.context):
        return {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    if finish is Finish.refused:
        return {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}
    return {"status": "completed"}


def output(answer: Answer) -> list[dict[str, Any]]:
    """The items of an answer: its thought, its text, its calls."""
    message, items = answer.message, list[dict[str, Any]]()
    if message.thought:
        items.append(reasoning_item(f"rs_{answer.id}", message.thought))
    text = said_text(message)
    if text:
        items.append(message_item(f"msg_{answer.id}", text))
    return items + [
        call_item(f"fc_{answer.id}_{n}", c.id, c.name, compact(c.arguments)) for n, c in enumerate(sound_calls(message))
    ]


def reasoning_item(id: str, thought: str, status: str = "completed") -> dict[str, Any]:
    """A thought as an item."""
    content = [{"type": "reasoning_text", "text": thought}] if thought else []
    return {"type": "reasoning", "id": id, "summary": [], "content": content, "status": status}


def message_item(id: str, text: str, status: str = "completed") -> dict[str, Any]:
    """A text as an item."""
    content: list[dict[str, Any]] = [{"type": "output_text", "text": text, "annotations": []}] if text else []
    return {"type": "message", "id": id, "role": "assistant", "status": status, "content": content}


def call_item(id: str, call_id: str, name: str, arguments: str, status: str = "completed") -> dict[str, Any]:
    """A call as an item."""
    return {"type": "function_call", "id": id, "call_id": call_id, "name": name, "arguments": arguments, "status": status}


def read_answer(body: object, turn: int = 0) -> Answer:
    """An answer a server gave.

    Args:
        body: JSON value.
        turn: numbers the calls that come without an id.

    Raises:
        WireError: it is none; names the field.
    """
    fields = Fields(body)
    error = fields.child_or("error")
    if error is not None:
        raise WireError("error", error.text_or("message", "the server names no reason"))
    message = Message(role="assistant")
    for item in fields.each("output"):
        message = _grown(message, item, turn)
    return Answer(
        message=message,
        finish=read_ending(fields),
        usage=read_usage(fields.child_or("usage")),
        model=fields.text_or("model", ""),
        id=fields.text_or("id", ""),
    )


def read_ending(fields: Fields) -> Finish:
    """Why a response ended."""
    status = fields.text("status")
    if status == "completed":
        return Finish.stop
    if status == "cancelled":
        return Finish.cancelled
    details = fields.child_or("incomplete_details")
    reason = None if details is None else details.text_or("reason", None)
    if status != "incomplete" or reason not in _REASONS:
        raise fields.wrong(
            "status", f"expected completed, or incomplete for one of {', '.join(_REASONS)}, got {status!r} ({reason})"
        )
    return _REASONS[reason]


def write_usage(usage: Usage) -> dict[str, Any]:
    """Token counts as JSON values."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.written_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thought_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def read_usage(fields: Fields | None) -> Usage:
    """Token counts; all 0 where the server gives none."""
    if fields is None:
        return Usage()
    given, produced = fields.child_or("input_tokens_details"), fields.child_or("output_tokens_details")
    return Usage(
        input_tokens=fields.count("input_tokens"),
        output_tokens=fields.count("output_tokens"),
        cached_tokens=0 if given is None else given.count("cached_tokens"),
        written_tokens=0 if given is None else given.count("cache_write_tokens"),
        thought_tokens=0 if produced is None else produced.count("reasoning_tokens"),
    )


# -- items -------------------------------------------------------------------------------------------------------------


def _write_items(message: Message, where: str, images: Images, thoughts: bool) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        result = {"type": "function_call_output", "call_id": message.tool_call_id or ""}
        plain = all(isinstance(part, TextPart) for part in message.content)
        yield result | {"output": message.text if plain else _write_parts(message.content, where, images, "input_text")}
        return
    if message.role == "assistant":
        if message.thought and thoughts:
            yield {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": message.thought}]}
        if message.content or not message.tool_calls:
            yield {
                "type": "message",
                "role": "assistant",
                "content": _write_parts(message.content, where, images, "output_text"),
            }
        for call in message.tool_calls:
            sent = {"type": "function_call", "call_id": call.id, "name": call.name or "unknown"}
            yield sent | {"arguments": compact(call_arguments(call))}
        return
    yield {"type": "message", "role": message.role, "content": _write_parts(message.content, where, images, "input_text")}


def _write_parts(content: Sequence[Part], where: str, images: Images, kind: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for i, part in enumerate(content):
        if isinstance(part, ImagePart):
            data = image_base64(part, images, f"{where}.content[{i}]")
            parts.append({"type": "input_image", "image_url": f"data:{part.media_type};base64,{data}"})
        else:
            parts.append({"type": kind, "text": part.text})
    return parts


def _read_input(fields: Fields, images: Images) -> tuple[Message, ...]:
    instructions = fields.text_or("instructions", "")
    found = [Message(role="system", content=(TextPart(text=instructions),))] if instructions else list[Message]()
    given = fields.value("input")
    if isinstance(given, str):
        return (*found, Message(role="user", content=(TextPart(text=given),)))
    names: dict[str, str] = {}
    writing: Message | None = None
    for number, item in enumerate(fields.each("input")):
        kind, role = item.text_or("type", "message"), item.text_or("role", "")
        if kind in ("reasoning", "function_call") or (kind == "message" and role == "assistant"):
            begun = writing is not None and (writing.content or writing.tool_calls)
            if writing is not None and begun and kind != "function_call":
                found.append(writing)
                writing = None
            writing = _grown(writing or Message(role="assistant"), item, number)
            names |= {call.id: call.name for call in writing.tool_calls}
            continue
        found += [] if writing is None else [writing]
        writing = None
        found.append(_read_item(item, kind, images, names))
    found += [] if writing is None else [writing]
    if not found:
        raise fields.wrong("input", f"expected a text or a list of items, got {shown(given)}")
    return tuple(found)


def _read_item(item: Fields, kind: str, images: Images, names: Mapping[str, str]) -> Message:
    if kind == "function_call_output":
        id = item.text("call_id")
        return Message(role="tool", content=_read_parts(item, "output", images), tool_call_id=id, name=names.get(id))
    if kind != "message":
        raise item.wrong("type", f"expected a message, a function call, its output or reasoning, got {kind!r}")
    role = _ROLES.get(item.text("role"))
    if role is None:
        raise item.wrong("role", f"expected one of {', '.join(_ROLES)}, got {shown(item.value('role'))}")
    return Message(role=role, content=_read_parts(item, "content", images))


def _grown(message: Message, item: Fields, turn: int) -> Message:
    """An assistant message with one more item of its own."""
    kind = item.text_or("type", "message")
    if kind == "reasoning":
        said = [part.text("text") for part in (*item.each("content"), *item.each("summary"))]
        thought = "\n\n".join(text for text in (message.thought or "", *said) if text)
        return replace(message, thought=thought or None)
    if kind == "function_call":
        id = item.text_or("call_id", "") or f"call_{turn}_{len(message.tool_calls)}"
        call = read_arguments(item.text_or("arguments", ""), id, item.text("name"))
        return replace(message, tool_calls=(*message.tool_calls, call))
    if kind == "message":
        return replace(message, content=(*message.content, *_read_parts(item, "content", NO_IMAGES)))
    raise item.wrong("type", f"expected message, function_call or reasoning, got {kind!r}")


def _read_parts(item: Fields, name: str, images: Images) -> tuple[Part, ...]:
    value = item.value(name)
    if isinstance(value, str):
        return (TextPart(text=value),) if value else ()
    if not isinstance(value, list):
        raise item.wrong(name, f"expected a text or a list of parts, got {shown(value)}")
    parts: list[Part] = []
    for part in item.each(name):
        kind = part.text("type")
        if kind in ("input_text", "output_text", "text"):
            text = part.text("text")
            parts += [TextPart(text=text)] if text else []
        elif kind == "refusal":
            parts.append(TextPart(text=part.text("refusal")))
        elif kind == "input_image":
            parts.append(read_data_url(part.text("image_url"), part.place("image_url"), images))
        else:
            raise part.wrong("type", f"expected a text or an image, got {kind!r}; other parts cannot be shown to a policy")
    return tuple(parts)


def _read_tool(fields: Fields) -> ToolSpec:
    kind = fields.text("type")
    if kind != "function":
        raise fields.wrong("type", f"expected 'function', got {kind!r}; tools that run at the server cannot be offered here")
    schema = fields.mapping_or("parameters", None) or {"type": "object", "properties": {}}
    return ToolSpec(name=fields.text("name"), description=fields.text_or("description", ""), parameters=schema)


def _read_choice(fields: Fields) -> tuple[ToolMode, str | None]:
    value = fields.value("tool_choice")
    if value is None or value in ("auto", "none", "required"):
        return value or "auto", None
    if not isinstance(value, dict):
        raise fields.wrong("tool_choice", f"expected auto, none, required or a function, got {shown(value)}")
    choice = fields.child("tool_choice")
    if choice.text("type") != "function":
        raise choice.wrong("type", f"expected 'function', got {shown(choice.value('type'))}")
    return "required", choice.text("name")
