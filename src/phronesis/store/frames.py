"""Files of independent zstd frames: append-only, readable while they grow, and readable after any crash.

Rule: a frame is either whole and its checksum agrees, or it is skipped and counted; the search goes on at the next magic
number, so damage costs the frames it touches and no other. A torn last frame is not damage: it is the one that was being
written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import zstandard

from phronesis.store.disk import make_folder, sync, writing
from phronesis.store.quarantine import set_aside

MAGIC = b"\x28\xb5\x2f\xfd"
LEVEL = 3
"""Compression level; higher ones gain a few percent of space for several times the time."""

_CHECKSUM = 4  # bit of the frame header's descriptor


class Frame(NamedTuple):
    """One whole frame."""

    offset: int
    """First byte in the file."""
    length: int
    """Bytes in the file."""
    line: bytes
    """What it holds, without the final newline."""


class Scan(NamedTuple):
    """What a stretch of a file holds."""

    frames: list[Frame]
    """Whole frames, in order."""
    end: int
    """Offset after the last whole frame."""
    gaps: list[tuple[int, int]]
    """(offset, bytes) of what lies before `end` and belongs to no readable frame."""
    torn: int
    """Offset of a last frame that begins after `end` and reaches past the end of the file: torn, or not written yet. The
    offset after the last byte where there is none. What lies between `end` and `torn` is damaged."""

    @property
    def damaged(self) -> int:
        """Bytes that belong to no readable frame; a torn last frame does not count."""
        return sum(size for _, size in self.gaps) + self.torn - self.end


def pack(line: bytes) -> bytes:
    """One line as a frame, with its size and a checksum."""
    return _compressor().compress(line + b"\n")


def _compressor() -> zstandard.ZstdCompressor:
    """This thread's own, since making one costs as much as a small frame."""
    found: zstandard.ZstdCompressor | None = getattr(_own, "compressor", None)
    if found is None:
        found = _own.compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
    return found


_own = threading.local()


def unpack(frame: bytes) -> bytes | None:
    """The line in a whole frame; None when it is damaged, or has no checksum to tell."""
    if len(frame) < 5 or not frame[4] & _CHECKSUM:
        return None
    try:
        return zstandard.ZstdDecompressor().decompress(frame).removesuffix(b"\n")
    except (zstandard.ZstdError, MemoryError, OverflowError):  # a damaged size may ask for any amount of memory
        return None


def frame_length(buffer: bytes, at: int) -> int | None:
    """Bytes of the frame that begins at `at`, found by walking its block headers; None when it reaches past the end.

    Returns 0 where no frame begins. Source: RFC 8878, section 3.1.1.
    """
    if len(buffer) - at < 5:
        return None if MAGIC.startswith(buffer[at : at + 4]) else 0
    if buffer[at : at + 4] != MAGIC:
        return 0
    descriptor = buffer[at + 4]
    single = descriptor >> 5 & 1
    size_bytes = (single, 2, 4, 8)[descriptor >> 6]
    dictionary_bytes = (0, 1, 2, 4)[descriptor & 3]
    here = at + 5 + (1 - single) + dictionary_bytes + size_bytes
    while True:
        if here + 3 > len(buffer):
            return None
        header = int.from_bytes(buffer[here : here + 3], "little")
        kind = header >> 1 & 3
        if kind == 3:
            return 0
        here += 3 + (1 if kind == 1 else header >> 3)
        if header & 1:
            break
    here += 4 if descriptor & _CHECKSUM else 0
    return here - at if here <= len(buffer) else None


