"""OpenAI chat completions, both sides: requests and whole answers.

The rule this module keeps: reading what it wrote gives back the same messages, tools and calls, but for the thoughts that
were left out on purpose, empty thoughts, and calls the policy got wrong (which a server gives as text, as it was written).

Thoughts travel as ``reasoning_content``; ``reasoning`` is read too. Source: OpenAI API reference, chat completions; the
reasoning fields are those of vLLM, SGLang and DeepSeek.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from msgspec.structs import replace

from phronesis.chat.wire.exchange import (
    NO_IMAGES,
    ChatRequest,
    Images,
    ToolMode,
    call_arguments,
    compact,
    image_base64,
    keep_base64,
    read_arguments,
    said_text,
    sound_calls,
)
from phronesis.chat.wire.fields import Fields, as_text, join, shown
from phronesis.errors import WireError
from phronesis.policy import Answer
from phronesis.records import Finish, ImagePart, Message, Part, Role, TextPart, ToolCall, ToolSpec, Usage

_ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
}  # fmt: skip

_FINISHES = {
    "stop": Finish.stop,
    "tool_calls": Finish.stop,
    "function_call": Finish.stop,
    "length": Finish.length,
    "content_filter": Finish.refused,
    "abort": Finish.cancelled,
}


# -- requests ----------------------------------------------------------------------------------------------------------


def write_request(
    request: ChatRequest, *, images: Images = NO_IMAGES, limit_field: str = "max_tokens", thoughts: bool = True
) -> dict[str, Any]:
    """A request as JSON values. Choices that are None are left out.

    Args:
        request: what to ask.
        images: holds the pictures of the messages.
        limit_field: ``max_tokens``, or ``max_completion_tokens`` as OpenAI's own reasoning models want it.
        thoughts: whether past thoughts are sent.
    """
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [write_message(m, f"messages[{i}]", images, thoughts) for i, m in enumerate(request.messages)],
    }
    if request.tools:
        body["tools"] = [write_tool(tool) for tool in request.tools]
        if request.tool_name is not None:
            body["tool_choice"] = {"type": "function", "function": {"name": request.tool_name}}
        elif request.tool_mode != "auto":
            body["tool_choice"] = request.tool_mode
        if not request.parallel_calls:
            body["parallel_tool_calls"] = False
    chosen = {
        limit_field: request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "n": None if request.n == 1 else request.n,
        "logprobs": request.logprobs or None,
        "reasoning_effort": request.effort,
        "stream": request.stream or None,
        "stream_options": {"include_usage": True} if request.stream and request.stream_usage else None,
    }
    return body | {k: v for k, v in chosen.items() if v is not None} | request.rest


def write_tool(tool: ToolSpec) -> dict[str, Any]:
    """A tool as JSON values."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def write_message(message: Message, where: str = "", images: Images = NO_IMAGES, thoughts: bool = True) -> dict[str, Any]:
    """A message of a conversation as JSON values."""
    said: dict[str, Any] = {"role": message.role}
    if any(isinstance(part, ImagePart) for part in message.content):
        said["content"] = [_write_part(p, f"{where}.content[{i}]", images) for i, p in enumerate(message.content)]
    elif message.content or not message.tool_calls:
        said["content"] = message.text
    else:
        said["content"] = None
    if message.role == "tool":
        said["tool_call_id"] = message.tool_call_id or ""
    elif message.name is not None:
        said["name"] = message.name
    if message.thought and thoughts:
        said["reasoning_content"] = message.thought
    if message.tool_calls:
        said["tool_calls"] = [_write_call(call, call_arguments(call)) for call in message.tool_calls]
    return said


def read_request(body: object, *, images: Images = NO_IMAGES) -> ChatRequest:
    """A request a client sent.

    Raises:
        WireError: it is not one; names the field.
    """
    fields = Fields(body)
    given = fields.items("messages")
    if not given:
        raise fields.wrong("messages", "expected at least one message")
    mode, name = _read_choice(fields)
    limit = fields.whole_or("max_tokens", None)
    newer = fields.whole_or("max_completion_tokens", None)
    stop = fields.value("stop")
    stops = [stop] if isinstance(stop, str) else fields.items_or("stop", list[object]())
    options = fields.child_or("stream_options")
    request = ChatRequest(
        model=fields.text("model"),
        messages=read_messages(given, "messages", images),
        tools=tuple(read_tool(tool) for tool in fields.each("tools")),
        tool_mode=mode,
        tool_name=name,
        parallel_calls=fields.flag_or("parallel_tool_calls", True),
        max_tokens=limit if newer is None else newer,
        temperature=fields.number_or("temperature", None),
        top_p=fields.number_or("top_p", None),
        top_k=fields.whole_or("top_k", None),
        min_p=fields.number_or("min_p", None),
        stop=tuple(as_text(s, f"stop[{i}]") for i, s in enumerate(stops)),
        seed=fields.whole_or("seed", None),
        n=fields.whole_or("n", 1),
        logprobs=fields.flag_or("logprobs", False),
        stream=fields.flag_or("stream", False),
        stream_usage=options is not None and options.flag_or("include_usage", False),
        effort=fields.text_or("reasoning_effort", None),
    )
    for limit_name in ("max_tokens", "max_completion_tokens", "n"):
        value = fields.value(limit_name)
        if isinstance(value, int) and value < 1:
            raise fields.wrong(limit_name, f"expected a number of at least 1, got {value!r}")
    _check_choice(request)
    return replace(request, rest=fields.rest)


