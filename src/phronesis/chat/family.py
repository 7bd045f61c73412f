"""What formats of known families share: they write the conversation themselves, and prove at construction that they
write it as the tokenizer's own template does.

The rule this module keeps: ids that were sampled are followed, never rewritten. Text of past messages is encoded again
only when a new root is opened (`Extension.restart`, or `open` of a conversation that already holds assistant messages).
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import msgspec
from transformers import PreTrainedTokenizerBase

from phronesis.chat import probes
from phronesis.chat.format import Extension, Parsed, Retention
from phronesis.chat.probes import first_difference
from phronesis.chat.retention import KEEPS, retain, rewrites
from phronesis.chat.template import Template, plain
from phronesis.errors import ConfigError, TemplateError
from phronesis.policy import ThoughtBudget
from phronesis.records import Message, ToolCall, ToolSpec, say

_log = logging.getLogger(__name__)
_OPENED = 512
"""Prompts remembered: the episodes of a group open with the same one."""


class _Head(NamedTuple):
    """The beginning of a prompt, ending just before a special token, so that its ids stand alone."""

    text: str
    ids: tuple[int, ...]


_NO_HEAD = _Head("", ())


class FamilyFormat(ABC):
    """A format that knows its family's text.

    Args:
        tokenizer: a fast tokenizer with a chat template of the family.
        retention: which past thoughts stay in the prompt.

    Raises:
        TemplateError: the template writes something else than this family; the message says where.
    """

    family: ClassVar[str]
    """Short name, e.g. ``qwen``."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, retention: Retention = "preserve"):
        if retention not in KEEPS:
            raise ConfigError(f"unknown retention {retention!r}; use one of {', '.join(map(repr, KEEPS))}")
        self.template = Template(tokenizer)
        self.retention: Retention = retention
        self._opened: dict[bytes, tuple[int, ...]] = {}
        self._heads: dict[bytes, _Head | None] = {}
        self._inline = probes.THOUGHT not in self.template.text(probes.THOUGHT_USER[:2], generation=False)
        self.forced = self._learn()
        self.notes: tuple[str, ...] = tuple(self._verify())
        """What a user should know about this template, e.g. that it drops thoughts this format keeps."""
        for note in self.notes:
            _log.warning("%s chat template: %s", self.family, note)

    # What a family defines.

    @property
    @abstractmethod
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an assistant message."""

    @property
    @abstractmethod
    def _end_ids(self) -> frozenset[int]:
        """The stop ids after which the template goes on without another one."""

    @property
    @abstractmethod
    def _end(self) -> str:
        """Text that ends an assistant message."""

    @property
    @abstractmethod
    def _after(self) -> str:
        """Text between the end of an assistant message and the next message. Forgetting it loses a token every turn."""

    @property
    @abstractmethod
    def _opener(self) -> str:
        """Text that begins an assistant message."""

    @abstractmethod
    def _others(self, messages: Sequence[Message]) -> str:
        """Neighbouring messages that are not the assistant's, whole."""

    @abstractmethod
    def _body(self, message: Message) -> str:
        """What the assistant wrote, without the end."""

    @abstractmethod
    def _unfinished(self, completion: Sequence[int]) -> str:
        """Text that closes what a completion without a stop id left open, e.g. a thought."""

    @abstractmethod
    def _learn(self) -> str:
        """Looks at what the template does in its own way; returns what it writes for the assistant to go on from."""

    @abstractmethod
    def parse(self, completion: Sequence[int], turn: int = 0) -> Parsed:
        """Reads a completion; never raises."""

    @abstractmethod
    def _ambiguity(self, message: Message) -> str | None:
        """Why the message would be read back as another one; None when it would not."""

    # What all families do.

    def open(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> tuple[int, ...]:
        """The prompt for a whole conversation: the ids of the tokenizer's own template, except that thoughts are kept
        or dropped as `retention` says.

        Raises:
            TemplateError: the template refuses the conversation.
        """
        key = msgspec.json.encode((messages, tools))
        known = self._opened.get(key)
        if known is None:
            head, rest = self._parts(retain(messages, self.retention), tools)
            if len(self._opened) >= _OPENED:
                self._opened.clear()
            known = self._opened[key] = head.ids + self.template.encode(rest)
        return known

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), retention: Retention | None = None
    ) -> str:
        """The text of `open`'s ids, also under another retention than the format's own."""
        head, rest = self._parts(retain(messages, retention or self.retention), tools)
        return head.text + rest

    def _parts(self, kept: Sequence[Message], tools: Sequence[ToolSpec]) -> tuple[_Head, str]:
        """The text in two: up to the first user message, and from there on."""
        first = next((i for i, m in enumerate(kept) if m.role == "assistant"), len(kept))
        if first == 0:
            return _NO_HEAD, self.template.text(kept, tools, inline_thoughts=self._inline)
        user = next((i for i, m in enumerate(kept) if m.role != "system"), first)
        head = self._head(kept[:user], tools) if user < first and kept[user].role == "user" else None
        if head is not None:
            return head, self._blocks(kept[user:]) + self._opener + self.forced
        opening = self.template.text(kept[:first], tools, generation=False)
        return _NO_HEAD, opening + self._blocks(kept[first:]) + self._opener + self.forced

    def _head(self, system: Sequence[Message], tools: Sequence[ToolSpec]) -> _Head | None:
        """What the template writes before the first user message, remembered since all tasks of an environment share it.

        None when the template writes into that message, as Llama 3.1 does with tools.
        """
        key = msgspec.json.encode((system, tools))
        known = self._heads.get(key, _NO_HEAD)  # looked up once, since `open` is called in two threads
        if known is not _NO_HEAD:
            return known
        asked = say("user", "?")
        text, block = self.template.text([*system, asked], tools, generation=False), self._others([asked])
        before = text.removesuffix(block)
        head = _Head(before, self.template.encode(before)) if text.endswith(block) else None
        if len(self._heads) >= _OPENED:
            self._heads.clear()
        self._heads[key] = head
        return head

    def extend(
        self, history: Sequence[Message], tools: Sequence[ToolSpec], completion: Sequence[int], new: Sequence[Message]
    ) -> Extension:
        """What follows a completion; see `ChatFormat.extend`. `tools` and all of `history` but its end matter only when
        a thought must be dropped, which starts a new root from re-encoded text."""
        if rewrites(history, new, self.retention):
            return Extension(self.open([*history, *new], tools), True)
        closing = ""
        if not completion or completion[-1] not in self._end_ids:
            closing = self._unfinished(completion) + self._end
        text = closing + self._after + self._blocks(new) + self._opener + self.forced
        return Extension(self.template.encode(text), False)

    def render(self, message: Message) -> tuple[int, ...]:
        """The completion with which an assistant says `message`, so that ``parse(render(m)).message == m``.

        Raises:
            TemplateError: the message cannot be said so that it is read back as itself (e.g. a tag inside its text).
        """
        reason = "its role is not 'assistant'" if message.role != "assistant" else self._ambiguity(message)
        if reason is not None:
            raise TemplateError(f"an assistant message cannot be written in the {self.family} format: {reason}")
        body = self._body(message)
        if self.forced:
            body = body.removeprefix(self.forced) if message.thought is not None else self._body_without_thought(body)
        return self.template.encode(body + self._end)

    def _body_without_thought(self, body: str) -> str:
        """A body after a prompt that opened a thought which the message does not have: an empty thought."""
        return "\n</think>\n\n" + body

    def thought_budget(self, max_tokens: int) -> ThoughtBudget | None:
        """A limit on thinking, closed with a line break and the closing tag; None when a tag is more than one id.

        Raises:
            ConfigError: `max_tokens` is negative.
        """
        return budget(self.template, max_tokens)

    def _blocks(self, messages: Sequence[Message]) -> str:
        """Messages of any role, whole, as they stand in the middle of a conversation."""
        text, at = "", 0
        while at < len(messages):
            if messages[at].role == "assistant":
                text += self._opener + self._body(messages[at]) + self._end + self._after
                at += 1
                continue
            end = next((i for i in range(at, len(messages)) if messages[i].role == "assistant"), len(messages))
            text += self._others(messages[at:end])
            at = end
        return text

    # The proof.

    def _verify(self) -> list[str]:
        """Compares with the template; raises where the family is wrong, notes where the template merely does less."""
        for conversation, tools in ((probes.PLAIN, ()), (probes.INSTRUCTED, ()), (probes.SPACED, ())):
            self._demand(conversation, tools)
        notes: list[str] = []
        try:
            self.template.text(probes.CALLING, probes.TOOLS)
        except TemplateError as refusal:
            notes.append(f"it refuses tools ({refusal})")
        else:
            self._demand(probes.CALLING, probes.TOOLS)
            for conversation, what in (
                (probes.PARALLEL, "several calls in one message"),
                (probes.TALKING, "text beside a call"),
            ):
                if (reason := self._deviation(conversation, probes.TOOLS)) is not None:
                    notes.append(f"it does not write {what} as this format does: {reason}")
        native = self._native()
        if KEEPS[native] < KEEPS[self.retention]:
            notes.append(
                f"it keeps past thoughts as {native!r}, this format as {self.retention!r}: prompts will hold thoughts that the "
                f"template itself would drop; choose retention={native!r} to follow the template"
            )
        return notes

    def _deviation(self, conversation: Sequence[Message], tools: Sequence[ToolSpec]) -> str | None:
        """How the template differs from this format on a conversation; None when it does not."""
        try:
            theirs = self.template.text(conversation, tools)
        except TemplateError as refusal:
            return str(refusal)
        difference = first_difference(theirs, self.conversation(conversation, tools))
        return None if difference is None else str(difference)

    def _demand(self, conversation: Sequence[Message], tools: Sequence[ToolSpec]) -> None:
        reason = self._deviation(conversation, tools)
        if reason is not None:
            raise TemplateError(f"the chat template is not of the {self.family} family: {reason}")

    def _native(self) -> Retention:
        """The retention with which this format writes what the template writes.

        Raises:
            TemplateError: there is none: the template writes thoughts in another way.
        """
        trials: list[tuple[tuple[Message, ...], tuple[ToolSpec, ...]]] = [(probes.THOUGHT_USER, ())]
        if all(self._deviation(c, probes.TOOLS) is None for c in (probes.CALLING, probes.TALKING)):
            trials.append((probes.THOUGHT_TOOL, probes.TOOLS))
        theirs = [self.template.text(c, t, inline_thoughts=self._inline) for c, t in trials]
        ours: list[str] = []
        order: tuple[Retention, ...] = ("preserve", "until_user", "strip")
        for retention in order:
            ours = [self.conversation(c, t, retention) for c, t in trials]
            if ours == theirs:
                return retention
        where = next(d for d in map(first_difference, theirs, ours) if d is not None)
        raise TemplateError(f"the chat template writes thoughts in another way than the {self.family} family: {where}")


