"""Builds segments so that no shared prompt is computed twice: prompts become a radix tree, trajectories its leaves.

>>> forest = Forest()
>>> anchors = forest.share([(1, 2, 3), (1, 2, 3), (1, 2, 9)], shortest=2)
>>> [(s.parent, s.ids) for s in forest.segments], anchors[(1, 2, 3)], anchors[(1, 2, 9)]
([(None, (1, 2)), (0, (3,))], Anchor(segment=1, rest=()), Anchor(segment=0, rest=(9,)))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from phronesis.data.traces import common_prefix
from phronesis.records import Segment


class Anchor(NamedTuple):
    """Where a prompt ends in the forest."""

    segment: int | None
    """The last shared segment; None when nothing is shared."""
    rest: tuple[int, ...]
    """Ids of the prompt after it; they go in front of the prompt's only user."""


class Forest:
    """Segments under construction, parents before children."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []

    def add(self, segment: Segment) -> int:
        """Appends a segment and returns its index."""
        self.segments.append(segment)
        return len(self.segments) - 1

    def context(self, parent: int | None, ids: Sequence[int], episode: int = -1) -> int:
        """Appends a segment without trained tokens and returns its index."""
        n = len(ids)
        return self.add(
            Segment(
                parent=parent,
                ids=tuple(ids),
                mask=(False,) * n,
                logprobs=(0.0,) * n,
                advantages=(0.0,) * n,
                turns=(-1,) * n,
                episode=episode,
            )
        )

    def share(self, prompts: Iterable[tuple[int, ...]], shortest: int) -> dict[tuple[int, ...], Anchor]:
        """Adds the shared parts of prompts as segments.

        Args:
            prompts: one entry per user; a prompt with several users becomes a segment of its own whatever its length.
            shortest: tokens a common prefix of different prompts must have to be worth a segment, at least 1.

        Returns:
            For every prompt, where its continuation starts.
        """
        users = Counter(prompts)
        ordered = sorted(users)
        anchors: dict[tuple[int, ...], Anchor] = {}
        pending = [(0, len(ordered), 0, None)] if ordered else list[tuple[int, int, int, int | None]]()
        while pending:
            low, high, depth, parent = pending.pop()
            first = ordered[low]
            if high - low == 1:
                rest = first[depth:]
                if rest and users[first] > 1:
                    parent, rest = self.context(parent, rest), ()
                anchors[first] = Anchor(parent, rest)
                continue
            common = common_prefix(first, ordered[high - 1])
            if common - depth >= shortest:
                parent, depth = self.context(parent, first[depth:common]), common
            pending += [(a, b, depth, parent) for a, b in reversed(_branches(ordered, low, high, common))]
        return anchors


def _branches(ordered: list[tuple[int, ...]], low: int, high: int, at: int) -> list[tuple[int, int]]:
    """Ranges of sorted prompts with the same id at position `at`; a prompt that ends there is a range of its own."""
    ranges: list[tuple[int, int]] = []
    start = low
    for i in range(low + 1, high + 1):
        if i == high or ordered[i][at : at + 1] != ordered[start][at : at + 1]:
            ranges.append((start, i))
            start = i
    return ranges
