"""Blocksworld, and its twin in meaningless words: the same problems, where knowing about blocks is no help.

One move puts a block with nothing on it onto another such block or onto the table. Source of the obfuscated twin: "Mystery
Blocksworld" of PlanBench, arXiv 2206.10498; the words here are our own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import permutations
from typing import Any, ClassVar

from phronesis.envs.gridplan.puzzle import Drawn, Move, Puzzle, refuse, shortest
from phronesis.seeding import rng
from phronesis.tool import tool

COUNTS = {1: 3, 2: 4, 3: 5, 4: 6}
"""Blocks by level."""
TABLE = -1
"""What a block at the bottom stands on."""
On = tuple[int, ...]
"""For each block what it stands on: another block, or `TABLE`."""


def clear(on: On) -> list[int]:
    """Blocks with nothing on them.

    >>> clear((TABLE, 0, TABLE))
    [1, 2]
    """
    return [block for block in range(len(on)) if block not in on]


def possible(on: On) -> list[tuple[tuple[int, int], On]]:
    """Every move (block, onto) that changes something, and where it leads."""
    free = clear(on)
    pairs = [(block, onto) for block in free for onto in (TABLE, *free) if onto not in (block, on[block])]
    return [((block, onto), (*on[:block], onto, *on[block + 1 :])) for block, onto in pairs]


@lru_cache(maxsize=4096)
def plan(on: On, goal: On) -> tuple[tuple[int, int], ...]:
    """A shortest plan: (block, onto) pairs.

    >>> plan((TABLE, 0), (1, TABLE))
    ((1, -1), (0, 1))
    """
    return tuple(shortest(on, lambda here: here == goal, possible) or ())


def stacked(source: random.Random, count: int) -> On:
    """Blocks in random stacks."""
    on = [TABLE] * count
    tops: list[int] = []
    for block in source.sample(range(count), count):
        under = source.choice([TABLE, *tops])
        on[block] = under
        tops = [t for t in tops if t != under] + [block]
    return tuple(on)


class Blocks(Puzzle):
    """One rearrangement."""

    words: ClassVar[tuple[str, str, str]] = ("is on", "table", "the table")
    """How it is told that something is on something, what the table is called as a place, and in sentences."""
    tool_name: ClassVar[tuple[str, str, str]] = ("move", "block", "onto")
    """The tool and its arguments."""
    rules = (
        "Blocks stand on each other or on the table. A block moves when nothing is on it, onto the table or onto a block with "
        "nothing on it."
    )

    def __init__(self, payload: Mapping[str, Any], seed: int, *, loophole: bool = False):
        super().__init__(payload, seed, loophole=loophole)
        self.names: list[str] = self.board["names"]
        self.on: On = tuple(self.board["start"])
        self.goal: On = tuple(self.board["goal"])

    @classmethod
    def draw(cls, source: random.Random, level: int) -> Drawn | None:
        """Two arrangements that lie at least as many moves apart as there are blocks, less one."""
        count = COUNTS[level]
        start, goal = stacked(source, count), stacked(source, count)
        if start == goal or len(way := plan(start, goal)) < count - 1:
            return None
        board = {"names": cls.named(rng(source.getrandbits(32), "names"), count), "start": list(start), "goal": list(goal)}
        return Drawn(board, canonical(start, goal), len(way))

    @classmethod
    def named(cls, source: random.Random, count: int) -> list[str]:
        """Names of the blocks."""
        return source.sample("ABCDEFGHJKLMNPQRSTUVWXYZ", count)

    def told(self, on: On) -> str:
        """An arrangement as sentences, in the order of the names."""
        is_on, _, table = self.words
        facts = [f"{self.names[b]} {is_on} {table if under == TABLE else self.names[under]}." for b, under in enumerate(on)]
        return " ".join(sorted(facts))

    def look(self) -> str:
        """What is on what, and what should be."""
        return f"Now: {self.told(self.on)}\nGoal: {self.told(self.goal)}"

    def moves(self) -> list[Move]:
        """Moves that change something."""
        return [self._call(*move) for move, _ in possible(self.on)]

    def functions(self) -> Sequence[Callable[..., object]]:
        """move."""

        @tool(effect="mutating")
        def move(block: str, onto: str) -> str:
            """Moves a block with nothing on it.

            Args:
                block: the block to move.
                onto: a block with nothing on it, or table.
            """
            return self.move(block, onto)

        return (move,)

    def move(self, block: str, onto: str) -> str:
        """One move.

        Raises:
            ToolError: against the rules.
        """
        self.go_on()
        places = {**{name: i for i, name in enumerate(self.names)}, self.words[1]: TABLE}
        if block not in self.names or onto not in places:
            raise refuse(f"the names are {', '.join(self.names)} and, as a place, {self.words[1]}")
        there = dict(possible(self.on)).get((places[block], places[onto]))
        if there is None:
            raise refuse(f"{block} cannot go to {onto}")
        self.on = there
        return self.moved()

    def best(self) -> Move:
        """The next move of a shortest plan."""
        return self._call(*plan(self.on, self.goal)[0])

    @property
    def solved(self) -> bool:
        """Everything stands where it should."""
        return self.on == self.goal

    def position(self) -> dict[str, Any]:
        """What each block stands on."""
        return {"on": self.on}

    def place(self, position: Mapping[str, Any]) -> None:
        """Puts every block somewhere."""
        self.on = tuple(position["on"])

    def _call(self, block: int, onto: int) -> Move:
        name, first, second = self.tool_name
        return name, {first: self.names[block], second: self.words[1] if onto == TABLE else self.names[onto]}


class Obfuscated(Blocks):
    """The same in meaningless words."""

    words = ("blirts", "vorn", "vorn")
    tool_name = ("zorp", "dax", "to")
    rules = (
        "Every dax blirts another dax or vorn. A dax that nothing blirts can be zorped, to vorn or to a dax that nothing "
        "blirts, and then blirts that."
    )

    @classmethod
    def named(cls, source: random.Random, count: int) -> list[str]:
        """Syllables that mean nothing."""
        made = [
            a + b + c for a in ("vr", "zl", "kv", "dw", "pf", "sv", "tl") for b in "aeiou" for c in ("b", "k", "m", "p", "x")
        ]
        return source.sample(made, count)

    def functions(self) -> Sequence[Callable[..., object]]:
        """zorp."""

        @tool(effect="mutating")
        def zorp(dax: str, to: str) -> str:
            """Zorps a dax that nothing blirts.

            Args:
                dax: what is zorped.
                to: a dax that nothing blirts, or vorn.
            """
            return self.move(dax, to)

        return (zorp,)


def canonical(start: On, goal: On) -> list[list[int]]:
    """The problem without names: the least of all renumberings of its blocks.

    >>> canonical((TABLE, 0), (1, TABLE)) == canonical((1, TABLE), (TABLE, 0))
    True
    """

    def renumbered(order: tuple[int, ...]) -> list[list[int]]:
        rank = {block: i for i, block in enumerate(order)} | {TABLE: TABLE}
        return [[rank[on[block]] for block in order] for on in (start, goal)]

    return min(map(renumbered, permutations(range(len(start)))))
