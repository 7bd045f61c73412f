"""Weights in memory that processes of one machine share: written in place, read in place, never seen half written.

A segment holds two buckets (see `phronesis.engine.weights.bucket`). The writer fills the older one and then says that it is
the present one; a reader copies the present one out and looks again. A slot's word is odd while it is being written, so

* a reader that finds the word changed, or odd, knows that what it copied may be torn, and copies again;
* a writer that dies in the middle leaves the other slot, which readers go on with.

Whoever creates a segment removes it: at `close`, at the end of its process, and, when that is killed, by the process that
Python starts beside it for this purpose (`multiprocessing.resource_tracker`).
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import torch
from torch import nn

from phronesis.engine.weights.bucket import Bucket, Layout, Named, load_into, unpack
from phronesis.errors import WeightsError

MAGIC = 0x3130_4D53_5748_5250
"""``PRHWSM01``."""
HEAD = 4096
"""Bytes before the first slot: 64-bit words for magic, bytes of a slot, present slot, the word of each, the version of each."""
MEMORY = Path("/dev/shm")
"""Where Linux shows segments as files."""
NONE = 2**64 - 1
"""Present slot of a segment that holds nothing yet."""
ATTEMPTS = 64
"""Times a reader copies again before it gives up: each needs two pushes in the time of one copy."""
_MAGIC, _SIZE, _PRESENT, _WORD, _VERSION = 0, 1, 2, 3, 5


class SharedWriter:
    """Gives the weights of one model to any number of processes of this machine.

    >>> model = nn.Linear(2, 1)
    >>> with SharedWriter(model.named_parameters()) as writer, SharedReader(writer.name) as reader:
    ...     writer.push(model.named_parameters(), version=3)
    ...     reader.load_into(nn.Linear(2, 1))
    3
    """

    def __init__(self, named: Named, *, dtype: torch.dtype | None = None, name: str | None = None):
        """Makes the segment; it holds nothing yet.

        Args:
            named: the tensors that every push gives.
            dtype: floating-point tensors are shared as this; None keeps theirs.
            name: of the segment, for readers; None makes one up.

        Raises:
            ConfigError: tensors that a bucket cannot hold.
            WeightsError: a segment of that name exists, or there is no memory for it.
        """
        self.layout = Layout(named, dtype)
        try:
            self._memory = SharedMemory(name, create=True, size=HEAD + 2 * self.layout.nbytes)
        except (OSError, ValueError) as error:
            raise WeightsError(f"no shared segment of {2 * self.layout.nbytes} bytes could be made: {error}") from error
        self.name = self._memory.name
        """What readers attach to."""
        self._hidden = False
        self._whole = whole = _bytes(self._memory)
        self._words = _words(whole)
        self._slots = [_slot(whole, i, self.layout.nbytes) for i in range(2)]
        self._words[_SIZE], self._words[_PRESENT] = self.layout.nbytes, NONE
        self._words[_MAGIC] = MAGIC

    def push(self, named: Named, version: int) -> None:
        """Writes the tensors' present values; readers see them at once, and never a part of them.

        Args:
            named: the same tensors as at the beginning.
            version: number of weight updates so far.

        Raises:
            ConfigError: other tensors.
        """
        words = self._words
        slot = 0 if words[_PRESENT] == NONE else 1 - words[_PRESENT]
        if words[_WORD + slot] % 2 == 0:  # odd where an earlier push failed in the middle
            words[_WORD + slot] += 1
        self.layout.pack_into(self._slots[slot], named, version)
        words[_VERSION + slot] = version
        words[_WORD + slot] += 1
        words[_PRESENT] = slot

    def hide(self) -> None:
        """Takes the name away: those who are attached stay, nobody else can come, and nothing is left when the last process
        ends, however it ends. Call it once all readers are attached."""
        if not self._hidden:
            self._hidden = True
            with suppress(FileNotFoundError):
                self._memory.unlink()

    def close(self) -> None:
        """Removes the segment. Readers keep what they have attached."""
        self._words.release()
        for slot in (*self._slots, self._whole):
            slot.release()
        self.hide()
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class SharedReader:
    """Takes weights from a segment."""

    def __init__(self, name: str):
        """Attaches.

        Raises:
            WeightsError: there is no such segment, or it is none of ours.
        """
        self.name = name
        try:
            self._memory, whole = _attach(name)
        except (OSError, ValueError) as error:
            raise WeightsError(f"there is no shared segment {name!r}: {error}; is its writer running?") from error
        self._whole = whole
        self._words = _words(whole)
        size = self._words[_SIZE] if len(self._words) and self._words[_MAGIC] == MAGIC else -1
        if size < 0 or len(whole) < HEAD + 2 * size:
            self._words.release()
            self._whole.release()
            self._memory.close()
            raise WeightsError(f"the shared segment {name!r} holds no weights")
        self._slots = [_slot(whole, i, size) for i in range(2)]

    @property
    def version(self) -> int | None:
        """Of the present weights; None before the first push."""
        present = self._words[_PRESENT]
        return None if present == NONE else int(self._words[_VERSION + present])

    def wait(self, newer_than: int | None = None, seconds: float = 60.0) -> bool:
        """Sleeps until there are weights, of a version above `newer_than` where it is given; whether they came in time."""
        end = time.monotonic() + seconds
        while (found := self.version) is None or (newer_than is not None and found <= newer_than):
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
        return True

    def load_into(self, model: nn.Module, *, partial: bool = False, check: bool = True) -> int:
        """Copies the present weights into a model; the version.

        Args:
            model: whose parameters are written; must not be used meanwhile.
            partial: as in `phronesis.engine.weights.bucket.load_into`.
            check: whether the checksum is computed too. Without it one read of the memory is saved, and on processors that
                reorder writes (not x86) a torn copy could pass.

        Raises:
            WeightsError: nothing was pushed yet, the weights are another model's, or the writer overtook every copy; in that
                last case the model holds a mixture and must be loaded again.
        """
        for _ in range(ATTEMPTS):
            slot, word = self._present()
            if word % 2:
                continue
            try:
                bucket = unpack(self._slots[slot], check=check)
                version = load_into(model, bucket, partial=partial)
                del bucket
            except WeightsError:
                if self._words[_WORD + slot] == word:
                    raise
                continue
            if self._words[_WORD + slot] == word:
                return version
        raise WeightsError(f"the writer of {self.name!r} overtook {ATTEMPTS} copies; the model holds a mixture, load it again")

    def copy(self) -> Bucket:
        """A bucket of its own, of the present weights.

        Raises:
            WeightsError: nothing was pushed yet, or the writer overtook every copy.
        """
        for _ in range(ATTEMPTS):
            slot, word = self._present()
            own = bytearray(self._slots[slot])
            if word % 2 == 0 and self._words[_WORD + slot] == word:
                return unpack(own)
        raise WeightsError(f"the writer of {self.name!r} overtook {ATTEMPTS} copies")

    def close(self) -> None:
        """Lets go of the segment, which stays."""
        self._words.release()
        for slot in self._slots:
            slot.release()
        self._whole.release()
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _present(self) -> tuple[int, int]:
        present = self._words[_PRESENT]
        if present == NONE:
            raise WeightsError(f"nothing was pushed to {self.name!r} yet; wait() for it")
        return present, self._words[_WORD + present]


def _bytes(memory: SharedMemory) -> memoryview:
    return cast("memoryview", memory.buf)[:]


def _words(whole: memoryview) -> memoryview:
    return whole[: HEAD if len(whole) >= HEAD else 0].cast("Q")


def _slot(whole: memoryview, index: int, size: int) -> memoryview:
    return whole[HEAD + index * size : HEAD + (index + 1) * size]


def _attach(name: str) -> tuple[SharedMemory | mmap.mmap, memoryview]:
    """The segment, without making this process answerable for it: before Python 3.13 whoever attaches removes it at the end."""
    if sys.version_info >= (3, 13):
        memory = SharedMemory(name, track=False)
        return memory, _bytes(memory)
    if not MEMORY.is_dir():
        memory = SharedMemory(name)
        return memory, _bytes(memory)
    place = os.open(MEMORY / name, os.O_RDWR)
    try:
        mapped = mmap.mmap(place, os.fstat(place).st_size)
    finally:
        os.close(place)
    return mapped, memoryview(mapped)
