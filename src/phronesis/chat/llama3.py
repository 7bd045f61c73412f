"""The Llama 3 family: header tokens, calls as bare JSON with ``parameters``, results in the ``ipython`` role.

<|start_header_id|>user<|end_header_id|>

Price of fig?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

{"name": "look_up", "parameters": {"item": "fig"}}<|eot_id|><|start_header_id|>ipython<|end_header_id|>

5<|eot_id|><|start_header_id|>assistant<|end_header_id|>
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import ClassVar, cast

from phronesis.chat import probes
from phronesis.chat.family import FamilyFormat, thought_block, unwritable, write_call
from phronesis.chat.format import Parsed
from phronesis.chat.grammar import Spelling, clean, first_of, read_call
from phronesis.chat.template import Template, plain
from phronesis.errors import TemplateError
from phronesis.records import Message, Span, SpanKind, TextPart, ToolCall, say

_CALL = re.compile(r'^[ \t]*\{\s*"(?:name|type|function)"\s*:', re.MULTILINE)
_PYTHON = "<|python_tag|>"
_CONTROL = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", _PYTHON)
_KEYS = ("parameters", "arguments")
_scan = json.JSONDecoder().raw_decode


class Llama3Format(FamilyFormat):
    """Format of Llama 3.1 to 3.3 and tokenizers made by ``train_tokenizer(style="llama3")``.

    A call begins at a line that starts a JSON object with ``"name"`` (or after ``<|python_tag|>``); several calls are
    separated by ``;``. The family has no think block of its own: a thought is written as ``<think>`` text and read back
    when the completion begins with it. The published Llama 3.1 template writes one call a message and drops the text
    beside it; `notes` say so.
    """

    family: ClassVar[str] = "llama3"

    @staticmethod
    def recognises(template: Template) -> bool:
        """Whether the special tokens are this family's."""
        return all(template.single(t) is not None for t in ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """``<|eot_id|>``, and ``<|eom_id|>`` and ``<|end_of_text|>`` where they exist."""
        return self._stops

    @property
    def _end_ids(self) -> frozenset[int]:
        return self._ends

    @property
    def _end(self) -> str:
        return "<|eot_id|>"

    @property
    def _after(self) -> str:
        return ""

    @property
    def _opener(self) -> str:
        return "<|start_header_id|>assistant<|end_header_id|>\n\n"

    def _learn(self) -> str:
        template = self.template
        if not self.recognises(template):
            raise TemplateError(
                "the tokenizer has no '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>': not of the llama3 family"
            )
        known = {t: i for t in ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>") if (i := template.single(t)) is not None}
        self._stops = tuple(known.values())
        self._ends = frozenset(i for t, i in known.items() if t != "<|end_of_text|>")
        self._trims = "<|end_header_id|>\n\na<|eot_id|>" in template.text((say("user", " a\n"),))
        self._trims_assistant = "\n\na<|eot_id|>" in template.text(
            (say("user", "x"), probes.assistant(" a\n"), say("user", "x"))
        )
        try:
            self._quotes = json.dumps(probes.RESULT) in template.text(probes.CALLING, probes.TOOLS)
        except TemplateError:  # no tools in this template: results never occur
            self._quotes = False
        return ""

    def _others(self, messages: Sequence[Message]) -> str:
        return "".join(map(self._other, messages))

    def _other(self, message: Message) -> str:
        text = plain(message)
        if message.role == "tool":
            text = json.dumps(text, ensure_ascii=False) if self._quotes else text
            role = "ipython"
        else:
            text = text.strip() if self._trims else text
            role = message.role
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"

    def _body(self, message: Message) -> str:
        text = plain(message)
        for i, call in enumerate(message.tool_calls):
            gap = "; " if i else "\n" if text else ""
            text += gap + (write_call(call, _KEYS[0]) if call.error is None else call.raw or "")
        return thought_block(message) + text

    def _blocks(self, messages: Sequence[Message]) -> str:
        if self._trims_assistant:
            messages = [_trimmed(m) if m.role == "assistant" and not m.tool_calls else m for m in messages]
        return super()._blocks(messages)

    def _unfinished(self, completion: Sequence[int]) -> str:
        text = self.template.decode(completion)
        return "\n</think>\n\n" if text.lstrip().startswith("<think>") and "</think>" not in text else ""

    def parse(self, completion: Sequence[int], turn: int = 0) -> Parsed:
        """Reads thought, text and calls; malformed calls become `ToolCall`s with an error."""
        end = first_of(completion, self._stops)
        spelling = Spelling(self.template.pieces(completion[:end]))
        text = spelling.text
        errors: list[str] = []
        thought, start = _thought(text, errors)
        call = _call_start(text, start)
        said = text[start:call]
        if thought is not None:
            said = said[2:] if said.startswith("\n\n") else said.removeprefix("\n")
        if call < len(text):
            said = said.removesuffix("\n")
        calls = _read_calls(text, call, turn)
        errors += [c.error for c in calls if c.error is not None]
        said = clean(said)
        message = Message(
            role="assistant",
            content=(TextPart(text=said),) if said else (),
            thought=None if thought is None else clean(thought),
            tool_calls=calls,
        )
        spans = _spans(spelling, (start, call, len(text)), (end, len(completion)))
        return Parsed(message, spans, "; ".join(dict.fromkeys(errors)) or None)

    def _ambiguity(self, message: Message) -> str | None:
        reason = unwritable(message)
        if reason is not None:
            return reason
        if any(token in self._body(message) for token in _CONTROL):
            return "it holds a control token"
        text = plain(message)
        if message.thought is None and text.lstrip().startswith("<think>"):
            return "its text begins like a thought"
        if message.thought is not None and "</think>" in message.thought:
            return "'</think>' stands inside its thought"
        if _call_start(text, 0) < len(text):
            return "its text holds what reads like a call"
        return None


def _trimmed(message: Message) -> Message:
    text = (thought_block(message) + plain(message)).strip()
    return Message(role="assistant", content=(TextPart(text=text),) if text else ())


def _thought(text: str, errors: list[str]) -> tuple[str | None, int]:
    """The thought at the beginning, and the character after its closing tag."""
    opening = re.match(r"\s*<think>\n?", text)
    if opening is None:
        return None, 0
    closing = text.find("</think>", opening.end())
    if closing < 0:
        errors.append("the thought was never closed")
        return text[opening.end() :].removesuffix("\n"), len(text)
    # An empty block may be written with one line break, which the opening has taken already.
    return text[opening.end() : closing].removesuffix("\n"), closing + len("</think>")


def _call_start(text: str, start: int) -> int:
    """First character of the calls; the length of the text when there are none."""
    tag = text.find(_PYTHON, start)
    hit = _CALL.search(text, start)
    begins = [at for at in (tag, hit.start() if hit is not None else -1) if at >= 0]
    return min(begins, default=len(text))


def _read_calls(text: str, start: int, turn: int) -> tuple[ToolCall, ...]:
    """The calls from `start` on: JSON objects separated by white space and semicolons."""
    calls: list[ToolCall] = []
    rest = text[start:]
    at = len(_PYTHON) if rest.startswith(_PYTHON) else 0
    while (at := at + len(rest[at:]) - len(rest[at:].lstrip(" \t\r\n;"))) < len(rest):
        id = f"call_{turn}_{len(calls)}"
        try:
            _, stop = cast(tuple[object, int], _scan(rest, at))
        except (ValueError, RecursionError):
            stop = len(rest)
        raw = clean(rest[at:stop])
        call = read_call(raw, id, raw, _KEYS)
        calls.append(call)
        at = stop
    return tuple(calls)


def _spans(spelling: Spelling, chars: tuple[int, int, int], tokens: tuple[int, int]) -> tuple[Span, ...]:
    """Thought, text, calls and closing tokens; a token two of them share goes to the first."""
    (said, called, _), (end, total) = chars, tokens
    cuts: list[tuple[SpanKind, int]] = []
    blank = not spelling.text[said:called].strip()
    if said:
        cuts.append(("think", spelling.ends(called if blank else said)))
    if not blank:
        cuts.append(("say", spelling.ends(called)))
    if called < len(spelling.text):
        cuts.append(("act", end))
    if not cuts:
        cuts.append(("say", end))
    cuts[-1] = (cuts[-1][0], end)
    spans: list[Span] = []
    at = 0
    for kind, stop in [*cuts, ("scaffold", total)]:
        if stop > at:
            spans.append(Span(kind=cast(SpanKind, kind), start=at, end=stop))
            at = stop
    return tuple(spans)
