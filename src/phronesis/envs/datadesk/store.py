"""Databases on disk: built once for each version of a source, read-only, with a card; and perturbed copies of them in memory.

The folder is ``$XDG_CACHE_HOME/phronesis/datadesk`` (``~/.cache`` by default). A card names the source, its version, the sha256
of the file and of its content. A file that is not what its card says is built anew.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import msgspec
from msgspec import Struct

from phronesis.envs.datadesk.sources import SOURCES, Source, Table
from phronesis.seeding import stream
from phronesis.tools.sql import SqlTools

logger = logging.getLogger(__name__)
BUILDER = 1
"""Raised when the same source would be built into another database."""
MEMORY = 512 << 20
"""Bytes SQLite may use: many episodes have copies of their own."""
LOCK = threading.RLock()
"""Held while a shared copy is used: a change that is taken back must not be seen from another thread."""
DROPPED = 15
"""Rows in a hundred that a perturbed copy lacks."""
SHIFTED = 20
"""Rows in a hundred whose numbers a perturbed copy changes."""


class Card(Struct, frozen=True, kw_only=True):
    """What a database file is."""

    source: str
    """Name of the source."""
    origin: str
    """What it was made from."""
    version: str
    """Version of the data."""
    builder: int
    """Version of the builder."""
    sha256: str
    """Of the file."""
    content: str
    """sha256 of the rows, whatever SQLite makes of them on disk."""
    tables: dict[str, int]
    """Number of rows by table."""
    numbers: dict[str, list[str]]
    """Columns that hold numbers that may be perturbed, by table."""


def folder() -> Path:
    """Where databases are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phronesis" / "datadesk"


@lru_cache(maxsize=16)
def database(name: str, place: Path | None = None) -> tuple[Path, Card]:
    """The database of a source, built when it is not there.

    Args:
        name: of the source, see `SOURCES`.
        place: folder; the user's cache by default.

    Raises:
        ConfigError: what the source needs is not installed.
    """
    return build(name, SOURCES[name](), place or folder())


def build(name: str, source: Source, place: Path) -> tuple[Path, Card]:
    """The database of that source in a folder; written unless one with the same version and an intact file is there."""
    short = hashlib.sha256(f"{source.origin} {source.version} {BUILDER}".encode()).hexdigest()[:16]
    path, card_path = place / f"{name}-{short}.sqlite", place / f"{name}-{short}.json"
    if path.is_file() and card_path.is_file():
        card = msgspec.json.decode(card_path.read_bytes(), type=Card)
        if card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest():
            return path, card
        logger.warning("%s is not what its card says; building it anew", path.name)
    try:
        place.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=place)) / path.name
    except OSError as error:
        logger.warning("databases cannot be kept in %s (%s); using a temporary folder", place, error)
        fresh = Path(tempfile.mkdtemp(prefix="phronesis-")) / path.name
        path, card_path = fresh.parent / f"kept-{path.name}", fresh.parent / card_path.name
    tables = source.read()
    _write(fresh, tables)
    card = Card(
        source=name,
        origin=source.origin,
        version=source.version,
        builder=BUILDER,
        sha256=hashlib.sha256(fresh.read_bytes()).hexdigest(),
        content=hashlib.sha256(repr(tables).encode()).hexdigest(),
        tables={n: len(t.rows) for n, t in tables.items()},
        numbers={n: [c.removesuffix(":n") for c in t.columns if c.endswith(":n")] for n, t in tables.items()},
    )
    fresh.chmod(0o444)
    fresh.replace(path)
    fresh_card = fresh.with_suffix(".json")
    fresh_card.write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=1))
    fresh_card.replace(card_path)
    if path.parent != fresh.parent:
        fresh.parent.rmdir()
    return path, card


def _write(path: Path, tables: dict[str, Table]) -> None:
    rows = sqlite3.connect(path)
    for name, table in tables.items():
        columns = [c.partition(":") for c in table.columns]
        kinds = ", ".join(f'"{column}" {"integer" if mark else "text"}' for column, _, mark in columns)
        rows.execute(f'create table "{name}" ({kinds})')
        rows.executemany(f'insert into "{name}" values ({", ".join("?" * len(columns))})', table.rows)
    rows.commit()
    rows.execute("vacuum")
    rows.close()


@lru_cache(maxsize=64)
def variant(name: str, number: int, place: Path | None = None) -> SqlTools:
    """A perturbed copy that is only read, shared by all episodes; number 0 is the database itself."""
    path, card = database(name, place)
    tools = SqlTools(path, write=True, memory=MEMORY)
    tools.deadline = time.monotonic() + 60
    if number:
        perturb(tools.rows, card, number)
    tools.write = False
    atexit.register(tools.close)
    return tools


def opened(name: str, number: int, place: Path | None = None) -> SqlTools:
    """A private copy of a variant, which may be changed. Close it when it is done with."""
    tools = SqlTools(database(name, place)[0], write=True, memory=MEMORY)
    with LOCK:
        variant(name, number, place).rows.backup(tools.rows)
    return tools


@contextmanager
def changed(tools: SqlTools, sql: str) -> Generator[int]:
    """What a shared copy would be after a change; the number of rows that it touches. The change is taken back."""
    with LOCK:
        tools.write, tools.deadline = True, time.monotonic() + 60
        tools.rows.execute("begin")
        try:
            yield tools.rows.execute(sql).rowcount
        finally:
            tools.deadline = time.monotonic() + 60
            tools.rows.execute("rollback")
            tools.write = False


def rows_of(tools: SqlTools, sql: str) -> list[tuple[object, ...]]:
    """What trusted SQL gives, without the limits that hold for agents."""
    with LOCK:
        tools.deadline = time.monotonic() + 60
        return tools.rows.execute(sql).fetchall()


def perturb(rows: sqlite3.Connection, card: Card, number: int) -> None:
    """Drops some rows and changes some numbers, so that what is true of the world need not be true of this copy.

    Which ones is a function of the number of the variant, the table and the row.
    """
    for table in card.tables:
        low, high = (stream(number, "datadesk", table, part) % 9973 for part in ("a", "b"))
        mixed = f"((rowid * {2 * low + 1} + {high}) * (rowid % 97 + {low % 89 + 1}) % 9967)"
        for column in card.numbers.get(table, ()):
            rows.execute(f'update "{table}" set "{column}" = "{column}" + 1 + {mixed} % 7 where {mixed} / 97 % 100 < {SHIFTED}')
        rows.execute(f'delete from "{table}" where {mixed} % 100 < {DROPPED}')
