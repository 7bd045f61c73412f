"""Log-probabilities of given sequences, with the same bits that sampling them would have reported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from phronesis.engine.compute import Compute
from phronesis.engine.fills import Range, passes


@torch.inference_mode()
def score(
    compute: Compute, sequences: Sequence[NDArray[np.int64]], temperature: float, chunk: int, pass_tokens: int
) -> list[tuple[float, ...]]:
    """For each sequence of n ids the n − 1 nats of its ids after the first.

    Args:
        compute: the arithmetic.
        sequences: at least one id each; they are computed together in a cache of their own.
        temperature: at least 0; 0 means 1.
        chunk, pass_tokens: as in `passes`.
    """
    cache = compute.cache()
    cache.reserve(len(sequences), max(len(s) for s in sequences))
    scores: list[list[float]] = [[] for _ in sequences]
    ranges = [Range(i, 0, len(s) - 1) for i, s in enumerate(sequences)]
    for pieces in passes(ranges, sequences, chunk, max(pass_tokens, compute.at_once)):
        targets = np.concatenate([sequences[p.slot][p.start + 1 : p.start + 1 + len(p.ids)] for p in pieces])
        found = compute.score(cache, pieces, targets, temperature).tolist()
        at = 0
        for p in pieces:
            scores[p.slot] += found[at : at + len(p.ids)]
            at += len(p.ids)
    return [tuple(s) for s in scores]
