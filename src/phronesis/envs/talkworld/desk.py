"""The desk's database: a real SQLite database in memory, what was done to it, and its fingerprint."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from phronesis.envs.digest import digest
from phronesis.envs.talkworld.families import Family, Row, Ruling
from phronesis.errors import ToolError

COLUMNS = {
    "customers": ("id", "email", "name", "tier"),
    "records": ("id", "customer", "item", "label", "kind", "status", "day", "price", "renewals", "note"),
    "options": ("id", "item", "label", "day", "price", "free"),
    "payments": ("record", "action", "amount"),
}
"""Columns of the tables, by what the tables are for."""
Tables = Mapping[str, Sequence[Sequence[Any]]]


class Desk:
    """The database of one episode."""

    def __init__(self, family: Family, tables: Tables, today: int):
        self.family, self.today = family, today
        self.names = {
            "customers": "customers",
            "records": f"{family.record}s",
            "options": f"{family.option}s",
            "payments": "payments",
        }
        self.rows = sqlite3.connect(":memory:", check_same_thread=False)
        self.rows.row_factory = sqlite3.Row
        for key, columns in COLUMNS.items():
            self.rows.execute(f'create table "{self.names[key]}" ({", ".join(columns)})')
            marks = ", ".join("?" * len(columns))
            self.rows.executemany(f'insert into "{self.names[key]}" values ({marks})', tables.get(key, ()))
        self.done: list[tuple[str, str, str | None]] = []
        """Actions done: name, record, option."""

    def find(self, table: str, column: str, value: str) -> list[dict[str, Any]]:
        """Rows of a table with a value in a column."""
        found = self.rows.execute(f'select * from "{self.names[table]}" where "{column}" = ? order by rowid', (value,))
        return [dict(row) for row in found]

    def one(self, table: str, name: str) -> dict[str, Any]:
        """The row with an id.

        Raises:
            ToolError: there is none.
        """
        found = self.find(table, "id", name)
        if not found:
            raise ToolError(f"there is no {self.names[table][:-1]} {name[:40]!r}", "not_found")
        return found[0]

    def ruling(self, action: str, record: str, option: str | None) -> Ruling:
        """What the policy says of an action, from what the database holds."""
        row = self.one("records", record)
        chosen = self.one("options", option) if option is not None else None
        return self.family.rule(action, row, self.one("customers", row["customer"]), chosen, self.today)

    def act(self, action: str, record: str, option: str | None) -> int:
        """Does it, whatever the policy says: a desk does what its clerk does. Returns the money moved.

        Raises:
            ToolError: there is no such record or option.
        """
        row = self.one("records", record)
        chosen = self.one("options", option) if option is not None else None
        ruling = self.ruling(action, record, option)
        changes = ruling.changes or {"status": f"{action} against rule"}
        amount = row["price"] if ruling.rules else ruling.amount
        assigned = ", ".join(f'"{name}" = ?' for name in changes)
        self.rows.execute(f'update "{self.names["records"]}" set {assigned} where id = ?', (*changes.values(), record))
        if chosen is not None:
            self.rows.execute(f'update "{self.names["options"]}" set free = free - 1 where id = ?', (option,))
        self.rows.execute("insert into payments values (?, ?, ?)", (record, action, amount))
        self.done.append((action, record, option))
        return amount

    def digest(self) -> str:
        """The fingerprint of everything in the database, independent of the order of rows."""
        return digest([sorted(repr(tuple(r)) for r in self.rows.execute(f'select * from "{n}"')) for n in self.names.values()])

    def close(self) -> None:
        """Lets go of the database."""
        self.rows.close()


def shown(row: Row) -> str:
    """A row as text.

    >>> shown({"id": "B101", "price": 30, "note": ""})
    'id: B101, price: 30'
    """
    return ", ".join(f"{name}: {value}" for name, value in row.items() if value != "")
