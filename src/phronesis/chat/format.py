"""How messages become ids and ids become messages, for one model family. Sampled ids are never re-encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from phronesis.policy import ThoughtBudget
from phronesis.records import Message, Span, ToolSpec

Retention = Literal["preserve", "until_user", "strip"]
"""Which past thoughts stay in the prompt: all; those since the last user message; none."""


class Extension(NamedTuple):
    """What to append after a completion, or what to start over with."""

    ids: tuple[int, ...]
    """Appended to prompt + completion; the whole new prompt when `restart`."""
    restart: bool
    """True when the history was rewritten (a thought was dropped), so that a new branch must begin at a root. Only then is
    the text of past messages, sampled ones included, encoded again; its ids may differ from those sampled."""


class Parsed(NamedTuple):
    """A completion as an assistant message."""

    message: Message
    """Always present: a malformed call is a `ToolCall` with `error`, an unclosed thought is a message with only a thought."""
    spans: tuple[Span, ...]
    """Ranges of the completion, covering it without gaps or overlap."""
    error: str | None
    """What was malformed; None when nothing was."""


class ChatFormat(Protocol):
    """Opens, extends and parses conversations of one model family."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an assistant message."""
        ...

    def open(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> tuple[int, ...]:
        """The prompt for a whole conversation, ready for the assistant to speak. Play calls it for long first prompts in a
        thread, while other episodes use the same format."""
        ...

    def extend(
        self,
        history: Sequence[Message],
        tools: Sequence[ToolSpec],
        completion: Sequence[int],
        new: Sequence[Message],
    ) -> Extension:
        """What follows a completion: whatever closes it (when it did not end with a stop id), the new messages, the
        opening of the next assistant message.

        Args:
            history: every message so far, the last one being `completion` parsed.
            tools: what `open` was given; they matter only on a restart. Other tools need a new `open`.
            completion: the ids really sampled.
            new: messages to add, at least one.
        """
        ...

    def parse(self, completion: Sequence[int], turn: int = 0) -> Parsed:
        """Reads a completion; `turn` numbers the tool calls (``call_{turn}_{n}``)."""
        ...

    def render(self, message: Message) -> tuple[int, ...]:
        """The completion ids an assistant would produce to say `message`, stop id included; for supervised traces."""
        ...

    def thought_budget(self, max_tokens: int) -> ThoughtBudget | None:
        """A limit on thinking; None when the family has no think block."""
        ...
