"""The engine's arithmetic through transformers: any causal language model, one sequence at a time, with its own cache.

Each slot has a cache of transformers beside the engine's books. A cache that cannot be cut back to a prefix (recurrent models,
windows that forget) is not used: such a model reads its whole prefix for every token. Which of both holds is tried out when the
engine is made, never assumed from a name. Excluded here are the compiled step, batched products and bits that do not depend on
how a prompt was cut into passes; log-probabilities agree with a full forward pass to rounding.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phronesis.engine.cache import KVCache
from phronesis.engine.compute import Drawn, Inputs
from phronesis.engine.forward import Piece
from phronesis.engine.rows import Rows
from phronesis.engine.sampler import draw
from phronesis.models.config import DecoderConfig
from phronesis.models.generic import PROBE, GenericModel, rounding

_BOOKS = DecoderConfig(
    architecture="llama", vocab_size=1, width=2, layers=0, heads=1, kv_heads=1, head_dim=2, mlp_width=1, max_positions=1
)
"""A model without layers: the engine's own cache holds nothing but its books."""


class _Row:
    """What one slot has read."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.past: object | None = None
        """Cache of transformers over `ids`; None when there is none yet, or the model cannot keep one."""


class RowCaches(KVCache):
    """One cache of transformers a slot, moved, copied and cut as the engine's books say."""

    def __init__(self, device: torch.device):
        self.rows: list[_Row] = []
        """By slot."""
        super().__init__(_BOOKS, torch.float32, device)

    def reserve(self, slots: int, tokens: int) -> None:
        """Makes room for at least this many slots and tokens."""
        super().reserve(slots, tokens)
        self.rows += [_Row() for _ in range(self.slots - len(self.rows))]

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copies the first tokens of one slot into another."""
        old, new = self.rows[source], _Row()
        new.ids = old.ids[:tokens]
        new.past = None if old.past is None else _cut(old.past, tokens, copy=True)
        self.rows[target] = new

    def swap(self, a: int, b: int, tokens: int) -> None:
        """Exchanges two slots."""
        super().swap(a, b, tokens)
        self.rows[a], self.rows[b] = self.rows[b], self.rows[a]


class GenericCompute:
    """Implements `Compute` for a `GenericModel`."""

    name = "transformers"
    at_once = 0

    def __init__(self, decoder: GenericModel):
        self.decoder = decoder
        self.cached = self._proved()
        """Whether the model continues a cache that was cut back; without it every token costs its whole prefix."""

    def cache(self) -> RowCaches:
        """No rows yet."""
        return RowCaches(self.decoder.device)

    def bind(self) -> None:
        """The weights changed; rows are read again from their beginning, as the engine asks."""

    def fill(self, cache: KVCache, pieces: list[Piece]) -> None:
        """Reads prompt tokens."""
        for piece in pieces:
            self._enter(_rows(cache)[piece.slot], piece.start, list(piece.ids), wanted=0)

    def next(self, cache: KVCache, inputs: Inputs, rows: Rows) -> Drawn:
        """Enters one token per running slot and draws what follows it."""
        device, slots = self.decoder.device, inputs.slots
        count = int(slots[-1]) + 1
        logits = torch.zeros(count, self.decoder.vocab_size, device=device)
        for slot, token, at in zip(slots, inputs.tokens, inputs.at, strict=True):
            logits[int(slot)] = self._enter(_rows(cache)[int(slot)], int(at), [int(token)], wanted=1)[0]
        uniform, force = np.full(count, 0.5, np.float32), np.full(count, -1, np.int64)
        uniform[slots], force[slots] = inputs.uniform[:, 0], inputs.force
        settings = rows.settings(count, self.decoder.vocab_size, device)
        forced = torch.as_tensor(force, device=device) if (inputs.force >= 0).any() else None
        drawn = draw(logits, torch.as_tensor(uniform, device=device), settings, forced)
        ids, logprobs, entropies = (t.cpu().numpy()[slots, None] for t in drawn)
        return Drawn(ids, logprobs, entropies, np.ones(len(slots), np.int64))

    def score(self, cache: KVCache, pieces: list[Piece], targets: NDArray[np.int64], temperature: float) -> NDArray[np.float32]:
        """`fill`, and the nats of the ids that follow each token `[N]`."""
        found: list[NDArray[np.float32]] = []
        at = 0
        for piece in pieces:
            n = len(piece.ids)
            logits = self._enter(_rows(cache)[piece.slot], piece.start, list(piece.ids), wanted=n)
            logp = torch.log_softmax(logits if temperature in (0, 1) else logits / temperature, -1)
            wanted = torch.as_tensor(targets[at : at + n, None], device=logp.device)
            found.append(logp.gather(1, wanted)[:, 0].cpu().numpy())
            at += n
        return np.concatenate(found)

    def _enter(self, row: _Row, start: int, ids: list[int], wanted: int) -> Tensor:
        """Reads ids from position `start` on; fp32 logits `[wanted, V]` of the last ones.

        What the row holds beyond `start` is dropped; nothing before it may be missing.
        """
        row.ids = row.ids[:start]
        known = row.ids
        assert len(known) == start, "the engine's books and the row disagree"
        row.ids = [*known, *ids]
        if not self.cached:
            return self._run(row.ids, None, wanted) if wanted else torch.empty(0)
        if row.past is not None:
            row.past = _cut(row.past, start)
        if row.past is None:
            row.past, ids = _new_cache(), row.ids
        return self._run(ids, row.past, wanted)

    @torch.inference_mode()
    def _run(self, ids: list[int], past: object | None, wanted: int) -> Tensor:
        tokens = torch.tensor([ids], device=self.decoder.device)
        logits = self.decoder.run(tokens, past, last=wanted <= 1)[0]
        return logits[len(logits) - wanted :].float()

    def _proved(self) -> bool:
        """Reads a few tokens at once, in steps, and again after cutting the cache back; all must say the same."""
        ids = [i % self.decoder.vocab_size for i in range(PROBE)]
        whole = self._run(ids, None, PROBE)
        bound = rounding(self.decoder.dtype) * float(whole.abs().max())
        half = PROBE // 2
        try:
            past = _new_cache()
            steps = [self._run(ids[:half], past, half), *(self._run([i], past, 1) for i in ids[half:])]
            if (torch.cat(steps) - whole).abs().max() > bound:
                return False
            twin = _cut(past, 3, copy=True)
            shortened = _cut(past, half - 1)
            again = [self._run(ids[half - 1 :], shortened, PROBE - half + 1), self._run(ids[3:], twin, PROBE - 3)]
            return all(bool((a - whole[-len(a) :]).abs().max() <= bound) for a in again)
        except Exception:  # a foreign model refuses a cache in whatever way it likes; then there is none
            return False


def _rows(cache: KVCache) -> list[_Row]:
    return cast("RowCaches", cache).rows


def _new_cache() -> object:
    """A cache that keeps everything, also where a model's own would forget what left its window."""
    from transformers import DynamicCache  # slow import, needed for this path only

    return cast("Any", DynamicCache)()


def _cut(past: object, tokens: int, copy: bool = False) -> object:
    """The first tokens of a cache: the same one shortened, or a copy."""
    layers = cast("Any", past).layers
    if copy:
        new = cast("Any", _new_cache())
        for n, layer in enumerate(layers):
            new.update(layer.keys[..., :tokens, :].clone(), layer.values[..., :tokens, :].clone(), n)
        return new
    for layer in layers:
        if layer.keys.shape[-2] > tokens:
            layer.keys, layer.values = layer.keys[..., :tokens, :], layer.values[..., :tokens, :]
    return past
