"""What to compare or swap next: binary insertion over what is known, then one swap per value that is out of place.

Binary insertion asks for at most the sum over k of ceil(log2 k) comparisons, e.g. 8 for 5 values where 7 would do; the swaps
are the fewest there can be.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple


class Step(NamedTuple):
    """One call of the machine; places count from 1."""

    kind: Literal["compare", "swap", "done"]
    """Which tool."""
    i: int = 0
    """First place; 0 for done."""
    j: int = 0
    """Second place; 0 for done."""


def next_step(values: Sequence[int], known: Collection[tuple[int, int]]) -> Step:
    """The next call of a planner that knows only what was compared.

    >>> next_step([30, 10, 20], set())
    Step(kind='compare', i=3, j=2)
    >>> next_step([30, 10, 20], {(10, 30), (10, 20), (20, 30)})
    Step(kind='swap', i=1, j=2)

    Args:
        values: what lies at each place. Only comparisons in `known` are read from them.
        known: pairs (smaller, larger) that were compared.
    """
    found = order(values, known)
    if isinstance(found, tuple):
        return Step("compare", *(values.index(v) + 1 for v in found))
    for place, value in enumerate(found):
        if values[place] != value:
            return Step("swap", place + 1, values.index(value) + 1)
    return Step("done")


def order(values: Sequence[int], known: Collection[tuple[int, int]]) -> list[int] | tuple[int, int]:
    """All values in ascending order, or the first pair that must be compared to find it.

    Values are inserted by name, not by place, so that swapping changes nothing of the plan; equal ones count once.
    """
    larger = _closure(known)
    sorted_: list[int] = []
    for value in sorted(dict.fromkeys(values), key=_scramble):
        low, high = 0, len(sorted_)
        while low < high:
            middle = (low + high) // 2
            other = sorted_[middle]
            if other in larger.get(value, ()):
                high = middle
            elif value in larger.get(other, ()):
                low = middle + 1
            else:
                return value, other
        sorted_.insert(low, value)
    return [value for value in sorted_ for _ in range(list(values).count(value))]


def most_steps(count: int) -> int:
    """Most calls the planner makes for so many values, done included.

    >>> most_steps(4)  # 0 + 1 + 2 + 2 comparisons, 3 swaps, done
    9
    """
    return sum((k - 1).bit_length() for k in range(1, count + 1)) + count - 1 + 1


def _scramble(value: int) -> int:
    """An order of insertion that has nothing to do with size (Knuth's multiplicative hash)."""
    return value * 2654435761 % 2**32


def _closure(known: Collection[tuple[int, int]]) -> dict[int, set[int]]:
    """For each value, all those known to be larger, also through others."""
    larger: dict[int, set[int]] = {}
    for small, large in known:
        larger.setdefault(small, set()).add(large)
    changed = True
    while changed:
        changed = False
        for above in larger.values():
            more = set[int]().union(*(larger.get(v, set[int]()) for v in above)) - above
            changed = changed or bool(more)
            above |= more
    return larger
