"""How much of a network an update changed: the share of weights that moved, the rank of the change, overlap across seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from phronesis.errors import ConfigError
from phronesis.evals.numerics import round_bf16

Storage = Literal["bf16", "full"]
"""Compare weights as bfloat16 would hold them, or as they are."""


class Sparsity(NamedTuple):
    """What an update left alone."""

    unchanged: float
    """Share of all weights that did not move; NaN without weights."""
    by_name: dict[str, float]
    """The same per tensor."""


def unchanged(before: Tensor, after: Tensor, *, tol: float = 1e-5, storage: Storage = "bf16") -> Tensor:
    """Which weights moved by at most `tol`: bool, the shape of the tensors.

    [1, 2, 3, 4] to [1, 2.000005, 3.1, 4]: all but the third. As bfloat16 a weight of 1 does not move by less than .0039,
    which is part of why updates look sparse: compare with "full" as well.

    Source: arXiv 2505.11711; formula [sparsity].

    Raises:
        ConfigError: shapes differ.
    """
    if before.shape != after.shape:
        raise ConfigError(f"shapes {tuple(before.shape)!r} and {tuple(after.shape)!r} differ; compare two states of one model")
    a, b = (round_bf16(x) if storage == "bf16" else x.double() for x in (before, after))
    return (b - a).abs() <= tol


def sparsity(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], *, tol: float = 1e-5, storage: Storage = "bf16"
) -> Sparsity:
    """The share of weights that did not move, in all and per tensor. RL is reported to leave 70 to 95 % alone.

    Raises:
        ConfigError: names or shapes differ.
    """
    if before.keys() != after.keys():
        raise ConfigError(f"tensors {sorted(before.keys() ^ after.keys())[:5]!r} are in one state only")
    still = {name: unchanged(before[name], after[name], tol=tol, storage=storage) for name in before}
    total = sum(s.numel() for s in still.values())
    return Sparsity(
        unchanged=sum(int(s.sum()) for s in still.values()) / total if total else math.nan,
        by_name={name: float(s.double().mean()) for name, s in still.items()},
    )


def relative_rank(before: Tensor, after: Tensor) -> float:
    """Rank of a matrix's change over the smaller of its sides, in [0, 1]; sparse updates are nearly of full rank."""
    change = after.double() - before.double()
    return int(np.linalg.matrix_rank(np.asarray(change.detach().cpu()))) / min(change.shape)


def overlap(moved_a: Tensor, moved_b: Tensor) -> float:
    """Share of the weights that one run moved which the other moved too; by chance it is the other's share of all weights.

    Args:
        moved_a: bool, the run the share refers to (``~unchanged(...)``).
        moved_b: bool, same shape.
    """
    return float((moved_a & moved_b).sum()) / float(moved_a.sum()) if bool(moved_a.any()) else math.nan
