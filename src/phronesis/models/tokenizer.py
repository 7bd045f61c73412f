"""Small byte-level BPE tokenizers with a chat template, in the ordinary Hugging Face format.

The rule this module keeps: the same texts give the same ids on every machine, and every string can be encoded and
decoded back, because the base alphabet is all 256 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from phronesis.errors import CheckpointError, ConfigError, TemplateError, one_line
from phronesis.models.files import write_json

Style = Literal["qwen", "llama3"]
"""Which family's special tokens and template a new tokenizer gets."""

QWEN_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Control tokens of the Qwen style; ids 0, 1, 2."""

QWEN_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
"""Tags of the Qwen style: one id each, at the end of the vocabulary, but ordinary text when decoding skips control tokens."""

LLAMA3_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
    "<|finetune_right_pad_id|>",
)
"""Control tokens of the Llama 3 style; ids 0 to 7."""

# Words with the one character before them, single digits, punctuation with its line breaks, runs of white space.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# A tool as one short line of JSON. A property whose schema is only a type is written as that type; an optional one ends
# in "?". Schemas that refer to definitions are written whole.
_TOOL_MACRO = r"""
{%- macro describe(tool) -%}
{%- set f = tool.function if tool.function is defined else tool -%}
{%- set schema = f.parameters | default({}, true) -%}
{{- '{"name": ' + (f.name | tojson) -}}
{%- if f.description -%}{{- ', "description": ' + (f.description | tojson) -}}{%- endif -%}
{{- ', "parameters": ' -}}
{%- if schema['$defs'] is defined -%}
{{- schema | tojson -}}
{%- else -%}
{{- '{' -}}
{%- for name, property in (schema.properties | default({}, true)).items() -%}
{{- ', ' if not loop.first else '' -}}
{{- (name if name in (schema.required | default([], true)) else name + '?') | tojson -}}
{{- ': ' -}}
{{- (property.type if property | length == 1 and property.type is string else property) | tojson -}}
{%- endfor -%}
{{- '}' -}}
{%- endif -%}
{{- '}' -}}
{%- endmacro -%}
"""

# Which past thoughts stay: all (the default, so that a longer conversation always begins with the shorter one), those
# after the last user message, or none.
_THOUGHT_MACRO = r"""
{%- set keep = thoughts | default('preserve') -%}
{%- set ns = namespace(last_user=-1) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set ns.last_user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- macro think(message, index) -%}
{%- if message.reasoning_content is defined and message.reasoning_content is string
    and (keep == 'preserve' or (keep == 'until_user' and index > ns.last_user)) -%}
{{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' -}}
{%- endif -%}
{%- endmacro -%}
"""

QWEN_TEMPLATE = (
    _TOOL_MACRO
    + _THOUGHT_MACRO
    + r"""
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{%- if system or tools -%}
{{- '<|im_start|>system\n' + system -}}
{%- if tools -%}
{{- ('\n\n' if system else '') + '# Tools\n\n<tools>' -}}
{%- for tool in tools -%}{{- '\n' + describe(tool) -}}{%- endfor -%}
{{- '\n</tools>' -}}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user' if loop.first or loop.previtem.role != 'tool' else '' -}}
{{- '\n<tool_response>\n' + message.content + '\n</tool_response>' -}}
{{- '<|im_end|>\n' if loop.last or loop.nextitem.role != 'tool' else '' -}}
{%- elif message.role == 'assistant' -%}
{%- set content = message.content or '' -%}
{{- '<|im_start|>assistant\n' + think(message, loop.index0) + content -}}
{%- for call in message.tool_calls or [] -%}
{%- set f = call.function if call.function is defined else call -%}
{{- '\n' if content or not loop.first else '' -}}
{{- '<tool_call>\n{"name": ' + (f.name | tojson) + ', "arguments": ' -}}
{{- f.arguments if f.arguments is string else f.arguments | tojson -}}
{{- '}\n</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\n' -}}
{%- elif not (loop.first and message.role == 'system') -%}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}
{%- endif -%}
{%- endfor -%}
{{- '<|im_start|>assistant\n' if add_generation_prompt else '' -}}
"""
)
"""Qwen style: ``<think>`` blocks, JSON in ``<tool_call>``, results as a user turn of ``<tool_response>`` blocks.

Template argument `thoughts`: ``preserve`` (default), ``until_user`` or ``strip``.
"""

LLAMA3_TEMPLATE = (
    _TOOL_MACRO
    + _THOUGHT_MACRO
    + r"""
{{- bos_token -}}
{%- set system = messages[0].content if messages[0].role == 'system' else '' -%}
{%- if system or tools -%}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' -}}
{%- if tools -%}
{{- 'Environment: ipython\nFunctions, called with JSON {"name": function name, "parameters": {argument: value}}:\n' -}}
{%- for tool in tools -%}{{- describe(tool) + '\n' -}}{%- endfor -%}
{{- '\n' if system else '' -}}
{%- endif -%}
{{- system + '<|eot_id|>' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + message.content + '<|eot_id|>' -}}
{%- elif message.role == 'assistant' -%}
{%- set content = message.content or '' -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' + think(message, loop.index0) + content -}}
{%- for call in message.tool_calls or [] -%}
{%- set f = call.function if call.function is defined else call -%}
{{- ('\n' if content else '') if loop.first else '; ' -}}
{{- '{"name": ' + (f.name | tojson) + ', "parameters": ' -}}
{{- f.arguments if f.arguments is string else f.arguments | tojson -}}
{{- '}' -}}
{%- endfor -%}
{{- '<|eot_id|>' -}}
{%- elif not (loop.first and message.role == 'system') -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content + '<|eot_id|>' -}}
{%- endif -%}
{%- endfor -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' if add_generation_prompt else '' -}}
"""
)
"""Llama 3 style: JSON calls as the message's text, results in the ``ipython`` role. Template argument `thoughts` as above."""


_SCAFFOLD: dict[Style, str] = {
    "qwen": (
        'system\nuser\nassistant\n# Tools\n\n<tools>\n{"name": "", "description": "", "parameters": {"": "string"}}\n</tools>\n'
        '{"name": "", "arguments": {"": ""}}\n'
    ),
    "llama3": (
        'system\n\nuser\n\nassistant\n\nipython\n\nEnvironment: ipython\nFunctions, called with JSON {"name": function name, '
        '"parameters": {argument: value}}:\n{"name": "", "description": "", "parameters": {"": "string"}}\n\n'
        '{"name": "", "parameters": {"": ""}}'
    ),
}
"""What the templates write around messages: counted once per text, so that it takes few ids."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, style: Style = "qwen") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learnt from `texts`, with the special tokens and chat template of a family.

    Deterministic: merges depend on the texts alone. Digits are always single tokens. Special tokens in the texts are
    skipped, so no merge is wasted on them; the words of the chat template count once per text. Write it with
    `save_pretrained`, read it with `load_tokenizer` or ``AutoTokenizer.from_pretrained``.

    Args:
        texts: what the tokenizer will meet; one pass.
        vocab_size: ids wanted, special tokens and the 256 bytes included; fewer when the texts hold fewer pairs.
        style: ``qwen`` or ``llama3``.

    Raises:
        ConfigError: `vocab_size` does not even hold the bytes and the special tokens.

    >>> t = train_tokenizer(["the cat sat on the mat"] * 2, 280)
    >>> t.decode(t.encode("<think>\\nthe cat 42"))
    '<think>\\nthe cat 42'
    """
    specials, tags = (QWEN_SPECIALS, QWEN_TAGS) if style == "qwen" else (LLAMA3_SPECIALS, ())
    smallest = 256 + len(specials) + len(tags)
    if vocab_size < smallest:
        raise ConfigError(
            f"vocab_size={vocab_size!r} is too small: 256 bytes and the special tokens of {style!r} need {smallest}"
        )
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(tags),
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_pieces(texts, (*specials, *tags), _SCAFFOLD[style]), trainer)
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in tags])  # pyright: ignore[reportUnknownMemberType]
    qwen = style == "qwen"
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        chat_template=(QWEN_TEMPLATE if qwen else LLAMA3_TEMPLATE).strip(),
        eos_token="<|im_end|>" if qwen else "<|eot_id|>",
        pad_token="<|endoftext|>" if qwen else "<|finetune_right_pad_id|>",
        bos_token=None if qwen else "<|begin_of_text|>",
        clean_up_tokenization_spaces=False,
        model_max_length=1 << 20,
    )


