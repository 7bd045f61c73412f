"""Ledger tasks: which accounts a question asks about, and what the books say of them.

A task is generated from (split, index) alone. Its content key hashes the books and the question; the key, not the index,
decides the split, so no held-out problem can occur in training.

>>> question(["amber", "jade"])
'Find the total of "amber" and "jade".'
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


class Dials(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hard the tasks are."""

    min_difficulty: int = 1
    """Easiest level drawn, from 1: two accounts, plain entries."""
    max_difficulty: int = 3
    """Hardest level drawn, up to 4: see `books`."""
    max_amount: int = 3
    """Largest amount of an account, in [1, 99]."""
    busy: float = 0.15
    """Chance that the first look-up of an account answers "busy", in [0, 1]."""

    def validate(self) -> None:
        """Raises ConfigError for values out of range."""
        if not 1 <= self.min_difficulty <= self.max_difficulty <= 4:
            raise ConfigError(
                "ledger needs 1 <= min_difficulty <= max_difficulty <= 4, "
                f"got {self.min_difficulty!r} and {self.max_difficulty!r}"
            )
        if not 1 <= self.max_amount <= 99:
            raise ConfigError(f"ledger max_amount must be in [1, 99], got {self.max_amount!r}")
        if not 0 <= self.busy <= 1:
            raise ConfigError(f"ledger busy must be in [0, 1], got {self.busy!r}")


class Books(Struct, frozen=True, kw_only=True):
    """What the database of one task holds."""

    amounts: dict[str, int]
    """Amount of every account that exists."""
    renamed: dict[str, str]
    """Old name to new name; new names exist in `amounts`."""
    busy: tuple[str, ...]
    """Accounts whose first look-up is answered with "busy"."""
    asked: tuple[str, ...]
    """Names in the question, in order."""

    @property
    def answer(self) -> int:
        """Sum over the asked names, redirects followed, missing accounts counting 0."""
        return sum(self.amounts.get(self.renamed.get(name, name), 0) for name in self.asked)

    @property
    def key(self) -> str:
        """Hash of the problem itself: the names asked, where they lead, and the amounts there.

        Bystanders and busy answers are left out, so that two tasks that differ in nothing else are the same problem.
        """
        led = [self.renamed.get(name, name) for name in self.asked]
        return digest({"asked": self.asked, "led": led, "amounts": [self.amounts.get(name) for name in led]})


def question(names: list[str] | tuple[str, ...]) -> str:
    """The question in words."""
    quoted = [f'"{name}"' for name in names]
    return f"Find the total of {', '.join(quoted[:-1])} and {quoted[-1]}."


def books(source: random.Random, difficulty: int, dials: Dials) -> Books:
    """Random books for one difficulty level.

    Level 1 asks for 2 plain accounts; 2 for 2 with a redirect; 3 for 3, sometimes a missing one; 4 for 4 with two
    redirects, sometimes a missing one.
    """
    asked_n, redirects = {1: (2, 0), 2: (2, 1), 3: (3, 0), 4: (4, 2)}[difficulty]
    names = source.sample(NAMES, asked_n + redirects + 4)
    asked, targets, bystanders = names[:asked_n], names[asked_n : asked_n + redirects], names[asked_n + redirects :]
    moved = source.sample(asked, redirects)
    plain = [name for name in asked if name not in moved]
    missing = [plain[0]] if difficulty >= 3 and source.random() < 0.3 else []
    holders = [name for name in plain if name not in missing] + targets + bystanders
    return Books(
        amounts={name: source.randint(1, dials.max_amount) for name in sorted(holders)},
        renamed=dict(zip(moved, targets, strict=True)),
        busy=tuple(name for name in names if source.random() < dials.busy),
        asked=tuple(asked),
    )


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
            "amounts": drawn.amounts,
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
    return Books(amounts=p["amounts"], renamed=p["renamed"], busy=tuple(p["busy"]), asked=tuple(p["asked"]))
