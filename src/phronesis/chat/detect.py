"""The format that fits a tokenizer."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from phronesis.chat.format import Retention
from phronesis.chat.generic import GenericFormat
from phronesis.chat.llama3 import Llama3Format
from phronesis.chat.qwen import QwenFormat
from phronesis.chat.template import Template
from phronesis.errors import TemplateError

FAMILIES: tuple[type[QwenFormat] | type[Llama3Format], ...] = (QwenFormat, Llama3Format)
"""Known families, tried in this order."""


def format_for(
    tokenizer: PreTrainedTokenizerBase, retention: Retention = "preserve"
) -> QwenFormat | Llama3Format | GenericFormat:
    """The format for a tokenizer: the family its special tokens name, if its template proves to write that family's
    text; else the generic one, if the template is prefix-stable.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        retention: which past thoughts stay in the prompt.

    Raises:
        TemplateError: no format can use the template token-exactly; says why for each one tried.
    """
    template = Template(tokenizer)
    reasons: list[str] = []
    for family in FAMILIES:
        if not family.recognises(template):
            continue
        try:
            return family(tokenizer, retention)
        except TemplateError as reason:
            reasons.append(f"{family.__name__}: {reason}")
    try:
        return GenericFormat(tokenizer, retention)
    except TemplateError as reason:
        raise TemplateError("; ".join([*reasons, f"GenericFormat: {reason}"]) if reasons else str(reason)) from reason
