"""Which slot holds which ids: prefix matching, reuse, eviction, compaction. Host memory only, no tensors.

A slot is free (nothing valid), kept (valid ids of a request that ended) or running. Ids are compared one by one; a cache key
only says which slot to prefer, it is never trusted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORTH = 16
"""Copying a shared prefix must save at least this many tokens."""


class Slots:
    """The books of a cache. Arrays are indexed by slot `[S]` or by slot and position `[S, T]`."""

    def __init__(self, limit: int):
        self.limit = limit
        """Most slots."""
        self.ids = np.zeros((0, 0), np.int64)
        """Known ids; those from `filled` on are not in the cache yet."""
        self.logprobs = np.zeros((0, 0), np.float32)
        self.entropies = np.zeros((0, 0), np.float32)
        self.uniforms = np.zeros((0, 0), np.float32)
        """The number that draws the id at each position."""
        self.forced = np.zeros((0, 0), np.bool_)
        self.filled = np.zeros(0, np.int64)
        """Ids whose keys and values are in the cache."""
        self.running = np.zeros(0, np.bool_)
        self.begin = np.zeros(0, np.int64)
        """Length of the prompt."""
        self.end = np.zeros(0, np.int64)
        """Length at which the request must end."""
        self.used = np.zeros(0, np.int64)
        """Time of the last use."""
        self.key_of: dict[int, str] = {}
        self.slot_of: dict[str, int] = {}
        self._clock = 0

    @property
    def count(self) -> int:
        """S."""
        return len(self.filled)

    def grow(self, slots: int, tokens: int) -> None:
        """Makes the books as large as the cache."""
        s, t = slots - self.count, tokens - self.ids.shape[1]
        for name in ("ids", "logprobs", "entropies", "uniforms", "forced"):
            setattr(self, name, np.pad(getattr(self, name), ((0, s), (0, t))))
        for name in ("filled", "running", "begin", "end", "used"):
            setattr(self, name, np.pad(getattr(self, name), (0, s)))

    def matches(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Length of the common prefix of `ids` and each slot's filled ids `[S]`."""
        width = min(len(ids), self.ids.shape[1])
        differs = self.ids[:, :width] != ids[:width]
        first = np.where(differs.any(1), differs.argmax(1), width) if width else np.zeros(self.count, np.int64)
        return np.minimum(first, self.filled)

    def choose(self, key: str | None, matches: NDArray[np.int64]) -> int:
        """The slot for a new request: its own by key, else one nobody claims, else the least recently used one.

        Only when `has_room`. A result equal to `count` is the next new slot.
        """
        own = None if key is None else self.slot_of.get(key)
        if own is not None and not self.running[own]:
            return own
        idle = np.flatnonzero(~self.running)
        unclaimed = idle if not self.key_of else idle[np.array([i not in self.key_of for i in idle.tolist()], np.bool_)]
        if len(unclaimed):
            best = int(unclaimed[matches[unclaimed].argmax()])
            if matches[best] >= WORTH:
                return best
            # a slot with a long match is taken over whole, otherwise the lowest empty-handed one is
            empty = unclaimed[self.filled[unclaimed] == 0]
            return int(empty[0] if len(empty) else unclaimed[0])
        if self.count < self.limit:
            return self.count
        return int(idle[self.used[idle].argmin()])

    def has_room(self, key: str | None) -> bool:
        """Whether `choose` would find a slot.

        A sequence kept for a key is given up for a stranger only while fewer than half of the slots run: with more episodes
        than slots, those that began go on with what is cached, and the rest wait for one of them to end.
        """
        own = None if key is None else self.slot_of.get(key)
        if own is not None and not self.running[own]:
            return True
        running = int(self.running.sum())
        if 2 * running < self.limit or self.count < self.limit:
            return True
        return self.count > running + sum(not self.running[slot] for slot in self.key_of)

    def take(self, slot: int, key: str | None) -> bool:
        """Marks a slot as running for a key; returns True when another key's sequence is lost by it."""
        lost = self.key_of.get(slot, key) != key
        self.forget_key(slot)
        if key is not None and key not in self.slot_of:
            self.key_of[slot], self.slot_of[key] = key, slot
        self.running[slot] = True
        self.forced[slot] = False
        return lost

    def leave(self, slot: int) -> None:
        """The request ended; its ids stay for reuse."""
        self._clock += 1
        self.running[slot], self.used[slot] = False, self._clock

    def drop_idle(self) -> None:
        """Nothing of the slots that are not running is valid any more."""
        self.filled[~self.running] = 0
        for slot in [s for s in self.key_of if not self.running[s]]:
            self.forget_key(slot)

    def forget_key(self, slot: int) -> None:
        """The slot belongs to nobody any more."""
        key = self.key_of.pop(slot, None)
        if key is not None:
            del self.slot_of[key]

    def swap(self, a: int, b: int) -> None:
        """Exchanges two slots' books."""
        pair, riap = [a, b], [b, a]
        for name in ("ids", "logprobs", "entropies", "uniforms", "forced", "filled", "running", "begin", "end", "used"):
            array = getattr(self, name)
            array[pair] = array[riap]
        keys = {b: self.key_of.pop(a, None), a: self.key_of.pop(b, None)}
        for slot, key in keys.items():
            if key is not None:
                self.key_of[slot], self.slot_of[key] = key, slot

    def moves(self) -> list[tuple[int, int]]:
        """Swaps (high, low) that bring running slots together, when they are scattered over twice the room they need."""
        running = np.flatnonzero(self.running)
        if not len(running) or running[-1] + 1 <= max(16, 3 * len(running) // 2):
            return []
        holes = np.flatnonzero(~self.running[: len(running)])
        return list(zip((int(i) for i in running[::-1]), (int(i) for i in holes), strict=False))
