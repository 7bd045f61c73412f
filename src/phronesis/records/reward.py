"""Rewards: named numbers with weights. A missing score is None and differs from 0."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class Component(Struct, frozen=True, kw_only=True, gc=False):
    """One named part of a reward."""

    name: str
    """What was judged, e.g. ``success``."""
    score: float | None
    """The judgement, in the component's own unit; None when it could not be scored."""
    weight: float = 1.0
    """Factor in the total."""
    turn: int | None = None
    """Index of the turn that earned it; None means the episode as a whole (credited at the end of every trajectory)."""
    branch: int | None = None
    """Index of the last turn of the branch it judges, where the branches of an episode were judged as attempts of their own;
    None means all of them."""
    audit: bool = False
    """True: recorded for people, never part of the total, never reaches credit."""
    answer: str | None = None
    """What was extracted and judged; None when nothing was."""
    explanation: str | None = None
    """Why this score; None when the number says it all."""


class Reward(Struct, frozen=True, kw_only=True, gc=False):
    """All components of one episode's reward.

    >>> Reward(components=(Component(name="a", score=1.0), Component(name="hack", score=9.0, audit=True))).value
    1.0
    """

    components: tuple[Component, ...] = ()
    """In the order they were judged."""

    @property
    def value(self) -> float | None:
        """Weighted sum of the scored components that are not audit; None when there is none, or one is unscored. Branches that
        were judged apart (`Component.branch`) count with their mean."""
        counted = [c for c in self.components if not c.audit]
        if not counted or any(c.score is None for c in counted):
            return None
        apart = self.branches
        return sum(c.weight * c.score / (len(apart) if c.branch is not None else 1) for c in counted if c.score is not None)

    @property
    def branches(self) -> tuple[int, ...]:
        """Last turns of the branches that were judged apart, in order; () where none was."""
        return tuple(sorted({c.branch for c in self.components if c.branch is not None}))

    def of_branch(self, end: int, line: Sequence[int]) -> float:
        """What one branch of a forked episode earned: what judges it, or its turns, or all branches.

        >>> parts = (Component(name="a", score=1.0, branch=1), Component(name="a", score=0.5, branch=2))
        >>> Reward(components=parts).of_branch(2, (0, 2)), Reward(components=parts).value
        (0.5, 0.75)

        Args:
            end: index of its last turn.
            line: indices of its turns.
        """
        mine = [c for c in self.components if not c.audit and c.score is not None and c.branch in (None, end)]
        return sum(c.weight * (c.score or 0.0) for c in mine if c.turn is None or c.turn in line)

    def by_turn(self, turns: int, ends: Sequence[int] | None = None) -> tuple[float, ...]:
        """Reward earned at each turn `[turns]`; components of the whole episode fall on the ends of its trajectories, and a
        turn that several branches share earns the mean of what they say.

        >>> Reward(components=(Component(name="a", score=1.0, turn=0), Component(name="b", score=2.0))).by_turn(3, (1, 2))
        (1.0, 2.0, 2.0)

        Args:
            turns: how many there are.
            ends: the last turns of the episode's trajectories (`Episode.ends`); None means the last turn alone.
        """
        earned = [0.0] * turns
        sharing: dict[int, set[int]] = {}
        for c in self.components:
            if c.branch is not None and c.turn is not None and not c.audit:
                sharing.setdefault(c.turn, set()).add(c.branch)
        for c in self.components:
            if c.audit or c.score is None or turns == 0:
                continue
            if c.branch is not None:
                k = c.branch if c.turn is None else c.turn
                earned[k] += c.weight * c.score / (1 if c.turn is None else len(sharing[c.turn]))
                continue
            for k in ((turns - 1,) if ends is None else ends) if c.turn is None else (c.turn,):
                earned[k] += c.weight * c.score
        return tuple(earned)

    def component(self, name: str) -> Component | None:
        """The component of that name; None when there is none."""
        return next((c for c in self.components if c.name == name), None)
