"""The agent contract: a deliberation is a plain coroutine over a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from phronesis.records import Message, Reply, Turn


class Budget(Struct, frozen=True, kw_only=True):
    """What is left of an episode's allowance."""

    turns: int
    """Policy calls left."""
    tokens: int | None
    """Sampled tokens left; None means unlimited."""
    seconds: float | None
    """Wall-clock seconds left; None means unlimited."""
    context: int | None
    """Ids that still fit the model's context on this branch; None means unknown."""


class Session(Protocol):
    """The single seam between an agent and the world. It records every turn, enforces every limit and owns token-exactness."""

    @property
    def done(self) -> bool:
        """True when the episode is over; `sample` and `act` must not be called any more."""
        ...

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation on this branch so far."""
        ...

    @property
    def budget(self) -> Budget:
        """What is left."""
        ...

    async def sample(
        self,
        *,
        author: str = "policy",
        max_tokens: int | None = None,
        forced: Sequence[int] = (),
        temperature: float | None = None,
    ) -> Turn:
        """Asks the policy for the next turn on this branch and records it."""
        ...

    async def act(self, turn: Turn) -> Reply:
        """Sends a turn's action to the environment and records the reply."""
        ...

    async def fork(self, at: int | None = None) -> Session:
        """A session that continues from just before turn `at` (None: from here) on a new branch of the same episode."""
        ...


class Agent(Protocol):
    """How to spend policy calls on one episode."""

    async def run(self, session: Session) -> None:
        """Plays until `session.done` or until it has nothing more to do."""
        ...
