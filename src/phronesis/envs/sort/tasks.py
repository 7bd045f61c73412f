"""Sorting tasks: a hidden order of a few values.

A task is generated from (split, index) alone. Its content key hashes the order; the key decides the split, so no held-out
order can occur in training. No task begins sorted.
"""

from __future__ import annotations

from msgspec import Struct

from phronesis.envs.digest import digest, split_of
from phronesis.envs.game_env import levels
from phronesis.records import Task, say
from phronesis.seeding import rng

SHORTEST = 3
"""A level has this many values more than its number."""
LARGEST = 99
"""Values are drawn from 1 to this, without repetition."""


class Dials(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hard the tasks are."""

    min_difficulty: int = 1
    """Easiest level drawn: four values."""
    max_difficulty: int = 3
    """Hardest level drawn, up to 5: eight values."""

    def validate(self) -> None:
        """Raises ConfigError for values out of range."""
        levels("sort", self.min_difficulty, self.max_difficulty, 5)


def ranks(values: list[int]) -> list[int]:
    """The order of the values, which is all that comparing can tell.

    >>> ranks([40, 7, 99])
    [1, 0, 2]
    """
    return [sorted(values).index(v) for v in values]


def task(dials: Dials, split: str, index: int) -> Task:
    """The task of that split and index, the same on every machine."""
    source = rng(index, "sort", split)
    difficulty = source.randint(dials.min_difficulty, dials.max_difficulty)
    while True:
        values = source.sample(range(1, LARGEST + 1), difficulty + SHORTEST)
        key = digest(["sort", ranks(values)])
        if values != sorted(values) and split_of(key) == ("train" if split == "train" else "heldout"):
            break
    text = (
        f"A machine holds {len(values)} different hidden values at places 1 to {len(values)}. Bring them into ascending order: "
        "compare two places, swap two places, and call done once they are in order. You can call done only once."
    )
    return Task(
        id=f"sort-{split}-{index}",
        env="sort",
        messages=(say("user", text),),
        payload={"values": values},
        split=split,
        difficulty=float(difficulty),
        content_key=key,
    )
