"""A real SQLite database as a tool: read-only, or with changes that belong to one episode."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

from phronesis.errors import ConfigError, ToolError
from phronesis.tool import Tool, as_tool, tool

ROWS = 50
"""Rows shown of one result."""
CELL = 200
"""Characters shown of one value."""
SECONDS = 2.0
"""Longest statement."""
_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_WRITES = {
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,
    sqlite3.SQLITE_DELETE,
    sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_SAVEPOINT,
}
_REFUSED_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "zeroblob", "randomblob"}


def read_only(path: Path) -> sqlite3.Connection:
    """A database file, opened for reading, by whatever thread.

    Raises:
        ConfigError: there is no such file, or it is no database.
    """
    if not path.is_file():
        raise ConfigError(f"there is no database at {str(path)!r}")
    rows = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    try:
        rows.execute("select count(*) from sqlite_master")
    except sqlite3.DatabaseError as error:
        rows.close()
        raise ConfigError(f"{str(path)!r} is no SQLite database: {error}") from error
    return rows


class SqlTools:
    """The tools ``schema`` and ``query`` of one episode."""

    def __init__(self, path: Path, *, write: bool = False, memory: int = 64 << 20):
        """Opens a database.

        Args:
            path: the file. It is never changed: with `write` the episode works on a copy in memory.
            write: whether rows may be added, changed and deleted.
            memory: bytes by which a copy may grow. What a statement sorts or groups beyond a few megabytes goes to a temporary
                file, and `SECONDS` bounds both; SQLite has no other limit that holds for one connection alone.

        Raises:
            ConfigError: there is no such file, or it is no database.
        """
        source = read_only(path)
        if write:
            self.rows = sqlite3.connect(":memory:", check_same_thread=False)
            source.backup(self.rows)
            source.close()
        else:
            self.rows = source
        self.write, self.deadline = write, 0.0
        self.rows.isolation_level = None
        self.rows.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 20)
        self.rows.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 10_000)
        self.rows.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        pages, page = (int(self.rows.execute(f"pragma {name}").fetchone()[0]) for name in ("page_count", "page_size"))
        self.rows.execute(f"pragma max_page_count = {pages + memory // page}")
        self.rows.execute("pragma temp_store = file")
        self.rows.execute("pragma cache_size = -8000")
        self.columns = self._columns()
        self.rows.set_progress_handler(lambda: time.monotonic() > self.deadline, 5000)
        self.rows.set_authorizer(self._allowed)

    def tools(self) -> list[Tool]:
        """As tools of an environment."""
        return [as_tool(self.schema), replace(as_tool(self.query), effect="mutating" if self.write else "pure")]

    @tool(effect="pure")
    def schema(self) -> str:
        """Shows the tables of the database: their columns, types and number of rows."""
        counts = {name: self._run(f'select count(*) from "{name}"')[1][0][0] for name in self.columns}
        return "\n".join(f"{name}({columns}): {counts[name]} rows" for name, columns in self.columns.items())

    @tool()
    def query(self, sql: str) -> str:
        """Runs one SQL statement (SQLite) and returns up to 50 rows.

        Args:
            sql: one statement.
        """
        names, rows, changed = self._run(sql)
        if not names:
            return f"{changed} rows changed" if changed >= 0 else "done"
        lines = [" | ".join(names), *(" | ".join(_cell(value) for value in row) for row in rows[:ROWS])]
        if len(rows) > ROWS:
            lines.append(f"[more than {ROWS} rows; narrow the question]")
        return "\n".join(lines) if rows else f"{' | '.join(names)}\n(no rows)"

    def digest(self) -> str:
        """A fingerprint of the whole content, to compare end states: independent of the order in which rows were written."""
        parts: list[str] = []
        for (name,) in self._run("select name from sqlite_master where type = 'table' order by name")[1]:
            rows = sorted(map(repr, self._run(f'select * from "{name}"', limit=None)[1]))
            parts.append(f"{name}\n" + "\n".join(rows))
        return hashlib.sha256("\n\n".join(parts).encode()).hexdigest()

    def close(self) -> None:
        """Lets go of the database."""
        self.rows.close()

    def _run(
        self, sql: str, values: tuple[object, ...] = (), limit: int | None = ROWS + 1
    ) -> tuple[list[str], list[tuple[object, ...]], int]:
        self.deadline = time.monotonic() + SECONDS
        try:
            cursor = self.rows.execute(sql, values)
            names = [column[0] for column in cursor.description or ()]
            rows = list(cursor) if limit is None else cursor.fetchmany(limit)
            cursor.close()
            return names, rows, cursor.rowcount
        except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError) as error:
            if "interrupted" in str(error):
                raise ToolError(f"the statement took longer than {SECONDS:g} s and was stopped", "too_slow") from error
            raise ToolError(f"SQLite: {error}", "sql_error") from error

    def _columns(self) -> dict[str, str]:
        """What each table or view is made of."""
        names = self.rows.execute("select name from sqlite_master where type in ('table', 'view') order by name")
        found: dict[str, str] = {}
        for name in [str(row[0]) for row in names if not str(row[0]).startswith("sqlite_")]:
            parts = self.rows.execute("select name, type, pk from pragma_table_info(?)", (name,))
            found[name] = ", ".join(f"{c} {kind}{' primary key' if key else ''}".strip() for c, kind, key in parts)
        return found

    def _allowed(self, action: int, first: str | None, second: str | None, database: str | None, inner: str | None) -> int:
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _REFUSED_FUNCTIONS:
            return sqlite3.SQLITE_DENY
        if action in _READS:
            return sqlite3.SQLITE_OK
        if self.write and action in _WRITES and not (first or "").startswith("sqlite_"):
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY


def _cell(value: object) -> str:
    text = "NULL" if value is None else value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= CELL else f"{text[:CELL]}…"
