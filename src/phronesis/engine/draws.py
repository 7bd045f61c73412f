"""Counter-based uniform numbers: the number for token t of a request is a function of (seed, t) alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea, Flood 2014): a bijection whose outputs pass statistical tests."""
    z = (z ^ (z >> np.uint64(30))) * _M1
    z = (z ^ (z >> np.uint64(27))) * _M2
    return z ^ (z >> np.uint64(31))


def uniforms(seed: int, count: int) -> NDArray[np.float32]:
    """Numbers for tokens 0 .. count-1 of a request, each in (0, 1).

    They are odd multiples of 2^-24, so a product with a positive float32 stays strictly below it.

    >>> bool((uniforms(7, 100)[:3] == uniforms(7, 3)).all()), bool(uniforms(7, 1)[0] == uniforms(8, 1)[0])
    (True, False)

    Args:
        seed: any integer; taken modulo 2^64.
        count: how many.
    """
    key = _mix(np.array([seed & 0xFFFF_FFFF_FFFF_FFFF], np.uint64))
    bits = _mix(key + _GAMMA * np.arange(1, count + 1, dtype=np.uint64)) >> np.uint64(41)
    return ((bits.astype(np.float64) + 0.5) * 2.0**-23).astype(np.float32)
