"""The format of a policy that takes messages as they are: there are no ids to make, and none to read."""

from __future__ import annotations

from collections.abc import Sequence

from phronesis.chat.format import Extension, Parsed
from phronesis.errors import Untrainable
from phronesis.policy import ThoughtBudget
from phronesis.records import Message, ToolSpec


class MessageFormat:
    """Stands where a chat format is asked for and renders nothing.

    >>> MessageFormat().open(()), MessageFormat().stop_ids
    ((), ())
    """

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """None."""
        return ()

    def open(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> tuple[int, ...]:
        """No ids."""
        return ()

    def extend(
        self, history: Sequence[Message], tools: Sequence[ToolSpec], completion: Sequence[int], new: Sequence[Message]
    ) -> Extension:
        """No ids, and never a new beginning: the whole conversation is sent every time."""
        return Extension((), False)

    def parse(self, completion: Sequence[int], turn: int = 0) -> Parsed:
        """Raises Untrainable: there are no ids to read."""
        raise Untrainable(f"a policy that takes messages has no ids, {len(completion)} were to be read")

    def render(self, message: Message) -> tuple[int, ...]:
        """Raises Untrainable: there are no ids to learn from."""
        raise Untrainable("a policy that takes messages has no ids; render the message with a model's own chat format")

    def thought_budget(self, max_tokens: int) -> ThoughtBudget | None:
        """None: how much to think is the endpoint's own setting."""
        return None
