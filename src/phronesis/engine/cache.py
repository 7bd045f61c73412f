"""Keys and values of many sequences, in slots of one preallocated tensor that grows in steps.

Shapes: L layers, S slots, J key/value heads, E head size, T token capacity. Keys lie as `[L, S, J, E, T]`, so that scores
are a plain matrix product along contiguous tokens; values lie as `[L, S, J, T, E]`.
"""

from __future__ import annotations

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

    def __init__(self, config: DecoderConfig, dtype: torch.dtype, device: torch.device):
        self._config, self._dtype, self._device = config, dtype, device
        self.keys, self.values, self.mask = self._allocate(0, 0)
        """Keys `[L, S, J, E, T]`, values `[L, S, J, T, E]`, additive mask `[S, T]` (0 visible, −inf hidden)."""

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
        self.keys[:, :s, :, :, :t] = keys
        self.values[:, :s, :, :t] = values
        self.mask[:s, :t] = mask

    def show(self, slot: int, tokens: int) -> None:
        """Makes exactly the first `tokens` of a slot visible (the first one always is, so that no row is empty)."""
        self.mask[slot, : max(1, tokens)] = 0
        self.mask[slot, max(1, tokens) :] = -torch.inf

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copies the first tokens of one slot into another."""
        self.keys[:, target, :, :, :tokens] = self.keys[:, source, :, :, :tokens]
        self.values[:, target, :, :tokens] = self.values[:, source, :, :tokens]

    def swap(self, a: int, b: int, tokens: int) -> None:
        """Exchanges the first tokens of two slots, and what is visible."""
        for part in (self.keys[..., :tokens], self.values[:, :, :, :tokens]):
            kept = part[:, a].clone()
            part[:, a] = part[:, b]
            part[:, b] = kept
        self.mask[[a, b]] = self.mask[[b, a]]

    def _allocate(self, slots: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        c = self._config

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=self._dtype, device=self._device)

        keys = zeros(c.layers, slots, c.kv_heads, c.head_dim, tokens)
        values = zeros(c.layers, slots, c.kv_heads, tokens, c.head_dim)
        mask = torch.full((slots, tokens), -torch.inf, dtype=self._dtype, device=self._device)
        mask[:, :1] = 0
        return keys, values, mask
