"""A sampler that is behind the learner by exactly K updates, and that computes with weights of lower precision.

Both are exact by construction: the sampler holds copies of its own, made from a queue of the learner's past weights, so what
is studied is the lag and the noise and not the timing of a machine.
"""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from typing import Literal

import msgspec
import torch
from torch import Tensor

from phronesis.engine.embedded import EmbeddedEngine, EngineConfig
from phronesis.models.decoder import Decoder
from phronesis.records import Batch
from phronesis.train.packed import pack
from phronesis.train.scoring import score

Mismatch = Literal["none", "bf16", "int8", "int4"]
"""How the sampler's arithmetic departs from the learner's, which is float32: not at all; weights and activations in bfloat16;
matrices rounded to 8 (or 4) bits per output channel, computed in float32."""


def rounded(weight_OD: Tensor, levels: int) -> Tensor:
    """What integer quantisation with one scale per row leaves of a matrix, in the matrix's own type.

    Symmetric: the scale is the row's largest magnitude over `levels`, ties go to even. A row of zeros stays.
    (1.27, -0.634, 0.006) with 127 levels has scale 0.01 and becomes (1.27, -0.63, 0.01).

    Args:
        weight_OD: one row per output channel.
        levels: steps on either side of 0: 127 for 8 bits, 7 for 4.
    """
    scale_O1 = weight_OD.abs().amax(dim=1, keepdim=True) / levels
    safe_O1 = torch.where(scale_O1 > 0, scale_O1, 1.0)
    return (weight_OD / safe_O1).round().clamp(-levels, levels) * scale_O1


LEVELS: dict[Mismatch, int] = {"int8": 127, "int4": 7}
"""Steps on either side of 0 of each integer type."""


class LaggedSampler:
    """An engine whose weights are those of `lag` updates ago, perturbed, and a clean copy of the same weights.

    With lag 2, after updates 1, 2, 3, 4 it samples with weights 0, 0, 1, 2, and its tokens say so.
    """

    def __init__(self, decoder: Decoder, *, lag: int, mismatch: Mismatch, slots: int = 128) -> None:
        """Begins with the learner's weights.

        Args:
            decoder: the learner's; read at every `push`.
            lag: K, at least 0.
            mismatch: what the sampler's arithmetic is.
            slots: sequences at once.
        """
        self._learner, self._lag, self._levels = decoder, lag, LEVELS.get(mismatch)
        self.exact = mismatch == "none"
        """True where nothing is perturbed."""
        self.clean = deepcopy(decoder).requires_grad_(False)
        """The weights it samples with, before they are perturbed; float32."""
        dtype = torch.bfloat16 if mismatch == "bf16" else torch.float32
        self.sampling = deepcopy(decoder).requires_grad_(False).to(dtype)
        """The weights it samples with."""
        self.updates = 0
        """Updates of the learner so far."""
        self._past = deque([self._copy()], maxlen=lag + 1)
        self._load()
        # PyTorch's arithmetic for all, since the compiled step knows float32 alone
        self.engine = EmbeddedEngine(self.sampling, EngineConfig(slots=slots, native=False))
        """Samples; its version is that of the weights it holds."""

    def push(self) -> None:
        """The learner has made an update: the sampler moves on to the weights of `lag` updates ago."""
        self.updates += 1
        self._past.append(self._copy())
        if self.updates > self._lag:
            self._load()
            self.engine.advance()

    def scored(self, batch: Batch) -> Tensor:
        """Log-probabilities of a batch's trained tokens under the clean weights, in the learner's arithmetic; nats `[K]`."""
        with torch.no_grad():
            return score(self.clean, pack(batch)).logp_K

    def _copy(self) -> list[Tensor]:
        return [p.detach().clone() for p in self._learner.parameters()]

    def _load(self) -> None:
        with torch.no_grad():
            for clean, used, past in zip(self.clean.parameters(), self.sampling.parameters(), self._past[0], strict=True):
                clean.copy_(past)
                # vectors, which are norms, stay as they are, as in quantised engines; bfloat16 comes from the copy
                used.copy_(past if self._levels is None or past.dim() < 2 else rounded(past, self._levels))


def recorded(batch: Batch, logp_K: Tensor) -> Batch:
    """The batch as if its sampler had recorded these log-probabilities of the trained tokens."""
    values = iter([float(x) for x in logp_K])
    segments = tuple(
        msgspec.structs.replace(s, logprobs=tuple(next(values) if m else 0.0 for m in s.mask)) for s in batch.segments
    )
    return msgspec.structs.replace(batch, segments=segments)