def read_tool(fields: Fields) -> ToolSpec:
    """A tool offered by a client."""
    kind = fields.text_or("type", "function")
    if kind != "function":
        raise fields.wrong("type", f"expected 'function', got {kind!r}; only function tools can be called here")
    function = fields.child("function")
    return ToolSpec(
        name=function.text("name"),
        description=function.text_or("description", ""),
        parameters=function.mapping_or("parameters", None) or {"type": "object", "properties": {}},
    )


def read_messages(items: Sequence[object], where: str = "messages", images: Images = NO_IMAGES) -> tuple[Message, ...]:
    """A conversation a client sent. Tool results get the name of the tool whose call they answer."""
    names: dict[str, str] = {}
    found: list[Message] = []
    for i, item in enumerate(items):
        message = _read_message(Fields(item, f"{where}[{i}]"), images, i, names)
        names |= {call.id: call.name for call in message.tool_calls}
        found.append(message)
    return tuple(found)


# -- answers -----------------------------------------------------------------------------------------------------------


def write_answer(answer: Answer, *, created: int) -> dict[str, Any]:
    """An answer as a server gives it.

    Args:
        answer: the answer; its `id` and `model` are given as they are.
        created: seconds since 1970.
    """
    message = answer.message
    calls, text = sound_calls(message), said_text(message)
    said: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    if message.thought:
        said["reasoning_content"] = message.thought
    if calls:
        said["tool_calls"] = [_write_call(call, call.arguments) for call in calls]
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish_reason(answer.finish, bool(calls))}
    return {
        "id": answer.id,
        "object": "chat.completion",
        "created": created,
        "model": answer.model,
        "choices": [choice],
        "usage": write_usage(answer.usage),
    }


def read_answer(body: object, turn: int = 0) -> Answer:
    """An answer a server gave; the first one when there are several.

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
    choices = fields.each("choices")
    if not choices:
        raise fields.wrong("choices", "expected at least one choice")
    choice = choices[0]
    said = choice.child("message")
    refusal = said.text_or("refusal", None)
    text = _read_content(said, NO_IMAGES) or ((TextPart(text=refusal),) if refusal else ())
    thought = said.text_or("reasoning_content", None) or said.text_or("reasoning", None)
    message = Message(role="assistant", content=text, thought=thought or None, tool_calls=_read_calls(said, turn))
    finish = read_finish(choice.text("finish_reason"), choice.place("finish_reason"))
    return Answer(
        message=message,
        finish=Finish.refused if refusal else finish,
        usage=read_usage(fields.child_or("usage")),
        model=fields.text_or("model", ""),
        id=fields.text_or("id", ""),
    )


def write_usage(usage: Usage) -> dict[str, Any]:
    """Token counts as JSON values."""
    counts: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    counts["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.thought_tokens:
        counts["completion_tokens_details"] = {"reasoning_tokens": usage.thought_tokens}
    return counts


def read_usage(fields: Fields | None) -> Usage:
    """Token counts; all 0 where the server gives none."""
    if fields is None:
        return Usage()
    given, produced = fields.child_or("prompt_tokens_details"), fields.child_or("completion_tokens_details")
    return Usage(
        input_tokens=fields.count("prompt_tokens"),
        output_tokens=fields.count("completion_tokens"),
        cached_tokens=0 if given is None else given.count("cached_tokens"),
        written_tokens=0 if given is None else given.count("cache_write_tokens"),
        thought_tokens=0 if produced is None else produced.count("reasoning_tokens"),
    )


def finish_reason(finish: Finish, calls: bool) -> str:
    """Why an answer ended, in this format's words.

    >>> finish_reason(Finish.stop, True), finish_reason(Finish.context, False)
    ('tool_calls', 'length')
    """
    if finish in (Finish.length, Finish.context):
        return "length"
    if finish is Finish.refused:
        return "content_filter"
    return "tool_calls" if calls else "stop"


def read_finish(reason: str, where: str) -> Finish:
    """Why an answer ended, from this format's words."""
    if reason not in _FINISHES:
        raise WireError(where, f"expected one of {', '.join(_FINISHES)}, got {reason!r}")
    return _FINISHES[reason]