def _pieces(texts: Iterable[str], specials: tuple[str, ...], scaffold: str) -> Iterator[str]:
    """The texts without special tokens, which the trainer would otherwise spell out, each beside a `scaffold`."""
    cut = re.compile("|".join(re.escape(s) for s in specials))
    for text in texts:
        yield from (piece for piece in cut.split(text) if piece)
        yield scaffold


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint directory, with its chat template. Never reaches for the network.

    Raises:
        CheckpointError: the directory does not exist, holds no tokenizer files, or they cannot be read.
        TemplateError: the tokenizer has no chat template.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"{str(path)!r} is not a directory; give the folder that `save_pretrained` wrote")
    if not (folder / "tokenizer.json").is_file():
        names = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise CheckpointError(f"no 'tokenizer.json' in {str(path)!r} (it holds {names}); save a fast tokenizer there")
    try:
        loaded: object = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    except Exception as fault:  # the loaders raise anything from KeyError to a bare Exception of the Rust core
        raise CheckpointError(
            f"the tokenizer in {str(path)!r} cannot be read: {type(fault).__name__}: {one_line(fault)}"
        ) from fault
    tokenizer = cast(PreTrainedTokenizerFast, loaded)
    if not tokenizer.chat_template:  # pyright: ignore[reportUnknownMemberType]
        raise TemplateError(
            f"the tokenizer in {str(path)!r} has no chat template; put a 'chat_template.jinja' beside its 'tokenizer.json', "
            "or use the instruction-tuned variant of the model"
        )
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Writes a tokenizer and its chat template in ordinary Hugging Face format."""
    tokenizer.save_pretrained(str(folder))  # pyright: ignore[reportUnknownMemberType]


def save_generation(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Writes ``generation_config.json``, from which transformers and servers know which id ends a message."""
    ids = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }  # pyright: ignore[reportUnknownMemberType]
    write_json(Path(folder) / "generation_config.json", {name: value for name, value in ids.items() if value is not None})


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of ids, special tokens included."""
    return str(tokenizer.decode(list(ids)))  # pyright: ignore[reportUnknownMemberType]
