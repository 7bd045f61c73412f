"""What the machine could do at best: rates measured in the same run, and the time they leave for a piece of work.

The roofline (Williams, Waterman, Patterson 2009): a step cannot take less than its operations at the highest rate of matrix
products, nor less than its bytes at the rate of memory. Counted are the products of every token, those of attention, the
weights once a step and the keys and values each row looks at; norms, softmax, the draw and all bookkeeping count as nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from msgspec import Struct

from phronesis.engine.speed.workload import OBSERVED, SIZES, VOCABULARY, Work
from phronesis.models.tiny import TinyModel

BYTES = 4
_PRODUCTS = ((64, 192, 1152), (64, 384, 2304), (256, 256, 1024), (512, 384, 1152), (1024, 512, 2048))
"""Rows, inner and outer sizes; the fastest of them is the machine's rate."""


class Rates(Struct, frozen=True, kw_only=True):
    """What the machine reaches with the threads of the run."""

    flops: float
    """fp32 operations a second of the fastest matrix product (PyTorch's)."""
    memory: float
    """Bytes a second read from a buffer that no cache of a core holds."""


def rates() -> Rates:
    """Measures; takes about a second."""
    flops = 0.0
    for rows, inner, outer in _PRODUCTS:
        a, b, out = torch.randn(rows, inner), torch.randn(outer, inner), torch.empty(rows, outer)
        count = max(1, int(3e8 / (2 * rows * inner * outer)))
        seconds = best(lambda a=a, b=b, out=out: torch.mm(a, b.t(), out=out), count)
        flops = max(flops, 2 * rows * inner * outer / seconds)
    buffer = torch.ones(1 << 24)  # 64 MB
    return Rates(flops=flops, memory=buffer.nbytes / best(lambda: buffer.sum(), 2))


def best(call: Callable[[], object], count: int, repeats: int = 9) -> float:
    """Seconds of one call, the fastest of some repeats of `count` calls."""
    call()
    found: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(count):
            call()
        found.append((time.perf_counter() - start) / count)
    return min(found)


def seconds(work: Work, machine: Rates) -> float:
    """The least seconds the work can take on a machine with these rates."""
    m = SIZES[work.size]
    matrices = _matrices(m)
    head = m.width * VOCABULARY
    total, length = 0.0, 0
    for turn in range(work.turns):
        more = work.prompt if not turn else OBSERVED
        own = more - 1 if turn or not work.shared else work.prompt - work.shared - 1
        read = work.batch * own + (0 if turn else work.shared)
        flops = 2 * read * matrices + work.batch * sum(_attention(m, length + t) for t in range(more - own, more))
        total += max(flops / machine.flops, BYTES * matrices / machine.memory)
        length += more
        for _ in range(work.new):
            flops = work.batch * (2 * (matrices + head) + _attention(m, length))
            looked_at = work.batch * 2 * m.layers * m.kv_heads * m.head_dim * length
            total += max(flops / machine.flops, BYTES * (matrices + head + looked_at) / machine.memory)
            length += 1
    return total


def _matrices(m: TinyModel) -> int:
    """Numbers in the matrices of all layers."""
    attention = m.width * m.head_dim * (2 * m.heads + 2 * m.kv_heads)
    return m.layers * (attention + 3 * m.width * m.mlp_width)


def _attention(m: TinyModel, keys: int) -> float:
    """Operations of one token's attention over some keys, all layers."""
    return 4.0 * m.layers * m.heads * m.head_dim * keys
