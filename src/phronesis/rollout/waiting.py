"""What every episode awaits, and for how long."""

from __future__ import annotations

import time
from typing import ClassVar


class Waiting(dict[str, str]):
    """Episode id -> what it awaits right now, e.g. ``env.step``. Counts what was ever awaited, so that moving on is seen."""

    calls: ClassVar[int] = 0
    """Calls awaited since the process began, by all episodes of all stages."""

    def __init__(self) -> None:
        """Nothing is awaited."""
        super().__init__()
        self._since: dict[str, float] = {}

    def __setitem__(self, episode: str, what: str) -> None:
        super().__setitem__(episode, what)
        self._since[episode] = time.monotonic()
        Waiting.calls += 1

    def pop(self, episode: str, default: str | None = None) -> str | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Nothing is awaited by that episode any more."""
        self._since.pop(episode, None)
        return super().pop(episode, default)

    def longest(self) -> tuple[str, float] | None:
        """The episode whose call lasts longest, and its seconds; None when nothing is awaited."""
        held = [(since, episode) for episode, since in self._since.items()]
        if not held:
            return None
        since, episode = min(held)
        return episode, time.monotonic() - since
