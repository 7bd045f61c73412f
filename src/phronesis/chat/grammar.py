"""Reading a completion: where thoughts, calls and text lie, as exact token ranges. Nothing here ever raises.

`TagGrammar` reads tags (``<think>``, ``<tool_call>``). Where a tag is one id of its own it is found by id, so text that
merely spells it is text; where the vocabulary spells it with several ids it is found in the text.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple, cast

import msgspec

from phronesis.chat.format import Parsed
from phronesis.chat.template import Template
from phronesis.records import Message, Span, SpanKind, TextPart, ToolCall

_MAX_DEPTH = 64
"""Deepest nesting of call arguments that is accepted."""

Mark = Literal["text", "think_open", "think_close", "call_open", "call_close"]


class Segment(NamedTuple):
    """A tag, or the text between two tags."""

    mark: Mark
    start: int
    """First token."""
    end: int
    """One past the last token."""
    text: str
    """Characters, tags included."""


def read_call(payload: str, id: str, raw: str, keys: tuple[str, ...]) -> ToolCall:
    """A tool call from its JSON text; `error` and `raw` are set when it is none.

    Args:
        payload: the JSON.
        raw: the text as written with its tags, kept when the call is malformed.
        keys: accepted names of the arguments, the family's own first.

    >>> read_call('{"name": "add", "arguments": {"a": 1}}', "call_0_0", "", ("arguments",)).arguments
    {'a': 1}
    >>> read_call('{"arguments": {}}', "call_0_0", "", ("arguments",)).error
    "the call has no 'name'"
    """
    name, error = "", None
    try:
        if _depth(payload) > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} deep")
        call = cast(object, msgspec.json.decode(payload))
    except (msgspec.MsgspecError, ValueError, RecursionError) as fault:
        return ToolCall(id=id, name="", arguments={}, error=f"the call is not valid JSON: {fault}", raw=raw)
    if not isinstance(call, dict):
        error = "the call is not a JSON object"
    else:
        fields = cast(dict[str, object], call)
        given = fields.get("name")
        if isinstance(given, str) and given:
            name = given
        key = next((k for k in keys if k in fields), keys[0])
        if not name:
            error = "the call has no 'name'"
        elif not isinstance(fields.get(key), dict):
            error = f"{key!r} of the call is not a JSON object" if key in fields else f"the call has no {key!r}"
        else:
            return ToolCall(id=id, name=name, arguments=cast(dict[str, object], fields[key]))
    return ToolCall(id=id, name=name, arguments={}, error=error, raw=raw)


def first_of(ids: Sequence[int], wanted: Sequence[int]) -> int:
    """Position of the first of the `wanted` ids; the length when there is none.

    >>> first_of([5, 7, 6, 7], (6, 7)), first_of([5], (6,))
    (1, 1)
    """
    return min((ids.index(t) for t in wanted if t in ids), default=len(ids))


def _depth(payload: str) -> int:
    """Nesting of a JSON text, exact only when it may exceed the limit."""
    if payload.count("{") + payload.count("[") <= _MAX_DEPTH:
        return 0
    depth = deepest = 0
    for c in re.sub(r'"(?:[^"\\]|\\.)*"', "", payload):
        depth += (c in "{[") - (c in "}]")
        deepest = max(deepest, depth)
    return deepest


class Spelling:
    """A completion as text, with the way back from characters to tokens.

    Bytes that are no UTF-8 are kept as lone surrogates, so that every character belongs to a token; `clean` turns them
    into U+FFFD.
    """

    def __init__(self, pieces: Sequence[bytes]):
        whole = b"".join(pieces)
        self.text = whole.decode("utf-8", "surrogateescape")
        self._ends = list(accumulate(map(len, pieces)))
        self._ascii = len(self.text) == len(whole)

    def _byte(self, char: int) -> int:
        return char if self._ascii else len(self.text[:char].encode("utf-8", "surrogateescape"))

    def starts(self, char: int) -> int:
        """Token that holds the character at `char`."""
        return bisect_right(self._ends, self._byte(char))

    def ends(self, char: int) -> int:
        """One past the token that holds the character before `char`."""
        at = self._byte(char)
        return bisect_left(self._ends, at) + 1 if at else 0


def clean(text: str) -> str:
    """Text with the bytes that are no UTF-8 as U+FFFD."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class TagGrammar:
    """Thoughts and calls between tags.

    Args:
        template: the tokenizer.
        stop_ids: the first of these ends the message; it and all after it are scaffold.
        call_tags: tags around a call's JSON; None when the family has no such calls.
        keys: accepted names of a call's arguments.
        opened: whether the prompt has opened the thought already.
    """

    def __init__(
        self,
        template: Template,
        stop_ids: Sequence[int],
        *,
        call_tags: tuple[str, str] | None = ("<tool_call>", "</tool_call>"),
        keys: tuple[str, ...] = ("arguments",),
        opened: bool = False,
    ):
        self._template = template
        self._stops = tuple(stop_ids)
        self._keys = keys
        self._opened = opened
        tags: dict[str, Mark] = {"<think>": "think_open", "</think>": "think_close"}
        if call_tags is not None:
            tags |= {call_tags[0]: "call_open", call_tags[1]: "call_close"}
        self._tags = tags
        ids = {tag: template.single(tag) for tag in tags}
        self._marks: Mapping[int, tuple[Mark, str]] = {i: (tags[t], t) for t, i in ids.items() if i is not None}
        spelt = [t for t, i in ids.items() if i is None]
        self._spelt = re.compile("|".join(map(re.escape, spelt))) if spelt else None
        gap = template.encode("\n\n")
        self._gap = gap[0] if len(gap) == 1 else -1

    def parse(self, completion: Sequence[int], turn: int = 0) -> Parsed:
        """Reads a completion; see `ChatFormat.parse`."""
        end = first_of(completion, self._stops)
        reader = _Reader(turn, self._keys, self._opened)
        for segment in self._segments(completion[:end]):
            reader.take(segment)
        return reader.result(completion, end, self._gap)

    def thinking(self, completion: Sequence[int]) -> bool:
        """Whether the completion breaks off inside a thought."""
        inside = self._opened
        for segment in self._segments(completion):
            if segment.mark == "think_close" or (segment.mark == "think_open" and not inside):
                inside = segment.mark == "think_open"
        return inside

    def _segments(self, ids: Sequence[int]) -> list[Segment]:
        """Tags and the texts between them, in order."""
        if self._spelt is not None:
            return self._segments_of_text(ids)
        marks, decode = self._marks, self._template.decode
        found: list[Segment] = []
        at = 0
        for i, token in enumerate(ids):
            if token in marks:
                if i > at:
                    found.append(Segment("text", at, i, decode(ids[at:i])))
                mark, tag = marks[token]
                found.append(Segment(mark, i, i + 1, tag))
                at = i + 1
        if at < len(ids):
            found.append(Segment("text", at, len(ids), decode(ids[at:])))
        return found

    def _segments_of_text(self, ids: Sequence[int]) -> list[Segment]:
        """The same for vocabularies that spell a tag with several ids. A token shared by two segments goes to the first."""
        pieces = self._template.pieces(ids)
        spelling = Spelling(pieces)
        text = spelling.text
        found: list[Segment] = []
        at = token = 0
        for hit in re.finditer("|".join(map(re.escape, self._tags)), text):
            first = max(token, spelling.starts(hit.start()))
            last = max(first, spelling.ends(hit.end()))
            if hit.start() > at:
                found.append(Segment("text", token, first, clean(text[at : hit.start()])))
            found.append(Segment(self._tags[hit.group()], first, last, hit.group()))
            at, token = hit.end(), last
        if at < len(text) or token < len(ids):
            found.append(Segment("text", token, len(ids), clean(text[at:])))
        return found


