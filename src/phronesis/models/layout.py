"""Who attends to whom in a forest of segments packed into one row of N tokens, and how to compute it without waste.

A segment's sequence is its ancestors' tokens followed by its own. Chains of only children are merged into one unit.
Units are sorted by length and cut into buckets, so that the padding inside attention stays small; nothing else is padded.

Example: a prompt of 3 tokens with two answers of 2 tokens, `plan([3, 2, 2], [None, 0, 0])`: positions are
``0 1 2 | 3 4 | 3 4``; one bucket holds the prompt alone (3 queries, 3 keys), one holds both answers (2 queries, 5 keys).

Shapes: N tokens, S rows of a bucket, Q queries a row, K keys a row, H query heads, J key/value heads, E head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from phronesis.errors import ConfigError

WASTE = 0.15
"""Share of padded score entries a bucket may add before a new one is opened."""
SMALL = 4096
"""Padded score entries always allowed in a bucket: another kernel call would cost more."""


@dataclass(frozen=True)
class Bucket:
    """Units of similar length, computed in one attention call."""

    queries: Tensor | None
    """Token indices `[S * Q]`, padded with the unit's last token; None when they are all N tokens in order."""
    keys: Tensor | None
    """Token indices `[S * K]`; None when equal to `queries` (units that are roots)."""
    mask: Tensor | None
    """Additive `[S, 1, Q, K]` or `[Q, K]`; None for causal."""
    rows: int
    """S."""
    width: int
    """Q."""


@dataclass(frozen=True)
class AttentionPlan:
    """Built by `plan`; used by every layer of a forward and backward pass."""

    positions_N: Tensor
    """Position of each token on its path `[N]`."""
    buckets: tuple[Bucket, ...]
    """Together they hold every token once as a query."""
    restore_N: Tensor | None
    """Where each token's result lies in the concatenated bucket rows `[N]`; None when they are already in order."""

    @property
    def tokens(self) -> int:
        """N."""
        return self.positions_N.shape[0]

    def to(self, device: torch.device | str) -> AttentionPlan:
        """The same plan on another device."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device)

        buckets = tuple(Bucket(move(b.queries), move(b.keys), move(b.mask), b.rows, b.width) for b in self.buckets)
        return AttentionPlan(self.positions_N.to(device), buckets, move(self.restore_N))

    def attend(self, q_NHE: Tensor, k_NJE: Tensor, v_NJE: Tensor) -> Tensor:
        """Softmax attention of every token over its path up to itself: `[N, H * E]`."""
        heads, kv_heads = q_NHE.shape[1], k_NJE.shape[1]
        inner = heads * q_NHE.shape[2]
        grouped = heads != kv_heads
        out: list[Tensor] = []
        for b in self.buckets:
            q = _rows(q_NHE, b.queries, b.rows)
            keys = b.queries if b.keys is None else b.keys
            k, v = _rows(k_NJE, keys, b.rows), _rows(v_NJE, keys, b.rows)
            mask = None if b.mask is None else b.mask.to(q.dtype)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
            out.append(mixed.transpose(1, 2).reshape(-1, inner))
        flat = out[0] if len(out) == 1 else torch.cat(out)
        return flat if self.restore_N is None else flat.index_select(0, self.restore_N)


def _rows(x_NHE: Tensor, index: Tensor | None, rows: int) -> Tensor:
    """Gathers tokens into rows `[S, H, L, E]`."""
    flat = x_NHE if index is None else x_NHE.index_select(0, index)
    return flat.view(rows, -1, *x_NHE.shape[1:]).transpose(1, 2)


@dataclass(frozen=True)
class _Unit:
    """A maximal chain of only children: token indices of its ancestors and of its own, in path order."""

    prefix: NDArray[np.int64]
    own: NDArray[np.int64]


def plan(lengths: Sequence[int], parents: Sequence[int | None]) -> AttentionPlan:
    """Plans attention over packed segments.

    Args:
        lengths: tokens of each segment, at least 1; segment i occupies the next ``lengths[i]`` places of the row.
        parents: index of the segment each one extends, smaller than its own; None at a root.

    Returns:
        A plan on the CPU; move it with `to`.

    Raises:
        ConfigError: empty input, lengths below 1, or a parent that does not come before its child.
    """
    if not lengths or len(lengths) != len(parents) or min(lengths) < 1:
        raise ConfigError(
            f"a plan needs one parent per length and lengths of at least 1, got {list(lengths)!r}, {list(parents)!r}"
        )
    for i, p in enumerate(parents):
        if p is not None and not 0 <= p < i:
            raise ConfigError(f"segment {i} has parent {p!r}; parents must come before their children")
    units = _units(lengths, parents)
    total = int(sum(lengths))
    positions = np.empty(total, np.int64)
    for u in units:
        positions[u.own] = np.arange(len(u.prefix), len(u.prefix) + len(u.own))
    groups = _group(units)
    buckets = tuple(_bucket(g, total) for g in groups)
    restore = np.empty(total, np.int64)
    at = 0
    for group, b in zip(groups, buckets, strict=True):
        for row, u in enumerate(group):
            restore[u.own] = at + row * b.width + np.arange(len(u.own))
        at += b.rows * b.width
    in_order = at == total and bool((restore == np.arange(total)).all())
    return AttentionPlan(torch.as_tensor(positions), buckets, None if in_order else torch.as_tensor(restore))


def _units(lengths: Sequence[int], parents: Sequence[int | None]) -> list[_Unit]:
    """Merges chains of only children."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    children = [0] * len(lengths)
    for p in parents:
        if p is not None:
            children[p] += 1
    own: dict[int, list[NDArray[np.int64]]] = {}  # last segment of a unit so far -> its pieces
    before: dict[int, NDArray[np.int64]] = {}  # same key -> tokens of the unit's ancestors
    path: dict[int, NDArray[np.int64]] = {}  # segment with several children -> its whole path
    for i, p in enumerate(parents):
        piece = np.arange(starts[i], starts[i + 1], dtype=np.int64)
        if p is not None and children[p] == 1:
            own[i], before[i] = [*own.pop(p), piece], before.pop(p)
            continue
        if p is not None and p not in path:
            path[p] = np.concatenate([before[p], *own[p]])
        own[i], before[i] = [piece], np.empty(0, np.int64) if p is None else path[p]
    return [_Unit(before[i], np.concatenate(own[i])) for i in own]


