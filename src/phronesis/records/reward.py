"""Rewards: named numbers with weights. A missing score is None and differs from 0."""

from __future__ import annotations

from msgspec import Struct


class Component(Struct, frozen=True, kw_only=True):
    """One named part of a reward."""

    name: str
    """What was judged, e.g. ``success``."""
    score: float | None
    """The judgement, in the component's own unit; None when it could not be scored."""
    weight: float = 1.0
    """Factor in the total."""
    turn: int | None = None
    """Index of the turn that earned it; None means the episode as a whole (credited at the last turn)."""
    audit: bool = False
    """True: recorded for people, never part of the total, never reaches credit."""
    answer: str | None = None
    """What was extracted and judged; None when nothing was."""
    explanation: str | None = None
    """Why this score; None when the number says it all."""


class Reward(Struct, frozen=True, kw_only=True):
    """All components of one episode's reward.

    >>> Reward(components=(Component(name="a", score=1.0), Component(name="hack", score=9.0, audit=True))).value
    1.0
    """

    components: tuple[Component, ...] = ()
    """In the order they were judged."""

    @property
    def value(self) -> float | None:
        """Weighted sum of the scored components that are not audit; None when there is none, or one is unscored."""
        counted = [c for c in self.components if not c.audit]
        if not counted or any(c.score is None for c in counted):
            return None
        return sum(c.weight * c.score for c in counted if c.score is not None)

    def by_turn(self, turns: int) -> tuple[float, ...]:
        """Reward earned at each turn `[turns]`; components of the whole episode fall on the last turn.

        >>> Reward(components=(Component(name="a", score=1.0, turn=0), Component(name="b", score=2.0))).by_turn(3)
        (1.0, 0.0, 2.0)
        """
        earned = [0.0] * turns
        for c in self.components:
            if c.audit or c.score is None or turns == 0:
                continue
            earned[turns - 1 if c.turn is None else c.turn] += c.weight * c.score
        return tuple(earned)

    def component(self, name: str) -> Component | None:
        """The component of that name; None when there is none."""
        return next((c for c in self.components if c.name == name), None)
