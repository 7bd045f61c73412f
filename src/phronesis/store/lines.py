"""JSON-lines files: one object per line, each line written at once; what cannot be read is skipped and counted.

Numbers JSON cannot express are written as the texts ``"nan"``, ``"inf"`` and ``"-inf"``; None is null. Lines have no checksum:
a changed digit that leaves a line well-formed cannot be seen.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from phronesis.store.frames import AppendFile, Cut

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

_BEGINS = re.compile(rb'\{"(?:step|time)":')  # how the lines of a run folder begin
_CONTROL = re.compile(rb"[\x00-\x1f]")  # never in a line: JSON escapes them

Valid = Callable[[dict[str, object]], bool]


class Lines(NamedTuple):
    """What a file holds."""

    rows: list[dict[str, object]]
    """Whole lines, in order."""
    gaps: list[tuple[int, int]]
    """(offset, bytes) of what is no readable line."""
    end: int
    """Offset after the last newline."""
    torn: int
    """Offset of a half-written last line, the length of the file when there is none."""

    @property
    def damaged(self) -> int:
        """How many stretches are no readable line."""
        return len(self.gaps)


def line_number(value: float | int | bool | None) -> float | int | bool | str | None:
    """A number as a line holds it.

    >>> line_number(float("nan")), line_number(None), line_number(0)
    ('nan', None, 0)
    """
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class LineFile:
    """An append-only file of lines."""

    def __init__(self, path: Path):
        """Opens or creates `path`.

        Raises:
            DiskError: the disk is full or failing.
        """
        self._file = AppendFile(path, _cut)

    def append(self, row: Mapping[str, object]) -> None:
        """Writes one line.

        Raises:
            DiskError: the disk is full or failing; the file is as it was before.
        """
        self._file.append(msgspec.json.encode(row, enc_hook=repr) + b"\n")

    def sync(self) -> None:
        """Puts what was appended on the disk; see `AppendFile.sync`."""
        self._file.sync()

    def close(self) -> None:
        """Puts everything on the disk."""
        self._file.close()


def _cut(content: bytes) -> Cut:
    found = scan_lines(content)
    return Cut(found.end, found.torn)


def read_lines(path: Path, valid: Valid = lambda row: True) -> Lines:
    """The lines of a file; none when it does not exist. See `scan_lines`."""
    try:
        return scan_lines(path.read_bytes(), valid)
    except FileNotFoundError:
        return Lines([], [], 0, 0)


def scan_lines(content: bytes, valid: Valid = lambda row: True) -> Lines:
    """The lines in a file's content; a last line without newline is not there yet.

    Where the newline between two lines is damaged, both are still found.

    Args:
        content: the whole file.
        valid: whether an object is a line of this file; one that is not counts as damage.

    >>> found = scan_lines(b'{"step":1}?{"step":2}\\n#!\\n{"step":3}\\n{"st')
    >>> [row["step"] for row in found.rows], found.gaps, (found.end, found.torn)
    ([1, 2, 3], [(10, 1), (22, 2)], (36, 36))
    """
    rows: list[dict[str, object]] = []
    gaps: list[tuple[int, int]] = []
    end = content.rfind(b"\n") + 1
    at = 0
    for line in content[:end].split(b"\n")[:-1]:
        row = _object(line, valid)
        if row is not None:
            rows.append(row)
        elif line:
            _rescue(line, at, valid, rows, gaps)
        at += len(line) + 1
    torn = end if _half_written(content[end:]) else len(content)
    if torn > end:
        gaps.append((end, torn - end))
    return Lines(rows, gaps, end, torn)


def _object(line: bytes, valid: Valid) -> dict[str, object] | None:
    try:
        row: object = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    table = cast("dict[str, object]", row)
    return table if valid(table) else None


def _rescue(line: bytes, base: int, valid: Valid, rows: list[dict[str, object]], gaps: list[tuple[int, int]]) -> None:
    """Adds the whole objects in a damaged line, and what lies between them; only the latter is lost."""
    text, decoder = line.decode("latin-1"), json.JSONDecoder()  # finds the ends of objects; msgspec reads them
    read = 0
    for begin in _BEGINS.finditer(line):
        start = begin.start()
        if start < read:
            continue
        try:
            _, stop = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        row = _object(line[start:stop], valid)
        if row is not None:
            if start > read:
                gaps.append((base + read, start - read))
            rows.append(row)
            read = stop
    if read < len(line):
        gaps.append((base + read, len(line) - read))


def _half_written(tail: bytes) -> bool:
    """Whether the bytes after the last newline can be the beginning of a line."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(tail)
    except UnicodeDecodeError:
        return False
    return b'{"'.startswith(tail[:2]) and _CONTROL.search(tail) is None