class _Block(NamedTuple):
    """A run of tokens of one kind; kind None is white space that belongs to a neighbour."""

    kind: SpanKind | None
    start: int
    end: int


class _Reader:
    """Walks segments once and collects the message and its spans."""

    def __init__(self, turn: int, keys: tuple[str, ...], opened: bool):
        self._turn = turn
        self._keys = keys
        self._mode: Literal["say", "think", "call"] = "think" if opened else "say"
        self._bare = opened  # the tag and its line break stand in the prompt
        self._buffer = ""
        self._from = 0
        self._thoughts: list[str] = []
        self._texts: list[str] = []
        self._calls: list[ToolCall] = []
        self._blocks: list[_Block] = []
        self._errors: list[str] = []
        self._gaps: set[int] = set()

    def take(self, segment: Segment) -> None:
        """Reads the next segment."""
        if self._mode == "think":
            if segment.mark == "think_close":
                self._end_thought(segment.end)
            else:
                self._buffer += segment.text
        elif self._mode == "call":
            if segment.mark == "call_close":
                self._end_call(segment.end, segment.text)
            elif segment.mark == "call_open":
                self._end_call(segment.start, None)
                self._begin("call", segment)
            else:
                self._buffer += segment.text
        elif segment.mark == "think_open":
            self._begin("think", segment)
        elif segment.mark == "call_open":
            self._begin("call", segment)
        else:
            if segment.mark != "text":
                self._errors.append(f"{segment.text!r} closes nothing")
            self._say(segment)

    def _begin(self, mode: Literal["think", "call"], segment: Segment) -> None:
        if mode == "think" and self._thoughts:
            self._errors.append("the message thinks more than once")
        if mode == "call" and self._texts and not self._calls:
            self._texts[-1] = self._texts[-1].removesuffix("\n")
        if mode == "think" and self._texts and not "".join(self._texts).strip():
            self._texts.clear()  # white space before the thought
        self._mode, self._buffer, self._from, self._bare = mode, "", segment.start, False
        if mode == "call":
            self._opener = segment.text

    def _end_thought(self, end: int) -> None:
        text = self._buffer if self._bare else self._buffer.removeprefix("\n")
        self._thoughts.append(text.removesuffix("\n"))
        self._blocks.append(_Block("think", self._from, end))
        self._gaps.add(end)
        self._mode, self._buffer = "say", ""

    def _end_call(self, end: int, closer: str | None) -> None:
        raw = f"{self._opener}{self._buffer}{closer or ''}"
        id = f"call_{self._turn}_{len(self._calls)}"
        if closer is None:
            call = ToolCall(id=id, name="", arguments={}, error="the call was never closed", raw=raw)
        else:
            call = read_call(self._buffer, id, raw, self._keys)
        if call.error is not None:
            self._errors.append(call.error)
        self._calls.append(call)
        self._blocks.append(_Block("act", self._from, end))
        self._mode, self._buffer = "say", ""

    def _say(self, segment: Segment) -> None:
        text = segment.text
        blank = not text.strip()
        if self._blocks and segment.start in self._gaps:
            text = text[2:] if text.startswith("\n\n") else text.removeprefix("\n")
        if not (blank and self._calls):
            self._texts.append(text)
        self._blocks.append(_Block(None if blank else "say", segment.start, segment.end))

    def result(self, completion: Sequence[int], end: int, gap: int) -> Parsed:
        """The message, its spans and what was malformed."""
        if self._mode == "think":
            self._end_thought(end)
            self._errors.append("the thought was never closed")
        elif self._mode == "call":
            self._end_call(end, None)
        text = "".join(self._texts)
        message = Message(
            role="assistant",
            content=(TextPart(text=text),) if text else (),
            thought="\n\n".join(self._thoughts) if self._thoughts else None,
            tool_calls=tuple(self._calls),
        )
        spans = _spans(self._blocks, completion, end, gap)
        return Parsed(message, spans, "; ".join(dict.fromkeys(self._errors)) or None)


def _spans(blocks: Sequence[_Block], completion: Sequence[int], end: int, gap: int) -> tuple[Span, ...]:
    """Blocks as spans that cover the completion: white space joins the block before it, or else the one after."""
    spans: list[Span] = []
    waiting = 0  # first token not yet in a span
    for kind, start, stop in blocks:
        if kind is None:
            if spans:
                spans[-1] = Span(kind=spans[-1].kind, start=spans[-1].start, end=stop)
                waiting = stop
            continue
        if kind == "say" and spans and spans[-1].kind == "think" and start < stop and completion[start] == gap:
            spans[-1] = Span(kind="think", start=spans[-1].start, end=start + 1)
            waiting = start + 1
        if stop > waiting:
            spans.append(Span(kind=kind, start=waiting, end=stop))
            waiting = stop
    if waiting < end:
        spans.append(Span(kind="say", start=waiting, end=end))
    if end < len(completion):
        spans.append(Span(kind="scaffold", start=end, end=len(completion)))
    return tuple(spans)
