"""One seed, named streams: every random number is a function of (seed, names) and nothing else.

>>> stream(0, "task", 3) == stream(0, "task", 3), stream(0, "task", 3) == stream(0, "task", 4)
(True, False)
"""

from __future__ import annotations

import random
from hashlib import blake2b


def stream(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and every name, in order.

    Args:
        seed: the run's seed, or a stream derived from it.
        names: what the numbers are for, e.g. ``("episode", step, group, index)``.
    """
    key = "\x1f".join([str(seed), *(f"{type(n).__name__}:{n}" for n in names)])
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little") >> 1


def rng(seed: int, *names: str | int) -> random.Random:
    """A private generator for one named stream; the global generator is never used."""
    return random.Random(stream(seed, *names))
