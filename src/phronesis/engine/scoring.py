"""Log-probabilities of given sequences, with the same bits that sampling them would have reported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from phronesis.engine.cache import KVCache
from phronesis.engine.fills import Range, passes
from phronesis.engine.forward import MIN_ROWS, Forward

LOGIT_ROWS = 256
"""Rows of logits held at once."""


@torch.inference_mode()
def score(
    forward: Forward, sequences: Sequence[NDArray[np.int64]], temperature: float, chunk: int, pass_tokens: int
) -> list[tuple[float, ...]]:
    """For each sequence of n ids the n − 1 nats of its ids after the first.

    Args:
        forward: the decoder's arithmetic.
        sequences: at least one id each; they are computed together in a cache of their own.
        temperature: at least 0; 0 means 1.
        chunk, pass_tokens: as in `passes`.
    """
    decoder = forward.decoder
    cache = KVCache(decoder.config, decoder.dtype, decoder.device)
    cache.reserve(len(sequences), max(len(s) for s in sequences))
    scores: list[list[float]] = [[] for _ in sequences]
    for pieces in passes([Range(i, 0, len(s) - 1) for i, s in enumerate(sequences)], sequences, chunk, pass_tokens):
        hidden = forward.prefill(cache, pieces)
        targets = np.concatenate([sequences[p.slot][p.start + 1 : p.start + 1 + len(p.ids)] for p in pieces])
        found: list[float] = []
        for at in range(0, len(targets), LOGIT_ROWS):
            part = hidden[at : at + LOGIT_ROWS]
            rows = part.shape[0]
            if rows < MIN_ROWS:
                part = torch.cat([part, part.new_zeros(MIN_ROWS - rows, part.shape[1])])
            logits = forward.logits(part)
            logp = torch.log_softmax(logits if temperature in (0, 1) else logits / temperature, -1)
            wanted = torch.as_tensor(targets[at : at + LOGIT_ROWS, None], device=logp.device)
            found += logp[:rows].gather(1, wanted)[:, 0].cpu().numpy().tolist()
        at = 0
        for p in pieces:
            scores[p.slot] += found[at : at + len(p.ids)]
            at += len(p.ids)
    return [tuple(s) for s in scores]
