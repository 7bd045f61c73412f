"""Traces for supervised learning: conversations as ids, with the ids the assistant produced marked."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from phronesis.chat.format import ChatFormat
from phronesis.records import Conversation


class Trace(Struct, frozen=True, kw_only=True):
    """A training sequence."""

    ids: tuple[int, ...]
    """Token ids `[L]`."""
    mask: tuple[bool, ...]
    """`[L]`: True for tokens to learn, where the assistant speaks. Never the first token; nothing predicts it."""


def encode(conversation: Conversation, chat: ChatFormat) -> list[Trace]:
    """The ids an agent would have produced and seen, saying these messages.

    Usually one trace. A format that rewrites history (dropped thoughts) starts a new trace at each rewrite, exactly as a
    session would start a new branch.
    """
    history = list(conversation.opening)
    ids = list(chat.open(history, conversation.tools))
    mask = [False] * len(ids)
    traces: list[Trace] = []
    for said, answered in conversation.exchanges:
        completion = chat.render(said)
        history.append(said)
        ids += completion
        mask += [True] * len(completion)
        if not answered:
            continue
        extension = chat.extend(history, conversation.tools, completion, answered)
        history += answered
        if extension.restart:
            traces.append(Trace(ids=tuple(ids), mask=tuple(mask)))
            ids, mask = [], []
        ids += extension.ids
        mask += [False] * len(extension.ids)
    return [*traces, Trace(ids=tuple(ids), mask=tuple(mask))] if any(mask) else traces


def encode_all(conversations: Sequence[Conversation], chat: ChatFormat) -> list[Trace]:
    """All traces of all conversations, in order."""
    return [trace for conversation in conversations for trace in encode(conversation, chat)]
