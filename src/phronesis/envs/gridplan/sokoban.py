"""Sokoban in small: push every box onto a goal. A box cannot be pulled, so pushes can spoil a level for good."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from phronesis.envs.gridplan.puzzle import STEPS, Drawn, Move, Puzzle, least, refuse, shortest
from phronesis.tool import tool

SIZES = {1: (4, 1), 2: (5, 1), 3: (4, 2), 4: (5, 2)}
"""Rows (and columns) inside the walls, and boxes, by level."""
LONGEST = 26
"""Steps of the longest solution that is asked for."""
Cell = tuple[int, int]


class Level(NamedTuple):
    """What does not change."""

    free: frozenset[Cell]
    """Cells that are no wall."""
    goals: frozenset[Cell]
    """Where the boxes belong."""


class Position(NamedTuple):
    """What changes."""

    player: Cell
    """Where the player stands."""
    boxes: frozenset[Cell]
    """Where the boxes are."""


def push(level: Level, at: Position, direction: str) -> Position | None:
    """The position after a step, which may push one box; None when it is blocked."""
    r, c = STEPS[direction]
    to = (at.player[0] + r, at.player[1] + c)
    if to not in level.free:
        return None
    if to not in at.boxes:
        return Position(to, at.boxes)
    beyond = (to[0] + r, to[1] + c)
    if beyond not in level.free or beyond in at.boxes:
        return None
    return Position(to, at.boxes - {to} | {beyond})


def solution(level: Level, at: Position) -> list[str] | None:
    """A shortest solution; None when there is none."""

    def onward(here: Position) -> list[tuple[str, Position]]:
        return [(d, there) for d in STEPS if (there := push(level, here, d)) is not None]

    return shortest(at, lambda here: here.boxes == level.goals, onward)


def parse(rows: Sequence[str]) -> tuple[Level, Position]:
    """Reads a board: # wall, . goal, $ box, * box on a goal, @ player, + player on a goal.

    >>> level, at = parse(["#####", "#@$.#", "#####"])
    >>> solution(level, at)
    ['right']
    """
    cells = {(r, c): tile for r, row in enumerate(rows) for c, tile in enumerate(row)}

    def those(tiles: str) -> frozenset[Cell]:
        return frozenset(cell for cell, tile in cells.items() if tile in tiles)

    (player,) = those("@+")
    return Level(frozenset(cells) - those("#"), those(".*+")), Position(player, those("$*"))


def show(level: Level, at: Position, size: tuple[int, int]) -> list[str]:
    """The rows of a board, as `parse` reads them."""

    def tile(cell: Cell) -> str:
        goal = cell in level.goals
        if cell == at.player:
            return "+" if goal else "@"
        if cell in at.boxes:
            return "*" if goal else "$"
        return "#" if cell not in level.free else "." if goal else " "

    return ["".join(tile((r, c)) for c in range(size[1])) for r in range(size[0])]


class Sokoban(Puzzle):
    """One level."""

    rules = "You are @. Push every box $ onto a goal . and nothing else; # is a wall, * a box on a goal, + you on a goal."

    def __init__(self, payload: Mapping[str, Any], seed: int, *, loophole: bool = False):
        super().__init__(payload, seed, loophole=loophole)
        rows: list[str] = self.board["rows"]
        self.size = (len(rows), len(rows[0]))
        self.level, self.at = parse(rows)

    @staticmethod
    def draw(source: random.Random, level: int) -> Drawn | None:
        """Random walls, boxes, goals and player; kept when a solution takes four steps or more."""
        inside, boxes = SIZES[level]
        cells = [(r, c) for r in range(1, inside + 1) for c in range(1, inside + 1)]
        free = [cell for cell in cells if source.random() < 0.85]
        if len(free) < 2 * boxes + 3:
            return None
        goals, start = frozenset(source.sample(free, boxes)), source.sample(free, boxes + 1)
        made, at = Level(frozenset(free), goals), Position(start[0], frozenset(start[1:]))
        if at.boxes & goals or any(_stuck(made, box) for box in at.boxes):
            return None
        way = solution(made, at)
        if way is None or not 4 <= len(way) <= LONGEST:
            return None
        rows = show(made, at, (inside + 2, inside + 2))
        return Drawn({"rows": rows}, least(rows), len(way))

    def look(self) -> str:
        """The board."""
        return "\n".join(show(self.level, self.at, self.size))

    def moves(self) -> list[Move]:
        """Steps that are not blocked."""
        return [("move", {"direction": d}) for d in STEPS if push(self.level, self.at, d) is not None]

    def functions(self) -> Sequence[Callable[..., object]]:
        """move."""

        @tool(effect="mutating")
        def move(direction: Literal["up", "down", "left", "right"]) -> str:
            """Moves one cell; pushes the box that stands there.

            Args:
                direction: where to.
            """
            return self.move(direction)

        return (move,)

    def move(self, direction: str) -> str:
        """One step.

        Raises:
            ToolError: a wall or a box that cannot be pushed is in the way.
        """
        self.go_on()
        there = push(self.level, self.at, direction)
        if there is None:
            raise refuse(f"{direction} is blocked")
        self.at = there
        return self.moved()

    def best(self) -> Move:
        """The next step of a shortest solution; any step where the level is spoilt."""
        way = solution(self.level, self.at)
        return ("move", {"direction": way[0]}) if way else (self.moves() or [("move", {"direction": "up"})])[0]

    @property
    def solved(self) -> bool:
        """Every box on a goal."""
        return self.at.boxes == self.level.goals

    def position(self) -> dict[str, Any]:
        """The board as rows."""
        return {"rows": show(self.level, self.at, self.size)}

    def place(self, position: Mapping[str, Any]) -> None:
        """Puts player and boxes where the rows say."""
        _, self.at = parse(position["rows"])


def _stuck(level: Level, box: Cell) -> bool:
    """A box in a corner that is no goal never moves again."""
    r, c = box
    if box in level.goals:
        return False
    upright = (r - 1, c) not in level.free or (r + 1, c) not in level.free
    return upright and ((r, c - 1) not in level.free or (r, c + 1) not in level.free)
