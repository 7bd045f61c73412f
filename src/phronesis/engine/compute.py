"""What the running batch asks of the arithmetic: fill the cache, produce the next ids, score given ones.

`Eager` does it with PyTorch operations on any device and in any type; `native.NativeCompute` with one compiled pass;
`generic.GenericCompute` through transformers, for any architecture.

Shapes: A running rows, N packed tokens, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from phronesis.engine.cache import TOKEN_STEP, KVCache, round_up
from phronesis.engine.forward import MIN_ROWS, Forward, Piece
from phronesis.engine.rows import Rows
from phronesis.engine.sampler import draw
from phronesis.models.causal import LanguageModel
from phronesis.models.decoder import Decoder

LOGIT_ROWS = 256
"""Rows of logits held at once while scoring."""


class Inputs(NamedTuple):
    """What a step reads, one row per running slot, in order of slot."""

    slots: NDArray[np.int64]
    """`[A]`, ascending."""
    tokens: NDArray[np.int64]
    """`[A]` ids whose keys and values are not in the cache yet."""
    at: NDArray[np.int64]
    """`[A]` their positions."""
    uniform: NDArray[np.float32]
    """`[A, N]` the numbers that draw the next ids; see `draws.uniforms`. N is the most ids wanted of each row."""
    force: NDArray[np.int64]
    """`[A]` ids to take instead of drawn ones; −1 for none."""
    free: NDArray[np.int64]
    """`[S]` the first position of every slot that holds nothing; what lies there is never read before it is written."""
    left: NDArray[np.int64]
    """`[A]` ids after which a row must end, at least 1."""


class Drawn(NamedTuple):
    """What a step produced, by row of its inputs and by order, at most N of each row."""

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    """Nats."""
    entropies: NDArray[np.float32]
    """Nats."""
    made: NDArray[np.int64]
    """`[A]` how many there are, at least 1; what lies behind them means nothing."""


class Compute(Protocol):
    """The arithmetic of an engine. Every token's bits depend on its own prefix and nothing else."""

    @property
    def decoder(self) -> LanguageModel:
        """Whose weights are used."""
        ...

    name: str
    """One word for people: how it computes."""
    at_once: int
    """Prompt tokens it likes to get in one pass, whatever the engine's limit: its memory does not grow with them."""

    def cache(self) -> KVCache:
        """An empty cache as this arithmetic wants it."""
        ...

    def bind(self) -> None:
        """The decoder's weights changed."""
        ...

    def fill(self, cache: KVCache, pieces: list[Piece]) -> None:
        """Computes keys and values of prompt tokens; everything before each piece must be in the cache."""
        ...

    def next(self, cache: KVCache, inputs: Inputs, rows: Rows) -> Drawn:
        """Enters one token per running slot into the cache and draws what follows it; may go on with what it drew, up to N
        times, but not after any row has drawn one of its stop ids or has none left."""
        ...

    def score(self, cache: KVCache, pieces: list[Piece], targets: NDArray[np.int64], temperature: float) -> NDArray[np.float32]:
        """`fill`, and the nats of the ids that follow each token `[N]`; same bits as `next` would report."""
        ...


class Eager:
    """PyTorch operations, one after the other: any device, any type; the oracle of everything faster."""

    name = "pytorch"
    at_once = 0

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.forward = Forward(decoder)

    def cache(self) -> KVCache:
        """An empty cache with one block a slot."""
        return KVCache(self.decoder.config, self.decoder.dtype, self.decoder.device)

    def bind(self) -> None:
        """The decoder's weights changed."""
        self.forward.bind()

    def fill(self, cache: KVCache, pieces: list[Piece]) -> None:
        """Computes keys and values of prompt tokens."""
        self.forward.prefill(cache, pieces)

    def next(self, cache: KVCache, inputs: Inputs, rows: Rows) -> Drawn:
        """Enters one token per running slot into the cache and draws what follows it."""
        device = self.decoder.device
        slots = inputs.slots
        width = int(slots[-1]) + 1  # idle slots in between take part; what they write lies beyond what they hold
        count = max(MIN_ROWS, width)
        tokens, at = np.zeros((2, count), np.int64)
        uniform, force = np.full(count, 0.5, np.float32), np.full(count, -1, np.int64)
        at[:width] = inputs.free[:width]
        tokens[slots], at[slots], uniform[slots], force[slots] = inputs.tokens, inputs.at, inputs.uniform[:, 0], inputs.force
        positions = torch.as_tensor(at, device=device)
        index = torch.as_tensor(slots, device=device)
        cache.mask[index, positions[index]] = 0
        visible = round_up(int(inputs.at.max()) + 1, TOKEN_STEP)
        logits = self.forward.decode(cache, torch.as_tensor(tokens, device=device), positions, width, visible)
        settings = rows.settings(count, self.decoder.config.vocab_size, device)
        forced = torch.as_tensor(force, device=device) if (inputs.force >= 0).any() else None
        drawn = draw(logits, torch.as_tensor(uniform, device=device), settings, forced)
        ids, logprobs, entropies = (t.cpu().numpy()[slots, None] for t in drawn)
        return Drawn(ids, logprobs, entropies, np.ones(len(slots), np.int64))

    def score(self, cache: KVCache, pieces: list[Piece], targets: NDArray[np.int64], temperature: float) -> NDArray[np.float32]:
        """`fill`, and the nats of the ids that follow each token `[N]`."""
        hidden = self.forward.prefill(cache, pieces)
        found: list[NDArray[np.float32]] = []
        for start in range(0, len(targets), LOGIT_ROWS):
            part = hidden[start : start + LOGIT_ROWS]
            rows = part.shape[0]
            if rows < MIN_ROWS:
                part = torch.cat([part, part.new_zeros(MIN_ROWS - rows, part.shape[1])])
            logits = self.forward.logits(part)
            logp = torch.log_softmax(logits if temperature in (0, 1) else logits / temperature, -1)
            wanted = torch.as_tensor(targets[start : start + LOGIT_ROWS, None], device=logp.device)
            found.append(logp[:rows].gather(1, wanted)[:, 0].cpu().numpy())
        return np.concatenate(found)
