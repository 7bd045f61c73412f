"""A tokenizer and its chat template behind a small typed surface: messages to text, text to ids, ids to bytes.

The rule this module keeps: no special token is ever added behind the template's back, nothing is truncated, and
``tools=[]`` never reaches a template (several render it differently from no tools at all).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from phronesis.errors import TemplateError, one_line
from phronesis.records import ImagePart, Message, ToolSpec

_MEMO_TEXT = 512
"""Longest text, in characters, whose ids are remembered."""
_MEMO_SIZE = 20_000
"""Texts remembered before the memory starts over."""


class _Backed(Protocol):
    """The part of a fast tokenizer that transformers leaves untyped."""

    backend_tokenizer: Tokenizer
    chat_template: str | dict[str, str] | None
    bos_token_id: int | None
    eos_token_id: int | None
    eos_token: str | None

    def get_added_vocab(self) -> dict[str, int]: ...
    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None,
        tokenize: bool,
        add_generation_prompt: bool,
        **arguments: object,
    ) -> str: ...


class _TokenBytes(dict[int, bytes]):
    """Bytes each id stands for, worked out on first use; ids outside the vocabulary stand for nothing."""

    def __init__(self, core: Tokenizer, added: Iterable[int]):
        super().__init__()
        self._core = core
        self._added = frozenset(added)
        self._byte_level = "ByteLevel" in repr(core.decoder)

    def __missing__(self, token: int) -> bytes:
        piece = self._core.id_to_token(token) if token >= 0 else None
        if piece is None:
            value = b""
        elif token in self._added:
            value = piece.encode()
        elif self._byte_level:
            value = b"".join(_BYTE_OF.get(c, b"") or c.encode() for c in piece)
        elif len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            value = bytes([int(piece[3:5], 16)])
        else:
            value = piece.replace("\u2581", " ").encode()
        self[token] = value
        return value


def _byte_alphabet() -> dict[str, bytes]:
    """The printable stand-ins byte-level vocabularies use: bytes 33-126, 161-172, 174-255 as they are, the rest from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in set(plain)]
    return {chr(b): bytes([b]) for b in plain} | {chr(256 + i): bytes([b]) for i, b in enumerate(rest)}


_BYTE_OF = _byte_alphabet()


