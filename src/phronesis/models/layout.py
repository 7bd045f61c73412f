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
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.models.kernels import gather

WASTE = 0.15
"""Share of padded score entries a bucket may add before a new one is opened."""
SMALL = 4096
"""Padded score entries always allowed in a bucket: another kernel call would cost more."""


class Bucket(NamedTuple):
    """Units of similar length, computed in one attention call."""

    rows: int
    """S."""
    width: int
    """Q."""
    span: int
    """K; equal to Q when the units are roots."""
    mask: Tensor | None
    """Additive `[S, 1, Q, K]` or `[Q, K]`; None for causal."""


@dataclass(frozen=True)
class Unit:
    """A maximal chain of only children: token indices of its ancestors and of its own, in path order."""

    prefix: NDArray[np.int64]
    """Ancestors."""
    own: NDArray[np.int64]
    """At least one."""


@dataclass(frozen=True)
class AttentionPlan:
    """Built by `plan`; used by every layer of a forward and backward pass."""

    positions_N: Tensor
    """Position of each token on its path `[N]`."""
    buckets: tuple[Bucket, ...]
    """Together they hold every token once as a query."""
    queries: Tensor | None
    """Tokens of all buckets' query rows, one bucket after the other; rows are padded with their last token. None when these
    are the N tokens in order."""
    keys: Tensor | None
    """The same for key rows; None when equal to the query rows (all units are roots)."""
    restore_N: Tensor | None
    """Place of each token in the query rows `[N]`; None when `queries` is None."""
    units: tuple[Unit, ...] = ()
    """The forest itself, for models that compute it path by path."""

    @property
    def tokens(self) -> int:
        """N."""
        return self.positions_N.shape[0]

    @property
    def paths(self) -> list[NDArray[np.int64]]:
        """Token indices of every path from a root to a leaf; together they hold every token."""
        inner = {int(u.prefix[-1]) for u in self.units if len(u.prefix)}
        return [np.concatenate([u.prefix, u.own]) for u in self.units if int(u.own[-1]) not in inner]

    def to(self, device: torch.device | str) -> AttentionPlan:
        """The same plan on another device."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device)

        return AttentionPlan(
            self.positions_N.to(device),
            tuple(b._replace(mask=move(b.mask)) for b in self.buckets),
            move(self.queries),
            move(self.keys),
            move(self.restore_N),
            self.units,
        )

    def attend(self, q_NHE: Tensor, kv_NPE: Tensor) -> Tensor:
        """Softmax attention of every token over its path up to itself.

        Args:
            q_NHE: queries.
            kv_NPE: keys followed by values `[N, 2 J, E]`.

        Returns:
            `[N, H * E]`.
        """
        heads, kv_heads = q_NHE.shape[1], kv_NPE.shape[1] // 2
        if self.queries is not None:
            q_NHE = gather(q_NHE, self.queries, self.restore_N)
        if self.keys is not None:
            kv_NPE = gather(kv_NPE, self.keys)
        elif self.queries is not None:
            kv_NPE = gather(kv_NPE, self.queries, self.restore_N)
        queries = torch.split_with_sizes(q_NHE, [b.rows * b.width for b in self.buckets])
        pairs = torch.split_with_sizes(kv_NPE, [b.rows * b.span for b in self.buckets])
        out: list[Tensor] = []
        for b, q, kv in zip(self.buckets, queries, pairs, strict=True):
            k, v = torch.split_with_sizes(kv.view(b.rows, b.span, *kv.shape[1:]).transpose(1, 2), [kv_heads, kv_heads], 1)
            mixed = F.scaled_dot_product_attention(
                q.view(b.rows, b.width, *q.shape[1:]).transpose(1, 2),
                k,
                v,
                attn_mask=None if b.mask is None else b.mask.to(q.dtype),
                is_causal=b.mask is None,
                enable_gqa=heads != kv_heads,
            )
            out.append(mixed.transpose(1, 2).flatten(2).flatten(0, 1))
        flat = out[0] if len(out) == 1 else torch.cat(out)
        return flat if self.restore_N is None else gather(flat, self.restore_N)


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
    buckets = [_bucket(g) for g in groups]
    queries = np.concatenate([_padded(u, b.width) for g, b in zip(groups, buckets, strict=True) for u in g])
    rooted = all(b.mask is None for b in buckets)
    keys = None if rooted else np.concatenate([_path(u, b) for g, b in zip(groups, buckets, strict=True) for u in g])
    restore = np.empty(total, np.int64)
    at = 0
    for group, b in zip(groups, buckets, strict=True):
        for u in group:
            restore[u.own] = at + np.arange(len(u.own))
            at += b.width
    in_order = at == total and bool((restore == np.arange(total)).all())
    return AttentionPlan(
        torch.as_tensor(positions),
        tuple(buckets),
        None if in_order else torch.as_tensor(queries),
        None if keys is None else torch.as_tensor(keys),
        None if in_order else torch.as_tensor(restore),
        tuple(units),
    )


def _units(lengths: Sequence[int], parents: Sequence[int | None]) -> list[Unit]:
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
    return [Unit(before[i], np.concatenate(own[i])) for i in own]


def _group(units: list[Unit]) -> list[list[Unit]]:
    """Sorts units by length and cuts where padding would cost more than another call."""
    groups: list[list[Unit]] = []
    for roots in (True, False):
        chosen = [u for u in units if (len(u.prefix) == 0) == roots]
        if len({len(u.own) for u in chosen}) > 1 or not roots:
            chosen.sort(key=lambda u: (-len(u.own), -len(u.prefix)))
        group: list[Unit] = []
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


def _padded(unit: Unit, width: int) -> NDArray[np.int64]:
    """The unit's own tokens `[Q]`, padded with the last one."""
    return np.concatenate([unit.own, np.full(width - len(unit.own), unit.own[-1])])


def _path(unit: Unit, bucket: Bucket) -> NDArray[np.int64]:
    """The unit's path `[K]`, padded on both sides so that its own tokens are the last Q columns."""
    skipped = bucket.span - bucket.width - len(unit.prefix)
    return np.concatenate([np.full(skipped, unit.own[0]), unit.prefix, _padded(unit, bucket.width)])


def _bucket(group: list[Unit]) -> Bucket:
    """Shape and mask of one attention call."""
    rows, width = len(group), max(len(u.own) for u in group)
    prefixes = np.array([len(u.prefix) for u in group])
    before = int(prefixes.max())
    if before == 0:  # padding lies after every real token, so causal order hides it
        return Bucket(rows, width, width, None)
    columns = np.arange(before + width)
    visible = columns[None, :] <= np.arange(width)[:, None] + before
    if len(set(prefixes.tolist())) > 1:
        shown = columns[None, None, :] >= (before - prefixes)[:, None, None]
        visible = (visible[None] & shown)[:, None]
    return Bucket(rows, width, before + width, torch.as_tensor(np.where(visible, np.float32(0), np.float32(-np.inf))))
