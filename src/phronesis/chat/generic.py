"""Any tokenizer with a chat template: what follows a completion is worked out by difference.

The template renders a short dummy conversation, once without and once with the new messages; what the second adds after
the end of the dummy assistant message is the extension. That is exact only where a longer conversation begins with the
shorter one, so templates that rewrite their past are refused, with the place where they do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace
from transformers import PreTrainedTokenizerBase

from phronesis.chat import probes
from phronesis.chat.family import budget, unwritable
from phronesis.chat.format import Extension, Parsed, Retention
from phronesis.chat.grammar import TagGrammar
from phronesis.chat.probes import prefix_difference
from phronesis.chat.retention import KEEPS, retain, rewrites
from phronesis.chat.template import Template
from phronesis.errors import ConfigError, TemplateError
from phronesis.policy import ThoughtBudget
from phronesis.records import Message, ToolCall, ToolSpec, say

_log = logging.getLogger(__name__)
_ASK = say("user", "Is 7 odd?")
_MEMO = 4096


class GenericFormat:
    """A format for templates of no known family.

    Calls are read when the template writes them as JSON between ``<tool_call>`` tags; a template that writes them
    otherwise can be used without tools only. Thoughts are ``<think>`` blocks, passed to the template as
    ``reasoning_content`` where it reads that, else inside the content.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        retention: which past thoughts stay; at most what the template itself keeps.

    Raises:
        TemplateError: the template is not prefix-stable, has no single id that ends an assistant message, or drops
            thoughts that `retention` wants kept; the message says where it differs and what to do.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, retention: Retention = "preserve"):
        if retention not in KEEPS:
            raise ConfigError(f"unknown retention {retention!r}; use one of {', '.join(map(repr, KEEPS))}")
        self.template = Template(tokenizer)
        self.retention: Retention = retention
        self._after_new: dict[bytes, tuple[int, ...]] = {}
        self._opened: dict[bytes, tuple[int, ...]] = {}
        self._inline = False
        self._stop = self._find_stop()
        self._check_stability(probes.PLAIN, ())
        self._inline = self._must_inline()
        self.native: Retention = self._find_native()
        """Which past thoughts the template itself keeps."""
        if KEEPS[self.native] < KEEPS[retention]:
            raise TemplateError(
                f"the chat template keeps past thoughts as {self.native!r}, but retention={retention!r} was asked for: "
                f"{self._dropping()}. Choose retention={self.native!r}, or a template that keeps thoughts"
            )
        self._speaks_tools = self._find_tools()
        self._grammar = TagGrammar(self.template, self.stop_ids, opened=self._opens_thought())
        self.notes: tuple[str, ...] = ()
        """What a user should know about this template."""
        if not self._speaks_tools:
            self.notes = ("tool calls are not written as JSON between <tool_call> tags: it can be used without tools only",)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The id the template ends an assistant message with, and the tokenizer's end of text."""
        eos = self.template.eos_id
        return (self._stop,) if eos is None or eos == self._stop else (self._stop, eos)

    def open(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> tuple[int, ...]:
        """The prompt for a whole conversation: the template's own ids, thoughts dropped as `retention` says.

        Raises:
            TemplateError: the template refuses the conversation, or tools are given that it cannot call readably.
        """
        if tools and not self._speaks_tools:
            raise TemplateError(
                "the chat template does not write tool calls as JSON between <tool_call> tags, so calls could not be read; "
                "play without tools or use a tokenizer of the qwen or llama3 family"
            )
        key = msgspec.json.encode((messages, tools))
        known = self._opened.get(key)
        if known is None:
            if len(self._opened) >= _MEMO:
                self._opened.clear()
            known = self._opened[key] = self.template.encode(self._text(retain(messages, self.retention), tools))
        return known

    def extend(
        self, history: Sequence[Message], tools: Sequence[ToolSpec], completion: Sequence[int], new: Sequence[Message]
    ) -> Extension:
        """What follows a completion; see `ChatFormat.extend`."""
        if rewrites(history, new, self.retention):
            return Extension(self.open([*history, *new], tools), True)
        ids = self._continuation(new)
        if not completion or completion[-1] != self._stop:
            unfinished = self.template.encode("\n</think>\n\n") if self._grammar.thinking(completion) else ()
            ids = (*unfinished, self._stop, *ids)
        return Extension(ids, False)

    def parse(self, completion: Sequence[int], turn: int = 0) -> Parsed:
        """Reads thought, text and calls; malformed calls become `ToolCall`s with an error."""
        return self._grammar.parse(completion, turn)

    def render(self, message: Message) -> tuple[int, ...]:
        """The completion with which an assistant says `message`: the template's difference, checked by reading it back.

        Raises:
            TemplateError: the template writes the message so that it is read back as another one.
        """
        reason = "its role is not 'assistant'" if message.role != "assistant" else unwritable(message)
        if reason is not None:
            raise TemplateError(f"an assistant message cannot be written with this template: {reason}")
        written = ""
        # Last in the conversation, and followed by another message: some templates add an empty thought to the last one.
        for after in ((), (_ASK,)):
            ids = self._answer_ids(message, after)
            if _anonymous(self.parse(ids).message) == _anonymous(message):
                return ids
            written = written or self.template.decode(ids)
        raise TemplateError(f"the template writes the message so that it is read back as another one: {written!r}")

    def _answer_ids(self, message: Message, after: Sequence[Message]) -> tuple[int, ...]:
        """What the template writes for `message`, from its generation prompt to the end of the message."""
        prompt = self.template.encode(self._text([_ASK]))
        whole = self.template.encode(self._text([_ASK, message, *after], generation=False))
        if whole[: len(prompt)] != prompt:
            raise TemplateError("the template does not begin an assistant message as its generation prompt does")
        rest = whole[len(prompt) :]
        return rest[: rest.index(self._stop) + 1] if self._stop in rest else rest

    def thought_budget(self, max_tokens: int) -> ThoughtBudget | None:
        """A limit on thinking; None when the think tags are not single ids.

        Raises:
            ConfigError: `max_tokens` is negative.
        """
        return budget(self.template, max_tokens)

    def _text(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, generation: bool = True) -> str:
        return self.template.text(messages, tools, generation=generation, inline_thoughts=self._inline)

    def _continuation(self, new: Sequence[Message]) -> tuple[int, ...]:
        """Ids the template writes after the end of an assistant message that `new` answers."""
        key = msgspec.json.encode(new)
        known = self._after_new.get(key)
        if known is not None:
            return known
        asked = tuple(
            ToolCall(id=m.tool_call_id or "call00000", name=m.name or "tool", arguments={}) for m in new if m.role == "tool"
        )
        dummy = [_ASK, probes.assistant("" if asked else probes.ANSWER, calls=asked)]
        prompt = self.template.encode(self._text(dummy[:1]))
        ends = self.template.encode(self._text(dummy, generation=False)).count(self._stop)
        after = self.template.encode(self._text([*dummy, *new]))
        cut = _nth(after, self._stop, ends) + 1
        if after[: len(prompt)] != prompt or not cut:
            where = prefix_difference(self._text(dummy[:1]), self._text([*dummy, *new]))
            raise TemplateError(f"the chat template is not prefix-stable: new messages change what came before them, {where}")
        if len(self._after_new) >= _MEMO:
            self._after_new.clear()
        known = self._after_new[key] = after[cut:]
        return known

    def _find_stop(self) -> int:
        """The first added token the template writes after an assistant's text."""
        prompt = self.template.text([_ASK])
        whole = self.template.text([_ASK, probes.assistant(probes.ANSWER)], generation=False)
        where = prefix_difference(prompt, whole)
        if where is not None:
            raise TemplateError(
                f"the chat template is not prefix-stable: its generation prompt is not how it begins the answer, {where}"
            )
        _, found, rest = whole[len(prompt) :].partition(probes.ANSWER)
        if not found:
            raise TemplateError(f"the chat template does not write the assistant's text; it writes {whole[len(prompt) :]!r}")
        added = set(self.template.added.values())
        stop = next((t for t in self.template.encode(rest) if t in added), None)
        if stop is None:
            raise TemplateError(
                f"the chat template ends an assistant message with {rest!r}, which holds no special token to stop at; "
                "let the template write the end-of-text token after each answer"
            )
        return stop

    def _must_inline(self) -> bool:
        """Whether thoughts have to be put into the content to be seen at all."""
        return probes.THOUGHT not in self.template.text(
            [_ASK, probes.assistant(probes.ANSWER, probes.THOUGHT)], generation=False
        )

    def _find_native(self) -> Retention:
        """What the template does with a thought that a user message, or a tool result, follows."""
        if probes.THOUGHT in self._text(probes.THOUGHT_USER):
            return "preserve"
        try:
            return "until_user" if probes.THOUGHT in self._text(probes.THOUGHT_TOOL, probes.TOOLS) else "strip"
        except TemplateError:  # no tools: every new message is a user's, and then the two are the same
            return "until_user"

    def _dropping(self) -> str:
        told = self._text(probes.THOUGHT_USER[:2], generation=False)
        return str(prefix_difference(told, self._text(probes.THOUGHT_USER)) or "a thought vanishes when a message follows")

    def _check_stability(self, conversation: Sequence[Message], tools: Sequence[ToolSpec]) -> None:
        """The conversation must begin with every prompt on its way, and go on after each with the answer to it."""
        whole = self._text(conversation, tools)
        for i, message in enumerate(conversation):
            if message.role != "assistant":
                continue
            prompt = self._text(conversation[:i], tools)
            where = prefix_difference(prompt, whole)
            if where is None and not message.tool_calls:
                where = prefix_difference(prompt + message.text, whole)
            if where is not None:
                raise TemplateError(
                    f"the chat template is not prefix-stable: the prompt that message {i} (assistant) answers, or that answer, "
                    f"changes when more messages follow, {where}. Use a template that only appends"
                )

    def _find_tools(self) -> bool:
        """Whether calls are written as JSON between tags, stably."""
        message = replace(probes.CALLING[1], tool_calls=(probes.call("call_0_0"),))
        try:
            self._check_stability(probes.CALLING, probes.TOOLS)
            text = self._text([_ASK, message], probes.TOOLS, generation=False)
            rest = text.removeprefix(self._text([_ASK], probes.TOOLS))
        except TemplateError:
            return False
        read = TagGrammar(self.template, self.stop_ids, opened=self._opens_thought()).parse(self.template.encode(rest))
        return read.message.tool_calls == message.tool_calls

    def _opens_thought(self) -> bool:
        return self.template.text([_ASK]).rstrip().endswith("<think>")


def _nth(ids: Sequence[int], token: int, n: int) -> int:
    """Position of the n-th `token`, counted from 1; -1 when there are fewer."""
    positions = [i for i, t in enumerate(ids) if t == token]
    return positions[n - 1] if 0 < n <= len(positions) else -1


def _anonymous(message: Message) -> Message:
    """The message with its calls' ids left out, and its text in one part."""
    calls = tuple(replace(c, id="") for c in message.tool_calls)
    return replace(probes.assistant(message.text, message.thought), tool_calls=calls)