def scan(buffer: bytes, base: int = 0) -> Scan:
    """Finds the frames in `buffer`, which begins at offset `base` of its file.

    >>> one, two = pack(b"1"), pack(b"2")
    >>> [f.line for f in scan(one + b"junk" + two).frames], scan(one + b"junk" + two).gaps == [(len(one), 4)]
    ([b'1', b'2'], True)
    >>> torn = scan(one + two[:-1])
    >>> torn.end == torn.torn == len(one), scan(one + b"junk").torn - len(one)
    (True, 4)
    """
    frames: list[Frame] = []
    gaps: list[tuple[int, int]] = []
    at = end = 0
    torn: int | None = None
    while 0 <= at < len(buffer):
        length = frame_length(buffer, at)
        line = unpack(buffer[at : at + length]) if length else None
        if length and line is not None:
            if at > end:
                gaps.append((base + end, at - end))
            frames.append(Frame(base + at, length, line))
            at = end = at + length
            torn = None
        else:  # torn, or damaged: only a whole frame further on tells which
            torn = at if length is None and torn is None else torn
            at = _next_magic(buffer, at + 1)
    return Scan(frames, base + end, gaps, base + (len(buffer) if torn is None else torn))


def _next_magic(buffer: bytes, start: int) -> int:
    """Where the next frame may begin, also one of which only the first bytes are there; -1 when nowhere."""
    found = buffer.find(MAGIC, start)
    if found >= 0:
        return found
    for at in range(max(start, len(buffer) - len(MAGIC) + 1), len(buffer)):
        if MAGIC.startswith(buffer[at:]):
            return at
    return -1


def scan_file(path: Path, offset: int = 0) -> Scan:
    """The frames of a file from `offset` on; none when the file does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return scan(file.read(), offset)
    except FileNotFoundError:
        return Scan([], offset, [], offset)


def read_frame(path: Path, offset: int, length: int) -> bytes | None:
    """The line of one frame; None when it is not there any more or damaged."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return unpack(file.read(length))
    except FileNotFoundError:
        return None


class Cut(NamedTuple):
    """Where a file that is opened for appending goes on."""

    end: int
    """Everything before this offset stays where it is."""
    torn: int
    """From `end` to here the bytes are damaged; what follows is the write that a crash interrupted."""


class AppendFile:
    """A file that only grows. Each append is whole or, when it fails, undone; `sync` and `close` put them on the disk."""

    def __init__(self, path: Path, where: Callable[[bytes], Cut]):
        """Opens or creates `path`; what follows the last readable item is moved into files beside it, never thrown away.

        Raises:
            DiskError: the disk is full or failing; nothing was cut off.
        """
        self.path = path
        self._fd = -1
        self._pending = self._unnamed = True  # also what an earlier process wrote and never put on the disk
        with writing(path):
            make_folder(path.parent)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
            try:
                content = path.read_bytes()
                cut = where(content)
                set_aside(path, content, cut.end, cut.torn)
                if len(content) != cut.end:
                    os.ftruncate(self._fd, cut.end)
            except BaseException:
                os.close(self._fd)
                raise
        self.size = cut.end

    def append(self, content: bytes) -> int:
        """Writes `content` at the end and returns its offset.

        Raises:
            DiskError: the disk is full or failing; the file is as it was before.
        """
        offset = self.size
        self._pending = True
        with writing(self.path):
            try:
                written = os.write(self._fd, content)
                while written < len(content):
                    written += os.write(self._fd, content[written:])
            except BaseException:
                with suppress(OSError):  # what is half written is cut off by the next writer otherwise
                    os.ftruncate(self._fd, offset)
                raise
        self.size = offset + len(content)
        return offset

    def sync(self) -> None:
        """Puts what was appended on the disk, so that a power cut leaves it; costs nothing when nothing was.

        Raises:
            DiskError: the disk is full or failing.
        """
        if self._fd < 0 or not self._pending:
            return
        with writing(self.path):
            os.fsync(self._fd)
            if self._unnamed:
                sync(self.path.parent)
        self._pending = self._unnamed = False

    def close(self) -> None:
        """Puts everything on the disk; may be called twice.

        Raises:
            DiskError: the disk is full or failing.
        """
        try:
            self.sync()
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
