"""What a job tells whoever watches: library code yields progress, the command line draws it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Progress(Struct, frozen=True, kw_only=True):
    """One sign of life."""

    phase: str
    """What is being done: ``make``, ``prime``, ``before``, ``train``, ``after``, ``swapped``."""
    done: int
    """Units finished: steps, episodes."""
    total: int
    """Units in all; 0 when not known."""
    values: dict[str, float] = {}
    """Metrics of the unit just finished, by key."""


Listener = Callable[[Progress], None]
"""Called in the job's thread; must return quickly."""


def heard(told: Callable[[str, int, int], None], listener: Listener) -> Listener:
    """A listener that also tells somebody the phase, the finished units and all units."""

    def both(progress: Progress) -> None:
        told(progress.phase, progress.done, progress.total)
        listener(progress)

    return both


def silent(progress: Progress) -> None:
    """A listener that does nothing."""
