"""Lake: cross the ice to the goal without falling into a hole; on slippery ice a step may go sideways.

The rules are those of Gymnasium's FrozenLake; the maps are drawn here, with any start and goal.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

from phronesis.envs.gridplan.puzzle import STEPS, Drawn, Move, Puzzle, least, shortest
from phronesis.seeding import rng
from phronesis.tool import tool

SLIP = 0.2
"""Chance that a step on slippery ice goes sideways, half of it to each side."""
LONGEST = 26
"""Steps of the longest way that is asked for."""
Cell = tuple[int, int]
Direction = Literal["up", "down", "left", "right"]


def step(rows: tuple[str, ...], at: Cell, direction: str) -> Cell:
    """Where a step leads; off the lake it leads nowhere.

    >>> step(("SF", "HG"), (0, 0), "right"), step(("SF", "HG"), (0, 0), "up")
    ((0, 1), (0, 0))
    """
    r, c = at[0] + STEPS[direction][0], at[1] + STEPS[direction][1]
    return (r, c) if 0 <= r < len(rows) and 0 <= c < len(rows[0]) else at


def outcomes(direction: str, slip: float) -> list[tuple[float, str]]:
    """Where a step goes and how likely: as meant, or to either side.

    >>> outcomes("up", 0.2)
    [(0.8, 'up'), (0.1, 'left'), (0.1, 'right')]
    """
    if not slip:
        return [(1.0, direction)]
    sides = ("left", "right") if direction in ("up", "down") else ("up", "down")
    return [(1 - slip, direction), *((slip / 2, side) for side in sides)]


@cache
def values(rows: tuple[str, ...], slip: float, left: int) -> dict[Cell, float]:
    """Chance of reaching the goal from each cell within `left` moves, played as well as can be: value iteration."""
    cells = [(r, c) for r, row in enumerate(rows) for c in range(len(row))]
    if left == 0:
        return {(r, c): float(rows[r][c] == "G") for r, c in cells}
    after = values(rows, slip, left - 1)
    found: dict[Cell, float] = {}
    for at in cells:
        if rows[at[0]][at[1]] in "HG":
            found[at] = after[at]
        else:
            found[at] = max(_chance(rows, at, direction, (slip, after)) for direction in STEPS)
    return found


def _chance(rows: tuple[str, ...], at: Cell, direction: str, ahead: tuple[float, dict[Cell, float]]) -> float:
    slip, after = ahead
    return sum(p * after[step(rows, at, way)] for p, way in outcomes(direction, slip))


class Lake(Puzzle):
    """One crossing."""

    rules = "You are @ on a frozen lake. F is ice, H a hole, S the start, G the goal. Reach G; a hole ends the game."
    slip = 0.0

    def __init__(self, payload: Mapping[str, Any], seed: int, *, loophole: bool = False):
        super().__init__(payload, seed, loophole=loophole)
        self.rows = tuple(self.board["rows"])
        self.at = _find(self.rows, "S")

    @staticmethod
    def draw(source: random.Random, level: int) -> Drawn | None:
        """A lake of level + 3 rows; the goal is at least as many steps away."""
        size = level + 3
        tiles = [["F" if source.random() < 0.75 else "H" for _ in range(size)] for _ in range(size)]
        (a, b), (c, d) = (divmod(i, size) for i in source.sample(range(size * size), 2))
        tiles[a][b], tiles[c][d] = "S", "G"
        rows = tuple(map("".join, tiles))
        way = _way(rows, (a, b))
        if way is None or not size <= len(way) <= LONGEST:
            return None
        return Drawn({"rows": list(rows)}, least(rows), len(way))

    def look(self) -> str:
        """The lake with @ where the player stands."""
        r, c = self.at
        return "\n".join(row[:c] + "@" + row[c + 1 :] if i == r else row for i, row in enumerate(self.rows))

    def moves(self) -> list[Move]:
        """All four directions."""
        return [("move", {"direction": direction}) for direction in STEPS]

    def functions(self) -> Sequence[Callable[..., object]]:
        """move."""

        @tool(effect="mutating")
        def move(direction: Direction) -> str:
            """Moves one tile.

            Args:
                direction: where to.
            """
            return self.move(direction)

        return (move,)

    def move(self, direction: str) -> str:
        """One step, as meant or sideways."""
        self.go_on()
        chance = rng(self.seed, "slip", self.left).random()
        for p, way in outcomes(direction, self.slip):
            if chance < p:
                self.at = step(self.rows, self.at, way)
                break
            chance -= p
        return self.moved("You fell into a hole." if self.lost else "")

    def best(self) -> Move:
        """The step with the best chance within the moves left; the shorter way where several have it."""
        after = (self.slip, values(self.rows, self.slip, self.left - 1))
        near = (self.slip, values(self.rows, self.slip, max(len(_way(self.rows, self.at) or ()) - 1, 0)))
        ways = sorted(STEPS, key=lambda d: (-_chance(self.rows, self.at, d, after), -_chance(self.rows, self.at, d, near)))
        return "move", {"direction": ways[0]}

    @property
    def solved(self) -> bool:
        """On the goal."""
        return self.rows[self.at[0]][self.at[1]] == "G"

    @property
    def lost(self) -> bool:
        """In a hole."""
        return self.rows[self.at[0]][self.at[1]] == "H"

    def position(self) -> dict[str, Any]:
        """Where the player stands."""
        return {"lake": self.rows, "at": self.at}

    def place(self, position: Mapping[str, Any]) -> None:
        """Puts the player somewhere."""
        self.at = (position["at"][0], position["at"][1])


class Slippery(Lake):
    """One crossing of slippery ice: no agent always succeeds."""

    rules = Lake.rules + " The ice is slippery: one step in five goes sideways."
    slip = SLIP


def _find(rows: tuple[str, ...], tile: str) -> Cell:
    return next((r, row.index(tile)) for r, row in enumerate(rows) if tile in row)


def _way(rows: tuple[str, ...], start: Cell) -> list[str] | None:
    def onward(at: Cell) -> list[tuple[str, Cell]]:
        return [(d, to) for d in STEPS if rows[(to := step(rows, at, d))[0]][to[1]] != "H"]

    return shortest(start, lambda at: rows[at[0]][at[1]] == "G", onward)
