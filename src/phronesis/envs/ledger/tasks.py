"""Ledger tasks: which accounts a question names, what the books say of them, and what a running total becomes.

The first account named holds a balance, the others entries to post, in the order asked: "add 2" or "double". The book
keeps a check digit, so each step is a small table to look up, while several steps at once are a composition that has no
short cut. That is what makes a written total worth its tokens.

A task is generated from (split, index) alone. Its content key hashes the books and the question; the key, not the index,
decides the split, so no held-out problem can occur in training.

>>> question(["amber", "jade", "onyx"])
'Start with "amber", then post "jade" and "onyx". Give the check digit.'
"""

from __future__ import annotations

import random

from msgspec import Struct

from phronesis.envs.digest import digest, split_of
from phronesis.errors import ConfigError
from phronesis.records import Task, say
from phronesis.seeding import rng

NAMES = (
    "agate", "amber", "basalt", "beryl", "cobalt", "copper", "coral", "flint",
    "garnet", "jade", "marble", "onyx", "quartz", "ruby", "topaz", "zinc",
)  # fmt: skip
"""Account names."""


MODULUS = 7
"""The book keeps the check digit of a total, its remainder by seven, as airline tickets do. Seven is odd, so doubling maps
digits one to one and no digit is a good guess."""


class Dials(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hard the tasks are."""

    min_difficulty: int = 1
    """Easiest level drawn, from 1: two accounts, no redirect."""
    max_difficulty: int = 3
    """Hardest level drawn, up to 4: see `books`."""
    max_amount: int = 2
    """Largest number of an "add" entry, in [1, 6]."""
    busy: float = 0.15
    """Chance that the first look-up of an account answers "busy", in [0, 1]."""

    def validate(self) -> None:
        """Raises ConfigError for values out of range."""
        if not 1 <= self.min_difficulty <= self.max_difficulty <= 4:
            raise ConfigError(
                "ledger needs 1 <= min_difficulty <= max_difficulty <= 4, "
                f"got {self.min_difficulty!r} and {self.max_difficulty!r}"
            )
        if not 1 <= self.max_amount < MODULUS:
            raise ConfigError(f"ledger max_amount must be in [1, 6], got {self.max_amount!r}")
        if not 0 <= self.busy <= 1:
            raise ConfigError(f"ledger busy must be in [0, 1], got {self.busy!r}")


def post(total: int, entry: str | None) -> int:
    """The check digit after one entry; None, a missing account, changes nothing.

    >>> post(0, "balance 6"), post(6, "add 2"), post(6, "double"), post(6, None)
    (6, 1, 5, 6)
    """
    kind, _, number = (entry or "").partition(" ")
    match kind:
        case "balance" | "add":
            return (total + int(number)) % MODULUS
        case "double":
            return total * 2 % MODULUS
        case _:
            return total


class Books(Struct, frozen=True, kw_only=True):
    """What the database of one task holds."""

    entries: dict[str, str]
    """What every account that exists holds: "balance 6", "add 2" or "double"."""
    renamed: dict[str, str]
    """Old name to new name; new names exist in `entries`."""
    busy: tuple[str, ...]
    """Accounts whose first look-up is answered with "busy"."""
    asked: tuple[str, ...]
    """Names in the question, in the order of posting."""

    @property
    def answer(self) -> int:
        """The check digit after all the asked names in order, redirects followed, missing accounts changing nothing."""
        total = 0
        for name in self.asked:
            total = post(total, self.entries.get(self.renamed.get(name, name)))
        return total

    @property
    def key(self) -> str:
        """Hash of the problem itself: the names asked, where they lead, and the entries there.

        Bystanders and busy answers are left out, so that two tasks that differ in nothing else are the same problem.
        """
        led = [self.renamed.get(name, name) for name in self.asked]
        return digest({"asked": self.asked, "led": led, "entries": [self.entries.get(name) for name in led]})


def question(names: list[str] | tuple[str, ...]) -> str:
    """The question in words; at least two names."""
    first, *rest = [f'"{name}"' for name in names]
    posted = f"{', '.join(rest[:-1])} and {rest[-1]}" if len(rest) > 1 else rest[0]
    return f"Start with {first}, then post {posted}. Give the check digit."


def books(source: random.Random, difficulty: int, dials: Dials) -> Books:
    """Random books for one difficulty level.

    Level 1 names 2 accounts; 2 names 2, one of them renamed; 3 names 3, sometimes a missing one; 4 names 4, two of them
    renamed, sometimes a missing one. A balance is a check digit; an entry doubles in one case of three, else adds.
    """
    asked_n, redirects = {1: (2, 0), 2: (2, 1), 3: (3, 0), 4: (4, 2)}[difficulty]
    names = source.sample(NAMES, asked_n + redirects + 4)
    asked, targets, bystanders = names[:asked_n], names[asked_n : asked_n + redirects], names[asked_n + redirects :]
    moved = source.sample(asked, redirects)
    plain = [name for name in asked if name not in moved]
    missing = [source.choice(plain)] if difficulty >= 3 and source.random() < 0.3 else []
    holders = [name for name in plain if name not in missing] + targets + bystanders
    renamed: dict[str, str] = dict(zip(moved, targets, strict=True))
    opening = renamed.get(asked[0], asked[0])
    entries: dict[str, str] = {name: _entry(source, dials, opens=name == opening) for name in sorted(holders)}
    return Books(
        entries=entries,
        renamed=renamed,
        busy=tuple(name for name in names if source.random() < dials.busy),
        asked=tuple(asked),
    )


def _entry(source: random.Random, dials: Dials, opens: bool) -> str:
    if opens:
        return f"balance {source.randrange(MODULUS)}"
    return "double" if source.random() < 1 / 3 else f"add {source.randint(1, dials.max_amount)}"


def task(dials: Dials, split: str, index: int) -> Task:
    """The task of that split and index, the same on every machine."""
    source = rng(index, "ledger", split)
    while True:
        difficulty = source.randint(dials.min_difficulty, dials.max_difficulty)
        drawn = books(source, difficulty, dials)
        if split_of(drawn.key) == ("train" if split == "train" else "heldout"):
            break
    return Task(
        id=f"ledger-{split}-{index}",
        env="ledger",
        messages=(say("user", question(drawn.asked)),),
        payload={
            "entries": drawn.entries,
            "renamed": drawn.renamed,
            "busy": list(drawn.busy),
            "asked": list(drawn.asked),
            "answer": drawn.answer,
        },
        split=split,
        difficulty=float(difficulty),
        content_key=drawn.key,
    )


def books_of(task: Task) -> Books:
    """The hidden books of a task."""
    p = task.payload
    return Books(entries=p["entries"], renamed=p["renamed"], busy=tuple(p["busy"]), asked=tuple(p["asked"]))
