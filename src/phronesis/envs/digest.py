"""Short stable hashes: content keys of tasks, keys of states, and the split a problem belongs to."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Literal

HELDOUT_ONE_IN = 5
"""One problem in this many is held out."""


def digest(value: object) -> str:
    """16 hex characters of a JSON value, the same on every machine and in every process.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": (2,), "a": 1})
    True

    Raises:
        TypeError: the value is not JSON.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def split_of(key: str) -> Literal["train", "heldout"]:
    """The split a content key belongs to, so that equal problems never lie in both.

    >>> split_of(digest(0)), split_of(digest(8))
    ('train', 'train')
    """
    return "heldout" if int(key, 16) % HELDOUT_ONE_IN == 0 else "train"
