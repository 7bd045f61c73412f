"""Cutting prompts into passes of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from phronesis.engine.forward import Piece


class Range(NamedTuple):
    """Positions of one slot that must be computed, half-open."""

    slot: int
    start: int
    end: int


def passes(ranges: Sequence[Range], ids: Sequence[NDArray[np.int64]], chunk: int, limit: int) -> list[list[Piece]]:
    """Pieces of at most `chunk` tokens, grouped into passes of about `limit` tokens.

    A piece comes after the earlier pieces of its slot, in another pass. Ranges without positions vanish.

    Args:
        ranges: at most one per slot.
        ids: the ids of each slot, by slot.
        chunk: most tokens of one slot in one pass, at least 1.
        limit: tokens after which a pass is full, at least 1.

    >>> ids = [np.arange(9), np.arange(9)]
    >>> [[(p.slot, p.start, p.ids) for p in group] for group in passes([Range(0, 1, 6), Range(1, 0, 2)], ids, 3, 100)]
    [[(0, 1, (1, 2, 3)), (1, 0, (0, 1))], [(0, 4, (4, 5))]]
    """
    waves: dict[int, list[Piece]] = {}
    for r in ranges:
        for wave, at in enumerate(range(r.start, r.end, chunk)):
            piece = Piece(r.slot, at, tuple(ids[r.slot][at : min(r.end, at + chunk)].tolist()))
            waves.setdefault(wave, []).append(piece)
    done: list[list[Piece]] = []
    for pieces in waves.values():
        size = limit
        for piece in pieces:
            if size >= limit:
                done.append([])
                size = 0
            done[-1].append(piece)
            size += len(piece.ids)
    return done
