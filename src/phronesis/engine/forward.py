"""The decoder's arithmetic with a cache, arranged so that a token's bits depend on its own prefix and nothing else.

A token gives the same bits alone or in a crowd, read from a prompt or sampled, computed or copied from a shared prefix.
The rules that make it so were found by measurement (MKL, AVX-512, 1 and 2 threads) and are held by property tests:

* matrix products have at least 16 rows: below that BLAS picks other kernels with another order of summation. Rows of
  larger products do not depend on one another. Inner sizes above 768 are summed in parts of 512, because threads may
  otherwise split them differently for different numbers of rows.
* attention is two batched products with at least 2 rows each and factor 1 (the scale is in the queries); keys beyond the
  sequence are hidden by −inf, the visible length is a multiple of 64, and values are summed in parts of 256 keys.
* SiLU treats the last few numbers of a thread's share differently, so it runs on pieces that one thread handles.

Shapes: R rows (one per slot) or N packed tokens, D width, H query heads, J key/value heads, G = H / J, E head size,
P slots of a group, C tokens a slot, T visible keys, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from phronesis.engine.cache import TOKEN_STEP, KVCache, round_up
from phronesis.models.decoder import Block, Decoder
from phronesis.models.kernels import rotate

MIN_ROWS = 16
"""Fewest rows of a matrix product; smaller inputs are padded."""
INNER_PART, INNER_WHOLE = 512, 768
"""Inner sizes above the second are summed in parts of the first."""
KEY_PART = 256
"""Values are summed over parts of this many keys."""
SERIAL = 32768
"""Elementwise operations on fewer numbers run on one thread."""
SCORES = 1 << 22
"""Most score entries of one prefill attention call."""


class Piece(NamedTuple):
    """Consecutive tokens of one slot to be computed together."""

    slot: int
    """Slot they belong to."""
    start: int
    """Position of the first one; everything before it is in the cache."""
    ids: tuple[int, ...]
    """Token ids, at least one."""


class Layer(NamedTuple):
    """One block's weights, detached, sharing storage with the decoder."""

    attn_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    qk_scale: Tensor
    """`[H + J, E]`: the q and k norm's weights, the query part times E^-0.5."""
    o: Tensor
    o_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class _Group(NamedTuple):
    """Slots whose new tokens are attended in one call."""

    slots: Tensor
    """`[P]`."""
    rows: Tensor
    """`[P * C]` into the packed tokens, padded with each slot's last one."""
    mask: Tensor
    """Additive `[P, 1, 1, C, T]`."""
    visible: int
    """T."""


