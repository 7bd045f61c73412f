"""Keys and values of many sequences, in slots of one preallocated tensor that grows in steps.

Shapes: L layers, S slots, J key/value heads, E head size, T token capacity, B tokens a block. Keys lie as
`[L, S, J, T / B, E, B]`, so that scores are a plain product along contiguous tokens; values lie as `[L, S, J, T, E]`. In one
block (B = T) the keys are a matrix, as PyTorch's product wants them; small blocks are read from memory in order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from phronesis.models.config import DecoderConfig

SLOT_STEP = 16
"""Slots are added in multiples of this."""
TOKEN_STEP = 64
"""Token capacity and the visible length of attention are multiples of this."""


def round_up(n: int, step: int) -> int:
    """The smallest multiple of `step` that is at least n.

    >>> round_up(65, 64), round_up(64, 64)
    (128, 64)
    """
    return -(-n // step) * step


class KVCache:
    """Memory only: who owns a slot and which of its tokens are valid is the scheduler's business."""

    def __init__(
        self,
        config: DecoderConfig,
        dtype: torch.dtype,
        device: torch.device,
        block: int | None = None,
        prepare: Callable[[Tensor], None] | None = None,
    ):
        """An empty cache with key blocks of `block` tokens, which divides `TOKEN_STEP`; None means one block a slot.

        `prepare` is told of new memory before anything is written to it.
        """
        self._config, self._dtype, self._device, self._block, self._prepare = config, dtype, device, block, prepare
        self.keys, self.values, self.mask = self._allocate(0, 0)
        """Keys `[L, S, J, T / B, E, B]`, values `[L, S, J, T, E]`, additive mask `[S, T]` (0 visible, −inf hidden)."""
        self.origin, self.shared = np.zeros((2, 0), np.int64)
        """`[S]`: the first `shared` tokens of a slot, whole blocks, hold the same bits as those of slot `origin`."""

    @property
    def slots(self) -> int:
        """S."""
        return self.mask.shape[0]

    @property
    def capacity(self) -> int:
        """T."""
        return self.mask.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.keys.nbytes + self.values.nbytes + self.mask.nbytes

    def reserve(self, slots: int, tokens: int) -> None:
        """Makes room for at least this many slots and tokens, keeping what is there. Never shrinks."""
        if slots <= self.slots and tokens <= self.capacity:
            return
        keys, values, mask = self.keys, self.values, self.mask
        grown = self.capacity if tokens <= self.capacity else max(tokens, self.capacity + self.capacity // 4)
        self.keys, self.values, self.mask = self._allocate(
            round_up(max(slots, self.slots), SLOT_STEP), round_up(grown, TOKEN_STEP)
        )
        s, t = mask.shape
        blocks, width = keys.shape[3], keys.shape[5]
        self.keys[:, :s, :, :blocks, :, :width] = keys
        self.values[:, :s, :, :t] = values
        self.mask[:s, :t] = mask
        more = self.slots - s
        self.origin, self.shared = np.pad(self.origin, (0, more)), np.pad(self.shared, (0, more))

    def show(self, slot: int, tokens: int) -> None:
        """Makes exactly the first `tokens` of a slot visible (the first one always is, so that no row is empty)."""
        self.mask[slot, : max(1, tokens)] = 0
        self.mask[slot, max(1, tokens) :] = -torch.inf

    def place(self, slot: int, kept: int, source: int | None, tokens: int) -> None:
        """Takes note that all but the first `kept` tokens of a slot will be written anew, the first `tokens` as a `copy`
        of `source`."""
        whole = self._block or TOKEN_STEP
        touched = self.origin == slot
        touched[slot] = True
        self.shared[touched] = np.minimum(self.shared[touched], kept // whole * whole)
        if source is not None:
            length = tokens // whole * whole
            at_once = self.shared[source] >= length
            self.origin[slot], self.shared[slot] = self.origin[source] if at_once else source, length

    def unshare(self) -> None:
        """What slots hold is going to be computed again, each for itself."""
        self.shared[:] = 0

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copies the first tokens of one slot into another (and what shares a block with the last of them)."""
        for part in self._first(tokens):
            part[:, target] = part[:, source]

    def swap(self, a: int, b: int, tokens: int) -> None:
        """Exchanges the first tokens of two slots, and what is visible."""
        for part in self._first(tokens):
            kept = part[:, a].clone()
            part[:, a] = part[:, b]
            part[:, b] = kept
        self.mask[[a, b]] = self.mask[[b, a]]
        self.origin[[a, b]], self.shared[[a, b]] = self.origin[[b, a]], self.shared[[b, a]]
        was_a, was_b = self.origin == a, self.origin == b
        self.origin[was_a], self.origin[was_b] = b, a

    def _first(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Views of the first tokens of all slots."""
        if self._block is None:
            return self.keys[..., :tokens], self.values[:, :, :, :tokens]
        return self.keys[:, :, :, : round_up(tokens, self._block) // self._block], self.values[:, :, :, :tokens]

    def _allocate(self, slots: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        c = self._config
        block = self._block or tokens
        blocks = tokens // block if block else 1

        def zeros(*shape: int) -> Tensor:
            fresh = torch.empty(*shape, dtype=self._dtype, device=self._device)
            if self._prepare is not None:
                self._prepare(fresh)  # before the zeros: large pages are given when memory is first written to
            return fresh.zero_()

        keys = zeros(c.layers, slots, c.kv_heads, blocks, c.head_dim, block)
        values = zeros(c.layers, slots, c.kv_heads, tokens, c.head_dim)
        mask = torch.full((slots, tokens), -torch.inf, dtype=self._dtype, device=self._device)
        mask[:, :1] = 0
        return keys, values, mask
