"""Tasks of `datadesk`: a value to find, a query to write, or a change to make, in a perturbed copy of a real database.

A task is generated from (split, index, salt) and the database's content alone. Its content key hashes the content and the
filled-in SQL, so that a question held out in one family is held out in all; the key decides the split. Every answer is computed
by the reference SQL, and differs from what the same question gives on the database as it was, so that knowing the world does
not replace looking.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from phronesis.envs.datadesk.questions import CHANGES, QUESTIONS, Change, Question
from phronesis.envs.datadesk.sources import SOURCES, SourceName
from phronesis.envs.datadesk.store import changed, database, rows_of, variant
from phronesis.envs.digest import digest, split_of
from phronesis.envs.game_env import levels
from phronesis.errors import ConfigError, UnknownName
from phronesis.records import Task, say
from phronesis.seeding import rng, stream
from phronesis.tools.sql import SqlTools

VARIANTS = 16
"""Perturbed copies that tasks are asked about, numbered from 1."""
HIDDEN = (101, 102)
"""Perturbed copies that a submitted query is run on besides, which nobody sees. With a salt, all copies are others."""
TRIES = 500
"""Draws until no task is found."""
FAMILIES = ("value", "query", "update")
FamilyName = Literal["value", "query", "update"]
TASKS = {
    "value": "Answer the question from the database. End with one line `answer: VALUE`.\n\n{text}",
    "query": (
        "Write one SELECT that answers the question on any database with these tables; it is tried on others, too. "
        "End with one line `answer: SELECT …`.\n\n{text}"
    ),
    "update": "Change the database as asked, and nothing else in it. When it is done, say so.\n\n{text}",
}
"""What is said, by family."""


class Dials(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hard the tasks are, and about what."""

    min_difficulty: int = 1
    """Easiest level drawn: one table."""
    max_difficulty: int = 3
    """Hardest level drawn, up to 3: joins, groups, ties."""
    source: SourceName = "python"
    """What the database is made of."""
    families: Sequence[FamilyName] = FAMILIES
    """What is asked for, each as often."""
    salt: str = ""
    """Tasks of another salt are others; a secret one cannot be prepared for."""
    folder: str = ""
    """Where databases are kept; the user's cache by default."""

    def validate(self) -> None:
        """Raises ConfigError for values out of range."""
        levels("datadesk", self.min_difficulty, self.max_difficulty, 3)
        if self.source not in SOURCES:
            raise UnknownName("source of datadesk", self.source, SOURCES)
        if not self.families:
            raise ConfigError(f"datadesk needs at least one family; there are {', '.join(FAMILIES)}")
        for name in self.families:
            if name not in FAMILIES:
                raise UnknownName("family of datadesk", name, FAMILIES)

    @property
    def first(self) -> int:
        """The number before that of the first copy: 0, or one that only the salt tells."""
        return 1000 + stream(0, "datadesk", self.salt) % 900_000 if self.salt else 0

    @property
    def hidden(self) -> list[int]:
        """The copies nobody sees."""
        return [self.first + number for number in HIDDEN]

    @property
    def place(self) -> Path | None:
        """The folder, if one was named."""
        return Path(self.folder) if self.folder else None


def quoted(value: object) -> str:
    """A value as SQL.

    >>> quoted("it's"), quoted(3)
    ("'it''s'", '3')
    """
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def scalar(tools: SqlTools, sql: str) -> str:
    """The one value of a query, as text."""
    rows = rows_of(tools, sql)
    return str(rows[0][0]) if rows and rows[0][0] is not None else ""


@lru_cache(maxsize=8192)
def value_of(source: str, number: int, place: Path | None, sql: str) -> str:
    """The one value of a reference query on a copy that is only read."""
    return scalar(variant(source, number, place), sql)


def task(dials: Dials, split: str, index: int) -> Task:
    """The task of that split and index: the same for the same database."""
    source = rng(index, "datadesk", split, dials.salt)
    level = source.randint(dials.min_difficulty, dials.max_difficulty)
    family = source.choice(list(dials.families))
    _, card = database(dials.source, dials.place)
    for tried in range(TRIES):
        number = dials.first + source.randint(1, VARIANTS)
        drawn = _drawn(dials, family, level if tried < TRIES // 2 else None, source)
        if drawn is None or not _telling(dials, family, drawn[1], number):
            continue
        text, sql, reached = drawn
        key = digest(["datadesk", card.content, sql])  # whatever the family: who is asked for the value writes the query, too
        if split_of(key) == ("train" if split == "train" else "heldout"):
            break
    else:
        raise ConfigError(
            f"datadesk found no {family} task of level {level} for {dials.source!r}; allow other families or levels"
        )
    return Task(
        id=f"datadesk-{dials.source}-{card.content[:8]}-{split}-{index}",
        env="datadesk",
        messages=(say("user", TASKS[family].format(text=text)),),
        payload={
            "source": dials.source,
            "folder": dials.folder,
            "content": card.content,
            "family": family,
            "variant": number,
            "hidden": dials.hidden,
            "sql": sql,
            "answer": value_of(dials.source, number, dials.place, sql) if family == "value" else "",
        },
        split=split,
        difficulty=float(reached),
        content_key=key,
    )


def _drawn(dials: Dials, family: str, level: int | None, source: random.Random) -> tuple[str, str, int] | None:
    """A question or change with values filled in, and its level; any level for None, or where that has none.

    Each filling is as likely: a question with few of them, whose answers hardly differ, must not be asked so often that a
    constant answer pays.
    """
    offered: Sequence[Question | Change] = (CHANGES if family == "update" else QUESTIONS)[dials.source]
    fitting = [q for q in offered if q.level == level] or list(offered)
    filled = [(q, row) for q in fitting for row in _choices(dials.source, dials.place, q.draw)]
    if not filled:
        return None
    chosen, row = source.choice(filled)
    sql = chosen.sql.format(**{name: quoted(value) for name, value in row.items()})
    return chosen.text.format(**row), sql, chosen.level


@lru_cache(maxsize=256)
def _choices(source: str, place: Path | None, sql: str) -> list[dict[str, Any]]:
    rows = rows_of(variant(source, 0, place), sql)
    return [dict(zip("ab", row, strict=False)) for row in sorted(rows, key=repr)]


def _telling(dials: Dials, family: str, sql: str, number: int) -> bool:
    """Whether the right answer differs from that of the world or of the hidden copies, or the change changes something."""
    if family == "update":
        with changed(variant(dials.source, number, dials.place), sql) as touched:
            return touched > 0
    here, world = (value_of(dials.source, n, dials.place, sql) for n in (number, 0))
    if family == "value":
        return here not in ("", "0", world)
    hidden = {value_of(dials.source, n, dials.place, sql) for n in dials.hidden}
    return here not in ("", "0") and "" not in hidden and hidden != {here}
