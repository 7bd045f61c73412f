"""What a tree search leaves behind: which child to try next, and which pairs of steps to learn from.

Source: CPL / Step-APO, arXiv 2409.08642; formulas [puct], [step-apo].
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum, sqrt
from typing import NamedTuple

from phronesis.credit.rule import members
from phronesis.credit.trees.tree import Node, overlay
from phronesis.records import EpisodeGroup


def puct(values: Sequence[float], priors: Sequence[float], visits: Sequence[float], c: float = 1.5) -> tuple[float, ...]:
    """``Q + c prior sqrt(N) / (1 + n)`` per child, N the children's visits together.   Formula [puct].

    Value .5, prior .3, 3 of 16 visits, c 1.5: .5 + 1.5 * .3 * 4 / 4 = .95. Before any visit all scores are the values.

    Args:
        values: mean value of each child.
        priors: the policy's probability of each child.
        visits: how often each was tried.
        c: weight of exploring, at least 0.
    """
    root = sqrt(fsum(visits))
    return tuple(q + c * p * root / (1 + n) for q, p, n in zip(values, priors, visits, strict=True))


def best(scores: Sequence[float]) -> int:
    """Index of the largest score; of equals the lowest.

    >>> best([0.5, 1.0, 1.0])
    1
    """
    return max(range(len(scores)), key=lambda i: (scores[i], -i))


def search_value(values: Sequence[float], visits: Sequence[float]) -> float:
    """Value of a node: its children's, weighted by their visits; 0 before any.

    >>> search_value([1.0, 0.0], [3, 1])
    0.75
    """
    total = fsum(visits)
    return fsum(n * q for q, n in zip(values, visits, strict=True)) / total if total else 0.0


class StepPair(NamedTuple):
    """Two turns that answer the same prompt, one leading to more than the other."""

    chosen: tuple[int, int]
    """Episode and turn that did better."""
    rejected: tuple[int, int]
    """Episode and turn that did worse."""
    chosen_value: float
    """Mean reward of the attempts that go through it."""
    rejected_value: float
    """The same of the other."""


def step_pairs(group: EpisodeGroup, *, margin: float = 0.0) -> list[StepPair]:
    """Best against worst child at every place where attempts of a group part.

    Attempts that wrote the same tokens are one node, worth the mean of its children (see `credit.trees.tree`). One pair a
    place; of equals the first. Two attempts (reward 1, 0) that part at their first turn give one pair with values 1 and 0.

    Args:
        group: finished, scored episodes; faults are left out.
        margin: only pairs whose values differ by more than this, at least 0.
    """
    episodes = {e: group.episodes[e] for e in members(group, compared=False).kept}
    root, places = overlay(episodes)
    first: dict[Node, tuple[int, int]] = {}
    for place, node in places.items():
        first.setdefault(node, place)
    found: list[StepPair] = []
    for parent in [root, *first]:
        rivals: dict[tuple[int, ...], list[Node]] = {}
        for (context, _), child in parent.children.items():
            rivals.setdefault(context, []).append(child)
        for children in rivals.values():
            worth = [child.value for child in children]
            up, down = best(worth), best([-v for v in worth])
            if worth[up] - worth[down] > margin:
                found.append(StepPair(first[children[up]], first[children[down]], worth[up], worth[down]))
    return found
