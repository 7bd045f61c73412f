"""What players did in a step, and why they did not do more."""

from __future__ import annotations

from collections import Counter
from typing import Literal

Count = Literal[
    "branches", "leaves", "filled", "declined", "over_budget", "short", "faulted", "cut_off", "env_steps", "replayed",
    "routes", "no_route", "gain",
]  # fmt: skip
"""What is counted; the definitions are those of the metrics ``player/*``."""


class Account:
    """Counts of one step; read and cleared by the loop."""

    def __init__(self) -> None:
        self._counts: Counter[Count] = Counter()

    def add(self, what: Count, n: float = 1) -> None:
        """Counts."""
        self._counts[what] += n  # pyright: ignore[reportArgumentType] - a Counter adds floats as well

    def take(self) -> dict[str, float]:
        """The counts so far under their metric keys, and none of them from here on; empty when nothing was played."""
        found = {f"player/{what}": float(n) for what, n in self._counts.items()}
        self._counts.clear()
        if "player/gain" in found and found.get("player/routes"):
            found["player/gain"] /= found["player/routes"]
        return found