def _group(units: list[_Unit]) -> list[list[_Unit]]:
    """Sorts units by length and cuts where padding would cost more than another call."""
    groups: list[list[_Unit]] = []
    for roots in (True, False):
        chosen = [u for u in units if (len(u.prefix) == 0) == roots]
        if len({len(u.own) for u in chosen}) > 1 or not roots:
            chosen.sort(key=lambda u: (-len(u.own), -len(u.prefix)))
        group: list[_Unit] = []
        queries = keys = used = 0
        for u in chosen:
            length = len(u.own) + len(u.prefix)
            padded = (len(group) + 1) * queries * max(keys, length)
            wasted = padded - used - len(u.own) * length
            if group and wasted > max(SMALL, WASTE * padded):
                groups.append(group)
                group = []
            if not group:
                queries, keys, used = len(u.own), 0, 0
            group.append(u)
            keys, used = max(keys, length), used + len(u.own) * length
        if group:
            groups.append(group)
    return groups


def _bucket(group: list[_Unit], total: int) -> Bucket:
    """Indices and mask of one attention call; `total` is N."""
    rows, width = len(group), max(len(u.own) for u in group)
    queries = np.stack([np.concatenate([u.own, np.full(width - len(u.own), u.own[-1])]) for u in group])
    first = queries.reshape(-1)
    in_order = first.size == total and bool((first == np.arange(total)).all())
    index = None if in_order else torch.as_tensor(first)
    prefixes = {len(u.prefix) for u in group}
    if prefixes == {0}:  # padding lies after every real token, so causal order hides it
        return Bucket(index, None, None, rows, width)
    before = max(prefixes)
    keys = np.stack(
        [np.concatenate([np.full(before - len(u.prefix), u.own[0]), u.prefix, q]) for u, q in zip(group, queries, strict=True)]
    )
    causal = np.arange(before + width)[None, :] <= np.arange(width)[:, None] + before
    if len(prefixes) == 1:
        visible = causal
    else:
        skipped = np.array([before - len(u.prefix) for u in group])
        visible = (causal[None] & (np.arange(before + width)[None, None, :] >= skipped[:, None, None]))[:, None]
    mask = torch.as_tensor(np.where(visible, np.float32(0), np.float32(-np.inf)))
    return Bucket(index, torch.as_tensor(keys.reshape(-1)), mask, rows, width)