def _cut(core: Tokenizer) -> re.Pattern[str] | None:
    """A pattern at whose hits text may be encoded piece by piece; None when a piece's ids could depend on its neighbours.

    Safe for byte-level vocabularies without a prefix space, when no added token swallows white space around it.
    """
    added = core.get_added_tokens_decoder().values()
    splitter = repr(core.pre_tokenizer)
    alone = all(not (t.normalized or t.lstrip or t.rstrip or t.single_word) for t in added)
    if not added or not alone or "ByteLevel" not in splitter or "add_prefix_space=True" in splitter:
        return None
    longest_first = sorted((t.content for t in added), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


class Template:
    """One tokenizer with its chat template.

    Args:
        tokenizer: a fast tokenizer (one with a ``tokenizer.json``) that has a chat template.

    Raises:
        TemplateError: it is not fast, or it has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise TemplateError(f"{type(tokenizer).__name__} is not a fast tokenizer; save it with a 'tokenizer.json'")
        self._tokenizer = cast(_Backed, tokenizer)
        chosen = self._tokenizer.chat_template
        if isinstance(chosen, dict):
            chosen = chosen.get("default")
        if not chosen:
            raise TemplateError("the tokenizer has no chat template; use an instruction-tuned one or set `chat_template`")
        self.source: str = chosen
        # A copy: padding or truncation that somebody switches on in the shared one must not reach these ids.
        self._core = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
        self._core.no_truncation()
        self._core.no_padding()
        self.added: dict[str, int] = dict(self._tokenizer.get_added_vocab())
        self._bytes = _TokenBytes(self._core, self.added.values())
        self._memo: dict[str, tuple[int, ...]] = {}
        self._cut = _cut(self._core)

    @property
    def bos_id(self) -> int | None:
        """Id of the token that begins a document; None when there is none."""
        return self._tokenizer.bos_token_id

    @property
    def eos_id(self) -> int | None:
        """Id the tokenizer declares as the end of a text; None when there is none."""
        return self._tokenizer.eos_token_id

    @property
    def eos_token(self) -> str | None:
        """Text of `eos_id`."""
        return self._tokenizer.eos_token

    def text(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        generation: bool = True,
        inline_thoughts: bool = False,
        arguments: dict[str, object] | None = None,
    ) -> str:
        """The conversation as the tokenizer's own template writes it.

        Args:
            generation: whether to open the next assistant message.
            inline_thoughts: put thoughts into the content as a think block, for templates that know no other way.
            arguments: further template arguments.

        Raises:
            TemplateError: the template refuses the conversation, or a message holds an image.
        """
        chat = [as_chat(m, inline_thoughts=inline_thoughts) for m in messages]
        return self.apply(chat, [as_tool(t) for t in tools] or None, generation=generation, arguments=arguments)

    def apply(
        self,
        chat: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        *,
        generation: bool = True,
        arguments: dict[str, object] | None = None,
    ) -> str:
        """Renders dictionaries as they are; used by `text` and by the doctor's probes."""
        try:
            return self._tokenizer.apply_chat_template(
                chat, tools=tools, tokenize=False, add_generation_prompt=generation, **(arguments or {})
            )
        except Exception as fault:  # a template is a program of strangers: it may raise anything
            line = getattr(fault, "lineno", None)
            if isinstance(line, int):
                raise TemplateError(f"the chat template is broken at line {line}: {one_line(fault)}") from fault
            roles = ", ".join(m["role"] for m in chat)
            raise TemplateError(f"the chat template refuses messages with the roles {roles}: {one_line(fault)}") from fault

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of `text`, special tokens recognised, none added. Text that spells a control token becomes one, also inside a
        message, exactly as with the tokenizer's own `apply_chat_template`.

        Where the tokenizer allows it the text is cut at added tokens, as the tokenizer itself does first, and the short
        pieces between them are remembered: of a new message only its own text costs anything.
        """
        if self._cut is None:
            return self._encode_piece(text)
        ids: list[int] = []
        for i, piece in enumerate(self._cut.split(text)):
            if i % 2:
                ids.append(self.added[piece])
            elif piece:
                ids += self._encode_piece(piece)
        return tuple(ids)

    def _encode_piece(self, text: str) -> tuple[int, ...]:
        known = self._memo.get(text)
        if known is not None:
            return known
        ids = tuple(self._core.encode_batch_fast([text], add_special_tokens=False)[0].ids)  # without the places in the text
        if len(text) <= _MEMO_TEXT:
            if len(self._memo) >= _MEMO_SIZE:
                self._memo.clear()
            self._memo[text] = ids
        return ids

    def encode_with_specials(self, text: str) -> tuple[int, ...]:
        """Ids of `text` as the tokenizer's plain call would give them, with whatever it adds; the doctor looks at this."""
        return tuple(self._core.encode(text, add_special_tokens=True).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of any ids: bytes that are no UTF-8 become U+FFFD, ids outside the vocabulary vanish."""
        return b"".join(map(self._bytes.__getitem__, ids)).decode("utf-8", "replace")

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """Bytes of every id `[len(ids)]`."""
        return list(map(self._bytes.__getitem__, ids))

    def single(self, token: str) -> int | None:
        """Id of an added token, which is one id wherever it occurs; None when `token` is spelt from several ids."""
        return self.added.get(token)


def as_chat(message: Message, *, inline_thoughts: bool = False) -> dict[str, Any]:
    """A message in the dictionary form chat templates expect. Malformed calls appear as the text that was written."""
    content = plain(message)
    failed = "".join(f"\n{c.raw}" for c in message.tool_calls if c.error is not None and c.raw)
    content = content + failed if content else failed.removeprefix("\n")
    chat: dict[str, Any] = {"role": message.role, "content": content}
    if message.thought is not None:
        if inline_thoughts:
            chat["content"] = f"<think>\n{message.thought}\n</think>\n\n{content}"
        else:
            chat["reasoning_content"] = message.thought
    calls = [c for c in message.tool_calls if c.error is None]
    if calls:
        # Only when there is one: some templates take the mere presence of the key for a call.
        chat["tool_calls"] = [
            {"type": "function", "id": c.id, "function": {"name": c.name, "arguments": c.arguments}} for c in calls
        ]
    if message.tool_call_id is not None:
        chat["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        chat["name"] = message.name
    return chat


def as_tool(tool: ToolSpec) -> dict[str, Any]:
    """A tool in the dictionary form chat templates expect."""
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
    }


def plain(message: Message) -> str:
    """The message's text.

    Raises:
        TemplateError: it holds an image, which these formats cannot write.
    """
    for part in message.content:
        if isinstance(part, ImagePart):
            raise TemplateError(
                f"a {message.role!r} message holds an image ({part.media_type!r}); this format writes text only: leave out "
                "what makes pictures (screen=True), or play with an endpoint whose model can see"
            )
    return message.text
