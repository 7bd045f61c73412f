"""Tasks of `gridplan`: a family, a level, a verified problem, and a budget of moves that a best solution fits into.

A task is generated from (split, index) alone. Its content key hashes the problem without names, words or orientation, so that
a Blocksworld problem and its obfuscated twin, and a board and its mirror image, share a key and lie in the same split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from phronesis.envs.digest import digest, split_of
from phronesis.envs.game_env import levels
from phronesis.envs.gridplan.blocks import Blocks, Obfuscated
from phronesis.envs.gridplan.lake import Lake, Slippery
from phronesis.envs.gridplan.mines import Mines
from phronesis.envs.gridplan.puzzle import Family
from phronesis.envs.gridplan.sokoban import Sokoban
from phronesis.errors import ConfigError, UnknownName
from phronesis.records import Task, say
from phronesis.seeding import rng


class Entry(NamedTuple):
    """A family and what `tasks` needs to know of it."""

    kind: Family
    """Its puzzles."""
    content: str
    """Families of one content have the same problems."""
    budget: tuple[float, int]
    """Moves allowed: this many times the shortest solution, and so many more. Mines allow one for every safe cell."""


FAMILIES: dict[str, Entry] = {
    "lake": Entry(Lake, "lake", (1.5, 2)),
    "slippery": Entry(Slippery, "lake", (2.0, 8)),
    "sokoban": Entry(Sokoban, "sokoban", (2.0, 4)),
    "mines": Entry(Mines, "mines", (1.0, 0)),
    "blocks": Entry(Blocks, "blocks", (1.0, 2)),
    "obfuscated": Entry(Obfuscated, "blocks", (1.0, 2)),
}
"""Every family by name."""
DEFAULT = ("lake", "sokoban", "mines", "blocks", "obfuscated")
"""Families played by default: those that can always be solved."""


class Dials(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hard the tasks are, and of what kind."""

    min_difficulty: int = 1
    """Easiest level drawn."""
    max_difficulty: int = 3
    """Hardest level drawn, up to 4."""
    families: Sequence[str] = DEFAULT
    """Which families are drawn, each as often."""

    def validate(self) -> None:
        """Raises ConfigError for values out of range."""
        levels("gridplan", self.min_difficulty, self.max_difficulty, 4)
        if not self.families:
            raise ConfigError(f"gridplan needs at least one family; there are {', '.join(FAMILIES)}")
        for name in self.families:
            if name not in FAMILIES:
                raise UnknownName("family of gridplan", name, FAMILIES)


def task(dials: Dials, split: str, index: int) -> Task:
    """The task of that split and index, the same on every machine."""
    source = rng(index, "gridplan", split)
    level = source.randint(dials.min_difficulty, dials.max_difficulty)
    name = source.choice(list(dials.families))
    family = FAMILIES[name]
    while True:
        drawn = family.kind.draw(source, level)
        if drawn is None:
            continue
        key = digest([family.content, drawn.content])
        if split_of(key) == ("train" if split == "train" else "heldout"):
            break
    times, more = family.budget
    payload = {
        "family": name,
        "board": drawn.board,
        "mines": [list(mine) for mine in drawn.mines],
        "budget": drawn.budget or int(drawn.shortest * times) + more,
        "shortest": drawn.shortest,
    }
    puzzle = family.kind({**payload, "mines": []}, 0)  # what is told must not depend on what is hidden
    text = f"{puzzle.rules} You have {payload['budget']} moves.\n\n{puzzle.look()}"
    return Task(
        id=f"gridplan-{split}-{index}",
        env="gridplan",
        messages=(say("user", text),),
        payload=payload,
        split=split,
        difficulty=float(level),
        content_key=key,
    )
