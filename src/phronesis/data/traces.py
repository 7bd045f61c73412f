"""Traces for supervised learning: conversations as ids, with the ids the assistant produced marked."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from phronesis.chat.format import ChatFormat
from phronesis.records import Conversation, Episode


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


def played(episode: Episode) -> list[Trace]:
    """What an episode's policy saw and said: one trace per root-to-leaf path, with the sampled tokens marked.

    A turn that several paths share is marked in the first of them only, so that no token is learned twice. Forced tokens
    are never marked. Paths on which nothing new was sampled are left out.

    One turn that saw (1, 2) and sampled (3, 4), the 4 forced: ids (1, 2, 3, 4), marks on the 3 alone.
    """
    found: list[Trace] = []
    told: set[int] = set()
    for leaf in episode.leaves:
        ids: list[int] = []
        mask: list[bool] = []
        for k in episode.path(leaf):
            turn = episode.turns[k]
            ids += turn.context + turn.completion
            mask += [False] * len(turn.context)
            mask += [False] * len(turn.completion) if k in told else turn.sampled
            told.add(k)
        if any(mask):
            found.append(Trace(ids=tuple(ids), mask=tuple(mask)))
    return found


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(i for i in range(n) if a[i] != b[i])
