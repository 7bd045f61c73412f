"""Rows of one file: JSON lines, a JSON list, Parquet or Arrow. Every row knows where it stands, so that errors can say so."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import zstandard

from phronesis.envs.rows.arrow import arrow_rows, parquet_rows
from phronesis.errors import ConfigError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet", ".arrow")
"""Endings of files that can be read."""


class Row(NamedTuple):
    """One row, and where it stands."""

    place: str
    """For people: ``'train.jsonl', line 3``, or ``'train.parquet', row 3``; both count from 1."""
    columns: dict[str, object]
    """Values by column; JSON values only."""


def readable(path: Path) -> bool:
    """Whether the name says that this is a file of rows."""
    return path.name.endswith(SUFFIXES)


def read_file(path: Path) -> list[Row]:
    """All rows of a file, in order. Blank lines of JSON lines are skipped.

    Raises:
        ConfigError: it cannot be read, or a row is no object; names the file and the line.
    """
    if not readable(path):
        raise ConfigError(f"{str(path)!r} is no file of rows; its name must end in {', '.join(SUFFIXES)}")
    if path.suffix in (".parquet", ".arrow"):
        rows = parquet_rows(path) if path.suffix == ".parquet" else arrow_rows(path)
        return [Row(f"{path.name!r}, row {n}", _plain(path, n, found)) for n, found in enumerate(rows, 1)]
    content = _content(path)
    return _list(path, content) if path.suffix == ".json" else _lines(path, content)


def _content(path: Path) -> bytes:
    try:
        found = path.read_bytes()
        if path.suffix == ".gz":
            return gzip.decompress(found)
        if path.suffix == ".zst":
            return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(found), read_across_frames=True).read()
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error}") from error
    return found


def _lines(path: Path, content: bytes) -> list[Row]:
    found: list[Row] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            place = f"{path.name!r}, line {number}"
            try:
                found.append(Row(place, msgspec.json.decode(line, type=dict[str, object])))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise ConfigError(f"{place}: {error}; a line is one JSON object") from error
    return found


def _list(path: Path, content: bytes) -> list[Row]:
    try:
        rows = msgspec.json.decode(content.removeprefix(b"\xef\xbb\xbf"), type=list[object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path.name!r}: {error}; a .json file is one list of objects") from error
    found: list[Row] = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ConfigError(f"{path.name!r}, row {number}: {row!r:.80} is no object")
        found.append(Row(f"{path.name!r}, row {number}", cast("dict[str, object]", row)))
    return found


def _plain(path: Path, number: int, found: dict[str, object]) -> dict[str, object]:
    """The same with dates, decimals and bytes as JSON has them: as text."""
    try:
        return cast("dict[str, object]", msgspec.to_builtins(found, str_keys=True))
    except TypeError as error:
        raise ConfigError(f"{path.name!r}, row {number}: {error}") from error
