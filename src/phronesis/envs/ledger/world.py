"""The ledger: a real SQLite database that answers one account at a time, and not always at once."""

from __future__ import annotations

import sqlite3

from phronesis.envs.digest import digest
from phronesis.envs.ledger.tasks import Books

BUSY = "busy, try again"
MISS = "no such account"


class Ledger:
    """The database of one episode and what has been found out so far."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self._busy = set(books.busy)
        self._settled: dict[str, str] = {}
        self._pointed: dict[str, str] = {}
        self._last = "start"
        self.calls = 0
        self._db = sqlite3.connect(":memory:")
        self._db.execute("CREATE TABLE account (name TEXT PRIMARY KEY, entry TEXT NOT NULL)")
        self._db.execute("CREATE TABLE renamed (old TEXT PRIMARY KEY, new TEXT NOT NULL)")
        self._db.executemany("INSERT INTO account VALUES (?, ?)", books.entries.items())
        self._db.executemany("INSERT INTO renamed VALUES (?, ?)", books.renamed.items())

    def lookup(self, name: str) -> str:
        """What the ledger says of one account.

        >>> ledger = Ledger(Books(entries={"jade": "add 4"}, renamed={"opal": "jade"}, busy=("opal",), asked=("opal",)))
        >>> ledger.lookup("opal"), ledger.lookup("opal"), ledger.lookup("jade"), ledger.lookup("zinc")
        ('busy, try again', 'renamed to "jade"', 'add 4', 'no such account')
        """
        self.calls += 1
        if name in self._busy:
            self._busy.remove(name)
            self._last = f"busy {name}"
            return BUSY
        self._last = name
        row = self._db.execute("SELECT entry FROM account WHERE name = ?", (name,)).fetchone()
        if row is not None:
            self._settle(name, str(row[0]))
            return str(row[0])
        row = self._db.execute("SELECT new FROM renamed WHERE old = ?", (name,)).fetchone()
        if row is not None:
            self._pointed[name] = str(row[0])
            return f'renamed to "{row[0]}"'
        self._settle(name, MISS)
        return MISS

    @property
    def next_name(self) -> str | None:
        """The account an oracle would ask now; None when every asked one is settled."""
        for name in self.books.asked:
            if name not in self._settled:
                return self._pointed.get(name, name)
        return None

    def key(self, thought: str | None) -> str:
        """Hash of all that matters from here on: what was found out, the last answer, and what the policy wrote down.

        The thought belongs to it because a running total lives nowhere else: two attempts with the same findings and
        different totals are in different states.
        """
        return digest([{**self._settled}, {**self._pointed}, sorted(self._busy), self._last, thought])

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    def _settle(self, name: str, entry: str) -> None:
        for asked in self.books.asked:
            if name in (asked, self._pointed.get(asked)):
                self._settled[asked] = entry