def budget(template: Template, max_tokens: int) -> ThoughtBudget | None:
    """A limit on a ``<think>`` block whose tags are single ids; None when they are not."""
    if max_tokens < 0:
        raise ConfigError(f"a thought budget of {max_tokens!r} tokens is impossible; give 0 or more")
    opening, closing = template.single("<think>"), template.single("</think>")
    if opening is None or closing is None:
        return None
    return ThoughtBudget(max_tokens=max_tokens, open_id=opening, close_ids=template.encode("\n</think>"))


def write_call(call: ToolCall, key: str) -> str:
    """A call's JSON as chat templates write it.

    >>> write_call(ToolCall(id="", name="add", arguments={"a": 1}), "arguments")
    '{"name": "add", "arguments": {"a": 1}}'
    """
    return f'{{"name": {_dumps(call.name)}, "{key}": {_dumps(call.arguments)}}}'


_dumps = json.JSONEncoder(ensure_ascii=False).encode


def thought_block(message: Message) -> str:
    """The think block with what separates it from the text; empty when the message has no thought."""
    return "" if message.thought is None else f"<think>\n{message.thought}\n</think>\n\n"


def unwritable(message: Message) -> str | None:
    """Why a message cannot be written at all in any family; None when it can."""
    for call in message.tool_calls:
        if call.error is not None and call.raw is None:
            return f"call {call.id!r} is malformed and its text is not known"
        if call.error is None and not call.name:
            return f"call {call.id!r} has no name"
        try:
            json.dumps(call.arguments, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as fault:
            return f"the arguments of call {call.name!r} are not JSON: {fault}"
    plain(message)
    return None
