"""A checksum as fast as memory is read, for weights that nobody attacks but a torn write may spoil."""

from __future__ import annotations

import hashlib

from torch import Tensor

CHECKSUM_BYTES = 16
_ROWS, _COLUMNS = 256, 512


def checksum(words: Tensor, before: bytes = b"") -> bytes:
    """16 bytes that change when any one word does, or any run of words is older than the others.

    Each MiB is cut into rows of 512 words, which are added up (modulo 2^64); BLAKE2b goes over these sums, in order, and over
    what is left. It reads at the speed of a plain sum, about twice that of a copy, where BLAKE2b alone reads 1 GB/s. Rows of
    the same MiB may change places unnoticed; it is no defence against a person.

    Args:
        words: int64 `[N]`, on the CPU.
        before: what lies before them.

    >>> checksum(torch.arange(3)) == checksum(torch.tensor([0, 1, 2])) != checksum(torch.tensor([0, 2, 1]))
    True
    """
    digest = hashlib.blake2b(before, digest_size=CHECKSUM_BYTES)
    block = _ROWS * _COLUMNS
    whole = words.numel() // block * block
    for start in range(0, whole, block):
        digest.update(words[start : start + block].view(_ROWS, _COLUMNS).sum(0).numpy().data)
    rest = words[whole:]
    rows = rest.numel() // _COLUMNS * _COLUMNS
    if rows:
        digest.update(rest[:rows].view(-1, _COLUMNS).sum(0).numpy().data)
    digest.update(rest[rows:].numpy().data)
    digest.update(words.numel().to_bytes(8, "little"))
    return digest.digest()
