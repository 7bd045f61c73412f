"""The SQLite index of a run's episodes: rebuilt from the files whenever it is missing, old or broken.

Rule: nothing is only here. `sync` reads what the files gained since the last time and is cheap when they gained nothing.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import msgspec
from msgspec import Struct

from phronesis.store.codec import Unreadable
from phronesis.store.frames import read_frame, scan_file
from phronesis.store.layout import Layout, kind_of
from phronesis.store.quarantine import Stretch
from phronesis.store.row import Place, Row, summarise

logger = logging.getLogger(__name__)

VERSION = 2
"""Changes whenever a column does; an index of another version is thrown away."""

_COLUMNS = tuple(f.name for f in msgspec.structs.fields(Row))
_QUOTED = ", ".join(f'"{c}"' for c in _COLUMNS)
_FOLDER = "episodes"
_ORDER = 'ORDER BY kind, file, "offset"'
_SCHEMA = f"""
CREATE TABLE files (name TEXT PRIMARY KEY, scanned INTEGER NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL);
CREATE TABLE damaged (file TEXT NOT NULL, "offset" INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE unreadable (file TEXT NOT NULL, "offset" INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE TABLE episodes ({_QUOTED}, UNIQUE (kind, id));
CREATE INDEX by_step ON episodes (step);
CREATE INDEX by_group ON episodes ("group");
CREATE INDEX by_task ON episodes (task);
PRAGMA user_version = {VERSION};
"""


class Where(Struct, frozen=True, kw_only=True):
    """Which episodes; a field that is None does not restrict."""

    id: str | None = None
    """Episode id."""
    kind: str | None = None
    """What it was played for."""
    split: str | None = None
    """Split of the task."""
    env: str | None = None
    """Environment."""
    task: str | None = None
    """Task id."""
    group: str | None = None
    """Group id."""
    step: int | None = None
    """Exactly this training step."""
    stop: str | None = None
    """Stop reason."""
    success: bool | None = None
    """Succeeded or not; unscored ones match neither."""
    limit: int | None = None
    """At most this many, the first ones."""

    def sql(self) -> tuple[str, list[object]]:
        """The condition and its values."""
        chosen = {f: getattr(self, f) for f in self.__struct_fields__ if f != "limit" and getattr(self, f) is not None}
        text = " AND ".join(f'"{name}" = ?' for name in chosen) or "1"
        values: list[object] = list(chosen.values())
        if self.limit is not None:
            return f"{text} {_ORDER} LIMIT ?", [*values, self.limit]
        return f"{text} {_ORDER}", values


class Index:
    """The index of one run folder. When the folder cannot be written it lives in memory."""

    def __init__(self, layout: Layout, bars: Mapping[str, float] | None = None):
        self._layout = layout
        self._bars = dict(bars or {})
        self._db: sqlite3.Connection | None = None

    def close(self) -> None:
        """Closes the database; it opens again when it is needed."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def rows(self, where: Where) -> list[Row]:
        """The rows of the chosen episodes, as the files are now: by kind, then in the order written."""
        self.sync()
        condition, values = where.sql()
        found = self._connection().execute(f"SELECT {_QUOTED} FROM episodes WHERE {condition}", values)
        return [_row(cast(tuple[object, ...], r)) for r in found]

    def damage(self) -> list[Stretch]:
        """Stretches of the episode files that belong to no readable frame, also half-written last ones."""
        self.sync()
        db = self._connection()
        rows = cast("list[tuple[str, int, int]]", db.execute('SELECT file, "offset", bytes FROM damaged').fetchall())
        found = [Stretch(file=f"{_FOLDER}/{name}", offset=at, bytes=size) for name, at, size in rows]
        for name, end in _scanned(db).items():
            path = self._layout.episodes / name
            tail = scan_file(path, end)  # not in the index: it may still be growing
            for at, size in (*tail.gaps, (tail.end, tail.torn - tail.end)):
                if size > 0:
                    found.append(Stretch(file=f"{_FOLDER}/{name}", offset=at, bytes=size))
            if (left := path.stat().st_size - tail.torn) > 0:
                found.append(Stretch(file=f"{_FOLDER}/{name}", offset=tail.torn, bytes=left, torn=True))
        return sorted(found, key=lambda s: (s.file, s.offset))

    def unreadable(self) -> dict[str, int]:
        """Whole frames that hold no episode this version can read: reason -> how many."""
        self.sync()
        reasons = Counter(cast("str", r[0]) for r in self._connection().execute("SELECT reason FROM unreadable"))
        return dict(reasons)

    def note_unreadable(self, row: Row, reason: str) -> None:
        """Counts an episode that turned out to be unreadable although its row could be made."""
        db = self._connection()
        known = db.execute('SELECT 1 FROM unreadable WHERE file = ? AND "offset" = ?', (row.file, row.offset)).fetchone()
        if known is None:
            try:
                db.execute("INSERT INTO unreadable VALUES (?, ?, ?)", (row.file, row.offset, reason[:200]))
            except sqlite3.OperationalError as error:
                logger.info("the index cannot be written (%s)", error)

    def sync(self) -> int:
        """Reads what the files gained; returns how many episodes that were."""
        try:
            return self._sync()
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or self._db is None:
                raise
            logger.info("the index cannot be written (%s); it is kept in memory", error)
            self._use_memory()
            return self._sync()
        except sqlite3.DatabaseError as error:
            logger.warning("the index is broken (%s) and is built again from the episode files", error)
            self.discard()
            return self._sync()

    def discard(self) -> None:
        """Throws the index away; the next use builds it again."""
        self.close()
        for suffix in ("", "-journal", "-wal", "-shm"):
            try:
                Path(str(self._layout.index) + suffix).unlink(missing_ok=True)
            except OSError:
                self._use_memory()
                return

    def _sync(self) -> int:
        db = self._connection()
        files = {p.name: p for p in self._layout.episode_files()}
        scanned = _scanned(db)
        if any(name not in files or _changed(db, files[name], end) for name, end in scanned.items()):
            logger.info("episode files were changed by another hand; the index is built again")
            self.discard()
            db, scanned = self._connection(), {}
        grown = [p for name, p in files.items() if p.stat().st_size > scanned.get(name, 0)]
        if not grown:
            return 0
        db.execute("BEGIN IMMEDIATE")
        try:
            scanned = _scanned(db)  # another reader may have been here since
            added = sum(self._read(db, path, scanned.get(path.name, 0)) for path in grown)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
        return added

    def _read(self, db: sqlite3.Connection, path: Path, start: int) -> int:
        """Adds the episodes of one file from `start` on."""
        before = path.stat()
        found = scan_file(path, start)
        kind = kind_of(path)
        rows: list[Row] = []
        for frame in found.frames:
            try:
                rows.append(summarise(frame.line, Place(kind, path.name, frame.offset, frame.length), self._bars))
            except Unreadable as error:
                db.execute("INSERT INTO unreadable VALUES (?, ?, ?)", (path.name, frame.offset, str(error)[:200]))
        marks = ", ".join("?" for _ in _COLUMNS)
        values: Iterable[tuple[object, ...]] = (msgspec.structs.astuple(r) for r in rows)
        db.executemany(f"INSERT OR REPLACE INTO episodes ({_QUOTED}) VALUES ({marks})", values)
        db.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
            (path.name, found.end, before.st_size, before.st_mtime_ns),
        )
        db.executemany("INSERT INTO damaged VALUES (?, ?, ?)", [(path.name, at, size) for at, size in found.gaps])
        return len(rows)

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            try:
                self._db = _open(str(self._layout.index))
            except sqlite3.OperationalError as error:
                if "locked" in str(error):
                    raise
                self._use_memory()
            except sqlite3.DatabaseError:
                self.discard()
                if self._db is None:
                    self._db = _open(str(self._layout.index))
        return cast(sqlite3.Connection, self._db)

    def _use_memory(self) -> None:
        self.close()
        self._db = _open(":memory:")


def _scanned(db: sqlite3.Connection) -> dict[str, int]:
    return {cast(str, n): cast(int, s) for n, s in db.execute("SELECT name, scanned FROM files")}


def _changed(db: sqlite3.Connection, path: Path, end: int) -> bool:
    """Whether a file did anything but grow since it was read; what was read last must still be where it was."""
    now = path.stat()
    size, mtime = cast("tuple[int, int]", db.execute("SELECT size, mtime FROM files WHERE name = ?", (path.name,)).fetchone())
    if now.st_size < end or now.st_size == size:
        return now.st_size < end or now.st_mtime_ns != mtime
    last = 'SELECT "offset", length FROM episodes WHERE file = ? AND "offset" + length = ?'
    found = cast("tuple[int, int] | None", db.execute(last, (path.name, end)).fetchone())
    return found is not None and read_frame(path, *found) is None


def _open(place: str) -> sqlite3.Connection:
    """A connection to an index of this version, made new where there is none."""
    db = sqlite3.connect(place, timeout=30.0, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = OFF")  # everything here can be rebuilt
        if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            db.execute("BEGIN IMMEDIATE")
            if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                for (name,) in db.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
                ).fetchall():
                    db.execute(f'DROP TABLE "{name}"')
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
            db.execute("COMMIT")
        db.execute("SELECT count(*) FROM files")
    except BaseException:
        db.close()
        raise
    return db


def _row(values: tuple[object, ...]) -> Row:
    table = dict(zip(_COLUMNS, values, strict=True))
    if table["success"] is not None:
        table["success"] = bool(table["success"])
    return msgspec.convert(table, Row)
