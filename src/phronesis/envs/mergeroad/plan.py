"""The oracle: tries ways of driving in the simulator and takes the first that merges well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from phronesis.envs.mergeroad.road import Action, Road


class Way(NamedTuple):
    """First one pedal, then none, then the merge."""

    pedal: Action
    first: int
    """Ticks of the pedal."""
    then: int
    """Ticks of keeping the speed."""


FIRST = (40, 30, 50, 20, 60, 70, 10, 80, 0)
THEN = (0, 5, 10, 15, 20, 25, 30, 40, 50)


def ways() -> Iterator[Way]:
    """All ways, those first that work most often: fast cars fit in best."""
    for pedal in ("accelerate", "brake"):
        for first in FIRST if pedal == "accelerate" else (10, 20, 30):
            for then in THEN:
                yield Way(pedal, first, then)


def search(road: Road, limit: int) -> Way | None:
    """A way that ends in the lane before tick `limit`, without a collision; None when none of those tried does."""
    pedals: dict[tuple[Action, int], Road] = {}
    for way in ways():
        if road.tick + way.first + way.then >= limit:
            continue
        reached = pedals.get((way.pedal, way.first))
        if reached is None:
            reached = pedals[way.pedal, way.first] = _driven(road, way.pedal, way.first)
        if reached.off:
            continue
        merged = _driven(reached, "keep", way.then)
        if merged.off:
            continue
        merged.merge()
        if merged.settle():
            return way
    return None


def advise(road: Road, limit: int, longest: int) -> list[tuple[str, int]]:
    """What to do next: actions with ticks, of at most `longest` ticks; ``merge`` has none. Empty when nothing helps.

    The tick that passes before anything is done is taken into account.
    """
    waiting = road.copy()
    waiting.step()
    way = search(waiting, limit)
    if way is None:
        return []
    told: list[tuple[str, int]] = []
    left = longest
    for action, ticks in ((way.pedal, way.first), ("keep", way.then)):
        if ticks > left:
            return [*told, (action, left)] if left else told
        if ticks:
            told.append((action, ticks))
        left -= ticks
    return [*told, ("merge", 0)]


def _driven(road: Road, action: Action, ticks: int) -> Road:
    made = road.copy()
    for _ in range(ticks):
        if made.off:
            break
        made.step(action)
    return made