# -- parts -------------------------------------------------------------------------------------------------------------


def _write_part(part: Part, where: str, images: Images) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    data = image_base64(part, images, where)
    return {"type": "image_url", "image_url": {"url": f"data:{part.media_type};base64,{data}"}}


def _write_call(call: ToolCall, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name or "unknown", "arguments": compact(arguments)}}


def _read_message(fields: Fields, images: Images, number: int, names: Mapping[str, str]) -> Message:
    role = _ROLES.get(fields.text("role"))
    if role is None:
        raise fields.wrong("role", f"expected one of {', '.join(_ROLES)}, got {shown(fields.value('role'))}")
    answered = fields.text_or("tool_call_id", None)
    if role == "tool" and not answered:
        raise fields.wrong("tool_call_id", "expected the id of the call this message answers, got nothing")
    calls = _read_calls(fields, number) if role == "assistant" else ()
    if role != "assistant" and fields.has("tool_calls"):
        raise fields.wrong("tool_calls", f"only an assistant message calls tools, this one is of role {role!r}")
    content = _read_content(fields, images)
    if not fields.has("content") and role != "assistant":
        raise fields.wrong("content", "expected a text or a list of parts, got nothing")
    thought = fields.text_or("reasoning_content", None) or fields.text_or("reasoning", None)
    return Message(
        role=role,
        content=content,
        thought=thought if role == "assistant" and thought else None,
        tool_calls=calls,
        tool_call_id=answered if role == "tool" else None,
        name=names.get(answered or "", fields.text_or("name", None)) if role == "tool" else fields.text_or("name", None),
    )


def _read_content(fields: Fields, images: Images) -> tuple[Part, ...]:
    value = fields.value("content")
    if value is None:
        return ()
    if isinstance(value, str):
        return (TextPart(text=value),) if value else ()
    if not isinstance(value, list):
        raise fields.wrong("content", f"expected a text or a list of parts, got {shown(value)}")
    parts = (_read_part(item, f"{fields.place('content')}[{i}]", images) for i, item in enumerate(cast(list[object], value)))
    return tuple(part for part in parts if not isinstance(part, TextPart) or part.text)


def _read_part(item: object, where: str, images: Images) -> Part:
    if isinstance(item, str):
        return TextPart(text=item)
    fields = Fields(item, where)
    kind = fields.text("type")
    if kind in ("text", "input_text", "output_text"):
        return TextPart(text=fields.text("text"))
    if kind == "refusal":
        return TextPart(text=fields.text("refusal"))
    if kind == "image_url":
        source = fields.value("image_url")
        url = source if isinstance(source, str) else fields.child("image_url").text("url")
        return read_data_url(url, join(where, "image_url.url"), images)
    raise fields.wrong("type", f"expected 'text' or 'image_url', got {kind!r}; other parts cannot be shown to a policy")


def read_data_url(url: str, where: str, images: Images) -> ImagePart:
    """A picture given as a ``data:`` address. Other addresses are refused: nothing here opens a connection."""
    head, comma, data = url.partition(",")
    if not head.startswith("data:") or not comma or not head.endswith(";base64"):
        raise WireError(where, f"expected 'data:image/...;base64,...', got {shown(url)}; send the picture's bytes")
    return keep_base64(data, head.removeprefix("data:").partition(";")[0], images, where)


def _read_calls(fields: Fields, turn: int) -> tuple[ToolCall, ...]:
    calls: list[ToolCall] = []
    for n, call in enumerate(fields.each("tool_calls")):
        kind = call.text_or("type", "function")
        if kind != "function":
            raise call.wrong("type", f"expected 'function', got {kind!r}")
        function = call.child("function")
        given = function.value("arguments")
        text = compact(cast(object, given)) if isinstance(given, dict) else function.text_or("arguments", "")
        calls.append(read_arguments(text, call.text_or("id", "") or f"call_{turn}_{n}", function.text("name")))
    return tuple(calls)


def _read_choice(fields: Fields) -> tuple[ToolMode, str | None]:
    value = fields.value("tool_choice")
    if value is None or value in ("auto", "none", "required"):
        return value or "auto", None
    if not isinstance(value, dict):
        raise fields.wrong("tool_choice", f"expected auto, none, required or a function, got {shown(value)}")
    choice = fields.child("tool_choice")
    if choice.text("type") != "function":
        raise choice.wrong("type", f"expected 'function', got {shown(choice.value('type'))}")
    return "required", choice.child("function").text("name")


def _check_choice(request: ChatRequest) -> None:
    known = [tool.name for tool in request.tools]
    if request.tool_name is not None and request.tool_name not in known:
        raise WireError("tool_choice", f"names the tool {request.tool_name!r}; the tools are {known}")
    if request.tool_mode == "required" and not known:
        raise WireError("tool_choice", "requires a call, but there are no tools")