def linear(x_RD: Tensor, weight: Tensor, bias: Tensor | None = None, add: Tensor | None = None) -> Tensor:
    """x @ weightᵀ (+ bias) (+ add), the same bits for a row whatever the other rows are.

    Args:
        x_RD: at least 16 rows.
        weight: `[out, D]`.
        bias: `[out]`.
        add: `[R, out]`.
    """
    inner = x_RD.shape[1]
    if inner <= INNER_WHOLE:
        out = F.linear(x_RD, weight) if add is None else torch.addmm(add, x_RD, weight.t())
    else:
        out = F.linear(x_RD[:, :INNER_PART], weight[:, :INNER_PART])
        for at in range(INNER_PART, inner, INNER_PART):
            out = torch.addmm(out, x_RD[:, at : at + INNER_PART], weight[:, at : at + INNER_PART].t())
        if add is not None:
            out += add
    return out if bias is None else out.add_(bias)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis in few calls: x / sqrt(|x|² + d·eps) · sqrt(d)·weight; `weight` holds sqrt(d) already."""
    size = cast("Tensor", torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32))  # pyright: ignore[reportUnknownMemberType]
    scale = size.square_().add_(eps * x.shape[-1]).rsqrt_()
    if x.dtype == torch.float32:
        return (x * scale).mul_(weight)
    return (x * scale).to(x.dtype).mul_(weight)


def _gated(gate_up: Tensor) -> Tensor:
    """SiLU(gate) · up."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    gate, up = gate_up[:, :width], gate_up[:, width:]
    if rows * width < SERIAL or torch.get_num_threads() == 1 or gate_up.device.type != "cpu":
        return F.silu(gate).mul_(up)
    step = max(1, SERIAL // width - 1)
    return torch.cat([F.silu(gate[at : at + step]) for at in range(0, rows, step)]).mul_(up)


class Forward:
    """Runs a decoder on cached sequences. Weights are shared with the decoder, never copied (norm scales apart)."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.config = decoder.config
        self._cos, self._sin = decoder.rotary(torch.zeros(0, dtype=torch.long, device=decoder.device))
        self.bind()

    def bind(self) -> None:
        """Reads the decoder's parameters again; call it when they changed."""
        c, root = self.config, float(np.sqrt(self.config.width))
        ones = torch.ones(c.head_dim, dtype=self.decoder.dtype, device=self.decoder.device)
        self.layers: list[Layer] = []
        with torch.no_grad():
            for block in cast("list[Block]", list(self.decoder.blocks)):
                q = ones if block.q_norm is None else block.q_norm * c.head_dim**0.5
                k = ones if block.k_norm is None else block.k_norm * c.head_dim**0.5
                scale = torch.cat([(q * c.head_dim**-0.5).expand(c.heads, -1), k.expand(c.kv_heads, -1)])
                self.layers.append(
                    Layer(
                        attn_norm=block.attn_norm * root,
                        qkv=block.qkv.detach(),
                        qkv_bias=None if block.qkv_bias is None else block.qkv_bias.detach(),
                        qk_scale=scale,
                        o=block.o.detach(),
                        o_bias=None if block.o_bias is None else block.o_bias.detach(),
                        mlp_norm=block.mlp_norm * root,
                        gate_up=block.gate_up.detach(),
                        gate_up_bias=None if block.gate_up_bias is None else block.gate_up_bias.detach(),
                        down=block.down.detach(),
                        down_bias=None if block.down_bias is None else block.down_bias.detach(),
                    )
                )
            self.final_norm = self.decoder.final_norm * root
        self.embed, self.head = self.decoder.embed.detach(), self.decoder.head.detach()

    def decode(self, cache: KVCache, tokens_R: Tensor, positions_R: Tensor, slots: int, visible: int) -> Tensor:
        """One token for each of the first `slots` slots.

        Args:
            cache: with one block a slot; written at `positions_R`; its mask must show them.
            tokens_R: `[R]` ids, R at least 16 and at least `slots`; rows beyond are padding.
            positions_R: `[R]`.
            slots: how many slots take part.
            visible: keys attention looks at, a multiple of 64 above every position.

        Returns:
            fp32 logits `[R, V]`; rows beyond `slots` mean nothing.
        """
        c = self.config
        rows, groups = tokens_R.shape[0], c.heads // c.kv_heads
        cos, sin = self._rotary(positions_R, cache.capacity)
        slot_index, at = torch.arange(slots, device=tokens_R.device), positions_R[:slots]
        mask = cache.mask[:slots, None, :visible]
        x = F.embedding(tokens_R, self.embed)
        padding = x.new_zeros(rows - slots, c.heads * c.head_dim)
        for n, w in enumerate(self.layers):
            qk, v = self._project(w, x, cos, sin)
            keys, values = cache.keys[n, :, :, 0], cache.values[n]
            keys[slot_index, :, :, at] = qk[:slots, c.heads :]
            values[slot_index, :, at] = v[:slots]
            q = qk[:slots, : c.heads].reshape(slots * c.kv_heads, groups, c.head_dim)
            if groups == 1:
                q = torch.cat([q, q], 1)
            scores = torch.bmm(q, keys[:slots].flatten(0, 1)[:, :, :visible])
            scores.view(slots, -1, visible).add_(mask)
            out = _weigh(scores, values[:slots].flatten(0, 1))
            mixed = out[:, :groups].reshape(slots, -1)
            x = self._finish(w, x, mixed if rows == slots else torch.cat([mixed, padding]))
        return self.logits(_norm(x, self.final_norm, c.norm_eps))

    def prefill(self, cache: KVCache, pieces: list[Piece]) -> Tensor:
        """Computes keys and values of new tokens.

        Args:
            cache: written; everything before each piece's start must be there. The mask is neither read nor changed.
            pieces: at most one per slot.

        Returns:
            Final normalised states `[N, D]` of the pieces' tokens, in order.
        """
        c, device = self.config, self.decoder.device
        counts = [len(p.ids) for p in pieces]
        total = sum(counts)
        rows = max(MIN_ROWS, total)
        tokens, positions, slot_of = np.zeros((3, rows), np.int64)
        at = 0
        for p, count in zip(pieces, counts, strict=True):
            tokens[at : at + count] = p.ids
            positions[at : at + count] = np.arange(p.start, p.start + count)
            slot_of[at : at + count] = p.slot
            at += count
        positions_N = torch.as_tensor(positions, device=device)
        slots_N, at_N = torch.as_tensor(slot_of[:total], device=device), positions_N[:total]
        groups, restore = self._groups(pieces, cache)
        cos, sin = self._rotary(positions_N, cache.capacity)
        x = F.embedding(torch.as_tensor(tokens, device=device), self.embed)
        mixed = x.new_zeros(rows, c.heads * c.head_dim)
        for n, w in enumerate(self.layers):
            qk, v = self._project(w, x, cos, sin)
            keys, values = cache.keys[n, :, :, 0], cache.values[n]
            keys[slots_N, :, :, at_N] = qk[:total, c.heads :]
            values[slots_N, :, at_N] = v[:total]
            out = [self._attend(g, qk, keys, values) for g in groups]
            mixed[:total] = torch.cat(out).index_select(0, restore)
            x = self._finish(w, x, mixed)
        return _norm(x, self.final_norm, c.norm_eps)[:total]

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """fp32 logits `[R, V]` of at least 16 rows of states."""
        return linear(hidden_RD, self.head).float()

    def _rotary(self, positions: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines `[R, 1, E]`, from a table that grows with the cache."""
        if self._cos.shape[0] < capacity:
            self._cos, self._sin = self.decoder.rotary(torch.arange(capacity, device=positions.device))
        return self._cos.index_select(0, positions)[:, None], self._sin.index_select(0, positions)[:, None]

    def _project(self, w: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated queries and keys `[R, H + J, E]` (queries scaled) and values `[R, J, E]`."""
        c = self.config
        qkv = linear(_norm(x, w.attn_norm, c.norm_eps), w.qkv, w.qkv_bias).view(-1, c.heads + 2 * c.kv_heads, c.head_dim)
        qk, v = qkv[:, : c.heads + c.kv_heads], qkv[:, c.heads + c.kv_heads :]
        qk = _norm(qk, w.qk_scale, c.norm_eps) if c.qk_norm else qk * w.qk_scale
        return rotate(qk, cos, sin), v

    def _finish(self, w: Layer, x: Tensor, mixed: Tensor) -> Tensor:
        """The rest of a layer after attention."""
        x = linear(mixed, w.o, w.o_bias, add=x)
        h = linear(_norm(x, w.mlp_norm, self.config.norm_eps), w.gate_up, w.gate_up_bias)
        return linear(_gated(h), w.down, w.down_bias, add=x)

    def _attend(self, g: _Group, qk: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of one group's new tokens over its slots: `[P * C, H * E]`."""
        c = self.config
        count, each = g.slots.shape[0], g.rows.shape[0] // g.slots.shape[0]
        q = qk.index_select(0, g.rows)[:, : c.heads].view(count, each, c.kv_heads, -1, c.head_dim)
        q = q.permute(0, 2, 3, 1, 4).reshape(count * c.kv_heads, -1, c.head_dim)
        k = keys[:, :, :, : g.visible].index_select(0, g.slots).flatten(0, 1)
        v = values[:, :, : g.visible].index_select(0, g.slots).flatten(0, 1)
        scores = torch.bmm(q, k)
        scores.view(count, c.kv_heads, -1, each, g.visible).add_(g.mask)
        out = _weigh(scores, v).view(count, c.kv_heads, -1, each, c.head_dim)
        return out.permute(0, 3, 1, 2, 4).reshape(count * each, -1)

    def _groups(self, pieces: list[Piece], cache: KVCache) -> tuple[list[_Group], Tensor]:
        """Pieces of similar length together, and where each token's result lies in the groups' concatenated output."""
        device = self.decoder.device
        heads = self.config.heads
        offsets = np.concatenate([[0], np.cumsum([len(p.ids) for p in pieces])])
        order = sorted(range(len(pieces)), key=lambda i: -len(pieces[i].ids))
        restore = np.empty(offsets[-1], np.int64)
        groups: list[_Group] = []
        done = at = 0
        while at < len(order):
            each = max(2, len(pieces[order[at]].ids))
            members = [order[at]]
            visible = _end(pieces[order[at]])
            for i in order[at + 1 :]:
                longest = max(visible, _end(pieces[i]))
                cost = (len(members) + 1) * each * round_up(longest, TOKEN_STEP) * heads
                if cost > SCORES or 2 * len(pieces[i].ids) < each:
                    break
                members.append(i)
                visible = longest
            at += len(members)
            visible = round_up(visible, TOKEN_STEP)
            within = np.arange(each)
            index = np.stack([offsets[i] + np.minimum(within, len(pieces[i].ids) - 1) for i in members])
            for row, i in enumerate(members):
                n = len(pieces[i].ids)
                restore[offsets[i] : offsets[i] + n] = done + row * each + within[:n]
            done += index.size
            last = np.array([[pieces[i].start] for i in members]) + within
            mask = np.where(np.arange(visible) <= last[:, :, None], np.float32(0), np.float32(-np.inf))[:, None, None]
            groups.append(
                _Group(
                    torch.as_tensor([pieces[i].slot for i in members], device=device),
                    torch.as_tensor(index.reshape(-1), device=device),
                    torch.as_tensor(mask, device=device, dtype=cache.mask.dtype),
                    visible,
                )
            )
        return groups, torch.as_tensor(restore, device=device)


def _end(piece: Piece) -> int:
    """One past the last position of a piece."""
    return piece.start + len(piece.ids)


def _weigh(scores: Tensor, values: Tensor) -> Tensor:
    """softmax(scores `[B, M, T]`) @ values `[B, ≥T, E]`, summed over parts of keys in a fixed order."""
    weights, visible = torch.softmax(scores, -1), scores.shape[-1]
    out = torch.bmm(weights[:, :, :KEY_PART], values[:, : min(visible, KEY_PART)])
    for at in range(KEY_PART, visible, KEY_PART):
        end = min(visible, at + KEY_PART)
        out = torch.baddbmm(out, weights[:, :, at:end], values[:, at:end])
    return out
