"""The Qwen family (ChatML): ``<think>`` blocks, JSON calls in ``<tool_call>``, results as a user turn.

<|im_start|>user
Price of fig?<|im_end|>
<|im_start|>assistant
<think>
look it up
</think>

<tool_call>
{"name": "look_up", "arguments": {"item": "fig"}}
</tool_call><|im_end|>
<|im_start|>user
<tool_response>
5
</tool_response><|im_end|>
<|im_start|>assistant
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from phronesis.chat.family import FamilyFormat, thought_block, unwritable, write_call
from phronesis.chat.format import Parsed
from phronesis.chat.grammar import TagGrammar
from phronesis.chat.template import Template, plain
from phronesis.errors import TemplateError
from phronesis.records import Message, say

_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")


class QwenFormat(FamilyFormat):
    """Format of Qwen2.5, Qwen3 and tokenizers made by ``train_tokenizer(style="qwen")``.

    Qwen3's own template drops thoughts before the last user message: ``until_user`` follows it, ``preserve`` keeps them
    and says so in `notes` and in the log. Templates that open the thought in the prompt (Qwen3-Thinking) are understood;
    there, a message without a thought is rendered with an empty one.
    """

    family: ClassVar[str] = "qwen"

    @staticmethod
    def recognises(template: Template) -> bool:
        """Whether the special tokens are this family's."""
        return template.single("<|im_start|>") is not None and template.single("<|im_end|>") is not None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """``<|im_end|>``, and ``<|endoftext|>`` where there is one."""
        return self._stops

    @property
    def _end_ids(self) -> frozenset[int]:
        return self._ends

    @property
    def _end(self) -> str:
        return "<|im_end|>"

    @property
    def _after(self) -> str:
        return "\n"

    @property
    def _opener(self) -> str:
        return "<|im_start|>assistant\n"

    def _learn(self) -> str:
        template = self.template
        end = template.single("<|im_end|>")
        if end is None or template.single("<|im_start|>") is None:
            raise TemplateError(
                "the tokenizer has no single ids for '<|im_start|>' and '<|im_end|>': it is not of the qwen family"
            )
        self._ends = frozenset((end,))
        text_end = template.single("<|endoftext|>")
        self._stops = (end,) if text_end is None else (end, text_end)
        asked = (say("user", "x"),)
        prompt = template.text(asked).removeprefix(template.text(asked, generation=False))
        forced = prompt.removeprefix(self._opener)
        if not prompt.startswith(self._opener) or forced not in ("", "<think>\n"):
            raise TemplateError(f"the chat template opens an assistant message with {prompt!r}: it is not of the qwen family")
        self._grammar = TagGrammar(template, self._stops, opened=bool(forced))
        return forced

    def _others(self, messages: Sequence[Message]) -> str:
        text, results = "", False
        for message in messages:
            if message.role == "tool":
                text += f"{'' if results else '<|im_start|>user'}\n<tool_response>\n{plain(message)}\n</tool_response>"
                results = True
                continue
            text += f"{self._turn_end if results else ''}<|im_start|>{message.role}\n{plain(message)}{self._turn_end}"
            results = False
        return text + self._turn_end if results else text

    _turn_end = "<|im_end|>\n"

    def _body(self, message: Message) -> str:
        text = plain(message)
        for call in message.tool_calls:
            gap = "\n" if text else ""
            written = f"<tool_call>\n{write_call(call, 'arguments')}\n</tool_call>" if call.error is None else call.raw or ""
            text += gap + written
        return thought_block(message) + text

    def _unfinished(self, completion: Sequence[int]) -> str:
        return "\n</think>\n\n" if self._grammar.thinking(completion) else ""

    def parse(self, completion: Sequence[int], turn: int = 0) -> Parsed:
        """Reads thought, text and calls; malformed calls become `ToolCall`s with an error."""
        return self._grammar.parse(completion, turn)

    def _ambiguity(self, message: Message) -> str | None:
        reason = unwritable(message)
        if reason is not None:
            return reason
        whole = self._body(message)
        if any(token in whole for token in ("<|im_end|>", "<|endoftext|>", "<|im_start|>")):
            return "it holds a control token"
        texts = [
            plain(message),
            message.thought or "",
            *(write_call(c, "arguments") for c in message.tool_calls if c.error is None),
        ]
        for text in texts:
            if "<" in text and (tag := next((t for t in _TAGS if t in text), None)) is not None:
                return f"{tag!r} stands inside its text"
        return None
