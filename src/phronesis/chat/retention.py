"""Which past thoughts stay in the prompt, and when that rewrites what the model has already seen."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from phronesis.chat.format import Retention
from phronesis.records import Message

KEEPS: dict[Retention, int] = {"strip": 0, "until_user": 1, "preserve": 2}
"""How much each retention keeps, for comparison."""


def retain(messages: Sequence[Message], retention: Retention) -> list[Message]:
    """The conversation with the thoughts dropped that `retention` does not keep.

    Example: user, assistant (thought a), user, assistant (thought b), tool keeps a and b under ``preserve``, b under
    ``until_user``, none under ``strip``. A tool result is not a user message.
    """
    if retention == "preserve":
        return list(messages)
    start = len(messages)
    if retention == "until_user":
        start = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
    return [replace(m, thought=None) if m.thought is not None and i < start else m for i, m in enumerate(messages)]


def rewrites(history: Sequence[Message], new: Sequence[Message], retention: Retention) -> bool:
    """Whether adding `new` drops a thought that is still in the ids seen so far, so that a new root is needed.

    Under ``until_user`` thoughts before the last user message of `history` are gone already and do not count.
    """
    if retention == "preserve":
        return False
    if retention == "strip":
        return history[-1].thought is not None
    if all(m.role != "user" for m in new):
        return False
    for message in reversed(history):
        if message.role == "user":
            return False
        if message.thought is not None:
            return True
    return False
