"""Conversations and answers for the tests of wire formats."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from phronesis.chat.wire.exchange import ChatRequest, ImageShelf
from phronesis.policy import Answer
from phronesis.records import Finish, Message, TextPart, ToolCall, ToolSpec, Usage, say

SHELF = ImageShelf()
PICTURES = (SHELF.keep(b"\x89PNG one", "image/png"), SHELF.keep(b"GIF two", "image/gif"))

texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)
names = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(texts, values, max_size=3)

tools = st.lists(
    st.builds(
        ToolSpec,
        name=names,
        description=texts,
        parameters=st.just({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
    ),
    max_size=3,
    unique_by=lambda tool: tool.name,
)


def parts(pictures: bool = True) -> st.SearchStrategy[tuple[Any, ...]]:
    text = texts.map(lambda t: TextPart(text=t))
    return st.lists(text | st.sampled_from(PICTURES) if pictures else text, max_size=3).map(tuple)


@st.composite
def calls(draw: st.DrawFn, turn: int) -> tuple[ToolCall, ...]:
    n = draw(st.integers(0, 3))
    return tuple(ToolCall(id=f"call_{turn}_{i}", name=draw(names), arguments=draw(arguments)) for i in range(n))


@st.composite
def assistants(draw: st.DrawFn, turn: int = 0) -> Message:
    text = draw(st.none() | texts)
    return Message(
        role="assistant",
        content=() if text is None else (TextPart(text=text),),
        thought=draw(st.none() | texts),
        tool_calls=draw(calls(turn)),
    )


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    found = [say("system", draw(texts))] if draw(st.booleans()) else []
    found.append(say("user", draw(texts)))
    for turn in range(draw(st.integers(0, 3))):
        said = draw(assistants(turn))
        if not said.content and not said.tool_calls:
            said = replace(said, content=(TextPart(text="so"),))
        found.append(said)
        for call in said.tool_calls:
            content = draw(parts())
            found.append(Message(role="tool", content=content, tool_call_id=call.id, name=call.name))
        if not said.tool_calls or draw(st.booleans()):
            found.append(Message(role="user", content=draw(parts()) or (TextPart(text="go on"),)))
    return tuple(found)


@st.composite
def requests(draw: st.DrawFn) -> ChatRequest:
    offered = tuple(draw(tools))
    mode = draw(st.sampled_from(("auto", "none", "required"))) if offered else "auto"
    name = offered[0].name if mode == "required" and draw(st.booleans()) else None
    return ChatRequest(
        model=draw(names),
        messages=draw(conversations()),
        tools=offered,
        tool_mode=mode,
        tool_name=name,
        parallel_calls=draw(st.booleans()) if offered and mode != "none" else True,
        max_tokens=draw(st.integers(1, 10_000)),
        temperature=draw(st.none() | st.floats(0, 2)),
        top_p=draw(st.none() | st.floats(0.1, 1)),
        top_k=draw(st.none() | st.integers(1, 50)),
        stop=tuple(draw(st.lists(texts, max_size=2))),
        stream=draw(st.booleans()),
        effort=draw(st.none() | st.sampled_from(("low", "high"))),
        rest=draw(st.sampled_from(({}, {"metadata": {"user": "7"}}))),
    )


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    read, written, fresh = draw(st.integers(0, 99)), draw(st.integers(0, 9)), draw(st.integers(0, 99))
    return Answer(
        message=draw(assistants(4)),
        finish=draw(st.sampled_from((Finish.stop, Finish.length, Finish.refused))),
        usage=Usage(
            input_tokens=read + written + fresh,
            output_tokens=draw(st.integers(0, 99)),
            cached_tokens=read,
            written_tokens=written,
        ),
        model="m",
        id="answer-1",
    )


def same(message: Message, *, thought: bool = True, name: bool = True) -> Message:
    """A message with neighbouring texts joined, and without what a format has no place for."""
    joined: list[Any] = []
    for part in message.content:
        if isinstance(part, TextPart) and joined and isinstance(joined[-1], TextPart):
            joined[-1] = TextPart(text=joined[-1].text + part.text)
        else:
            joined.append(part)
    kept = replace(message, content=tuple(joined))
    kept = kept if thought else replace(kept, thought=None)
    return kept if name else replace(kept, name=None)
