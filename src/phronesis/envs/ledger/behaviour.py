"""How an imperfect book-keeper works: the behaviour that supervised priming shows to a new policy.

The point is not right answers but *moves*: retrying a busy ledger, following a redirect, going on after a miss, keeping a
running total in the think block, checking an entry twice. Each move is made only sometimes, and slips happen, so that the
primed policy knows every move, starts well below its ceiling, and has something to learn from reward.
Source: behaviour priming, arXiv 2510.06534.
"""

from __future__ import annotations

import random
import re

from msgspec import Struct

from phronesis.records import Message, TextPart, ToolCall


class Habits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often the book-keeper does what; all in [0, 1]."""

    retry: float = 0.6
    """Asks again after "busy" (else counts the account as 0)."""
    follow: float = 0.6
    """Follows a redirect (else counts the account as 0)."""
    slip: float = 0.1
    """Writes a total that is off by one after adding."""
    forget: float = 0.15
    """Answers before the last account was asked."""
    check: float = 0.1
    """Looks up one account again before answering, and leaves the total as it is."""


PERFECT = Habits(retry=1.0, follow=1.0, slip=0.0, forget=0.0, check=0.0)
"""Never wrong: the oracle."""


class Bookkeeper:
    """One scripted episode: give it each reply, get the next assistant message."""

    def __init__(self, asked: tuple[str, ...], habits: Habits, source: random.Random) -> None:
        self._habits, self._source = habits, source
        self._todo = list(asked[:-1] if len(asked) > 1 and source.random() < habits.forget else asked)
        self._asked = asked
        self._total = 0
        self._current: str | None = None
        self._checking = False
        self._calls = 0

    def start(self) -> Message:
        """The first message."""
        return self._call(self._todo.pop(0))

    def next(self, reply: str) -> Message:
        """The message that follows a look-up's answer."""
        if self._checking:
            return self._answer()
        target = self._read(reply)
        if target is not None:
            return self._call(target)
        if self._todo:
            return self._call(self._todo.pop(0))
        if self._source.random() < self._habits.check:
            self._checking = True
            return self._call(self._source.choice(self._asked))
        return self._answer()

    def _read(self, reply: str) -> str | None:
        """Adds what the reply says; the name to ask next about the same account, if any."""
        if "busy" in reply:
            return self._current if self._source.random() < self._habits.retry else None
        if moved := re.search(r'renamed to "(\w+)"', reply):
            return moved.group(1) if self._source.random() < self._habits.follow else None
        if amount := re.search(r"amount (\d+)", reply):
            self._total += int(amount.group(1))
            if self._source.random() < self._habits.slip:
                self._total = max(0, self._total + self._source.choice((-1, 1)))
        return None

    def _call(self, name: str) -> Message:
        self._current = name
        self._calls += 1
        call = ToolCall(id=f"call_{self._calls - 1}_0", name="lookup", arguments={"name": name})
        return Message(role="assistant", thought=self._thought(), tool_calls=(call,))

    def _answer(self) -> Message:
        return Message(role="assistant", thought=self._thought(), content=(TextPart(text=str(self._total)),))

    def _thought(self) -> str:
        return f"total {self._total}"
