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

from phronesis.envs.ledger.tasks import MODULUS, post
from phronesis.records import Message, TextPart, ToolCall

ENTRIES = ("balance", "add", "double")
"""How an answer begins that holds something to post."""


class Habits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often the book-keeper does what; all in [0, 1]."""

    retry: float = 0.6
    """Asks again after "busy" (else leaves the account out)."""
    follow: float = 0.6
    """Follows a redirect (else leaves the account out)."""
    slip: float = 0.02
    """Writes a total that is off by one after posting."""
    forget: float = 0.2
    """Leaves one account out of its list."""
    check: float = 0.05
    """Looks up one account again before answering, and leaves the total as it is."""


PERFECT = Habits(retry=1.0, follow=1.0, slip=0.0, forget=0.0, check=0.0)
"""Never wrong: the oracle."""


class Bookkeeper:
    """One scripted episode: give it each reply, get the next assistant message.

    The think block is its working memory: the total so far and the accounts left, the current one first, e.g.
    ``total 5, left "jade" "onyx"``.
    """

    def __init__(self, asked: tuple[str, ...], habits: Habits, source: random.Random) -> None:
        self._habits, self._source = habits, source
        self._left = list(asked)
        if len(asked) > 1 and source.random() < habits.forget:
            self._left.pop(source.randrange(len(asked)))
        self._asked = asked
        self._total = 0
        self._checking = False
        self._calls = 0

    def start(self) -> Message:
        """The first message."""
        return self._speak()

    def next(self, reply: str) -> Message:
        """The message that follows a look-up's answer."""
        if self._checking:
            self._left.clear()
        else:
            self._read(reply)
            if not self._left and self._source.random() < self._habits.check:
                self._checking = True
                self._left.append(self._source.choice(self._asked))
        return self._speak()

    def _read(self, reply: str) -> None:
        """Updates the total and what is left from what the ledger said."""
        if "busy" in reply and self._source.random() < self._habits.retry:
            return
        if (moved := re.search(r'renamed to "(\w+)"', reply)) and self._source.random() < self._habits.follow:
            self._left[0] = moved.group(1)
            return
        self._left.pop(0)
        self._total = post(self._total, reply)
        if reply.startswith(ENTRIES) and self._source.random() < self._habits.slip:
            self._total = (self._total + self._source.choice((-1, 1))) % MODULUS

    def _speak(self) -> Message:
        left = " ".join(f'"{name}"' for name in self._left)
        thought = f"total {self._total}, left {left}" if left else f"total {self._total}"
        if not left:
            return Message(role="assistant", thought=thought, content=(TextPart(text=str(self._total)),))
        self._calls += 1
        call = ToolCall(id=f"call_{self._calls - 1}_0", name="lookup", arguments={"name": self._left[0]})
        return Message(role="assistant", thought=thought, tool_calls=(call,))
