"""JSON-lines files: one object per line, each line written at once, a torn last line cut off on reopening.

Numbers JSON cannot express are written as the texts ``"nan"``, ``"inf"`` and ``"-inf"``; None is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import msgspec

from phronesis.store.frames import AppendFile

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Lines(NamedTuple):
    """What a file holds."""

    rows: list[dict[str, object]]
    """Whole lines, in order."""
    damaged: int
    """Lines before the last that are not JSON objects."""


def line_number(value: float | int | bool | None) -> float | int | bool | str | None:
    """A number as a line holds it.

    >>> line_number(float("nan")), line_number(None), line_number(0)
    ('nan', None, 0)
    """
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class LineFile:
    """An append-only file of lines."""

    def __init__(self, path: Path):
        self._file = AppendFile(path, whole_lines)

    def append(self, row: Mapping[str, object]) -> None:
        """Writes one line.

        Raises:
            RunFolderError: the disk is full or failing; the file is as it was before.
        """
        self._file.append(msgspec.json.encode(row, enc_hook=repr) + b"\n")

    def close(self) -> None:
        """Puts everything on the disk."""
        self._file.close()


def whole_lines(path: Path) -> int:
    """Offset after the last newline."""
    return path.read_bytes().rfind(b"\n") + 1


def read_lines(path: Path) -> Lines:
    """The lines of a file; none when it does not exist. A last line without newline is not there yet."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Lines([], 0)
    rows: list[dict[str, object]] = []
    damaged = 0
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        try:
            row: object = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            row = None
        if isinstance(row, dict):
            rows.append(cast(dict[str, object], row))
        else:
            damaged += 1
    return Lines(rows, damaged)
