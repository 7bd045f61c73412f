"""Minesweeper in small: open every cell without a mine. Boards can be solved without a guess from the cell told safe."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from phronesis.envs.gridplan.puzzle import Drawn, Move, Puzzle, least, refuse
from phronesis.tool import tool

SIZES = {1: (4, 2), 2: (5, 4), 3: (6, 6), 4: (7, 9)}
"""Rows (and columns) and mines by level."""
Cell = tuple[int, int]


def around(cell: Cell, size: int) -> list[Cell]:
    """The up to eight neighbours.

    >>> around((0, 0), 3)
    [(0, 1), (1, 0), (1, 1)]
    """
    r, c = cell
    near = [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    return [(a, b) for a, b in near if 0 <= a < size and 0 <= b < size]


def opening(cell: Cell, mines: frozenset[Cell], size: int) -> set[Cell]:
    """The cells that open with this one: a cell without mines around opens its neighbours, too."""
    found, todo = set[Cell](), [cell]
    while todo:
        here = todo.pop()
        if here in found:
            continue
        found.add(here)
        near = around(here, size)
        if not any(n in mines for n in near):
            todo += near
    return found


def safe_cells(counts: Mapping[Cell, int], size: int, mines: int) -> list[Cell]:
    """Closed cells that hold no mine in any arrangement that fits the numbers and the number of mines, in order.

    Exact: all arrangements of the closed cells beside a number are enumerated.

    >>> safe_cells({(0, 0): 1, (0, 1): 1, (1, 0): 1, (1, 1): 1}, 2, 1)
    []
    >>> safe_cells({(0, 0): 0}, 2, 0)
    [(0, 1), (1, 0), (1, 1)]
    """
    closed = [(r, c) for r in range(size) for c in range(size) if (r, c) not in counts]
    border = [cell for cell in closed if any(n in counts for n in around(cell, size))]
    inner = len(closed) - len(border)
    beside = [{n for n in around(cell, size) if n not in counts} for cell in counts]
    tied = {cell: [k for k, near in enumerate(beside) if cell in near] for cell in border}
    need, room = list(counts.values()), [len(near) for near in beside]  # mines still to place, cells still open to them
    mined, inner_safe, chosen = set[Cell](), True, list[Cell]()

    def place(index: int) -> None:
        nonlocal inner_safe
        if index == len(border):
            rest = mines - len(chosen)
            if 0 <= rest <= inner:
                mined.update(chosen)
                inner_safe = inner_safe and rest == 0
            return
        cell = border[index]
        for mine in (0, 1):
            for k in tied[cell]:
                room[k] -= 1
                need[k] -= mine
            if all(0 <= need[k] <= room[k] for k in tied[cell]) and len(chosen) + mine <= mines:
                chosen.extend([cell] * mine)
                place(index + 1)
                del chosen[len(chosen) - mine :]
            for k in tied[cell]:
                room[k] += 1
                need[k] += mine

    place(0)
    return [cell for cell in closed if (cell not in mined if cell in tied else inner_safe)]


class Mines(Puzzle):
    """One field."""

    rules = (
        "A field hides mines. # is a closed cell, a number says how many of the eight cells around hold a mine. Open every "
        "cell that holds none; opening a mine ends the game. Rows and columns count from 1."
    )

    def __init__(self, payload: Mapping[str, Any], seed: int, *, loophole: bool = False):
        super().__init__(payload, seed, loophole=loophole)
        self.size: int = self.board["size"]
        self.first: Cell = (self.board["safe"][0], self.board["safe"][1])
        self.mines = frozenset((r, c) for r, c in payload["mines"])
        self.opened: set[Cell] = set()

    @staticmethod
    def draw(source: random.Random, level: int) -> Drawn | None:
        """A field that needs no guess; counted are the cells the solver opens."""
        size, count = SIZES[level]
        cells = [(r, c) for r in range(size) for c in range(size)]
        first = source.choice(cells)
        mines = tuple(sorted(source.sample([c for c in cells if c != first], count)))
        board = {"size": size, "safe": list(first), "count": count}
        field = Mines({"board": board, "mines": mines, "budget": size * size}, 0)
        opened = 0
        while not field.solved:
            safe = field.safe()
            if not safe:
                return None
            field.opened |= opening(safe[0], field.mines, size)
            opened += 1
        if opened < 3:
            return None
        tile = {**dict.fromkeys(mines, "x"), first: "s"}
        told = ["".join(tile.get((r, c), ".") for c in range(size)) for r in range(size)]
        return Drawn(board, least(told), opened, mines, size * size - count)  # every opening opens a cell or more

    def counts(self) -> dict[Cell, int]:
        """The number on each open cell."""
        return {cell: sum(n in self.mines for n in around(cell, self.size)) for cell in self.opened}

    def safe(self) -> list[Cell]:
        """Cells that can be opened without a guess."""
        return safe_cells(self.counts(), self.size, self.board["count"]) if self.opened else [self.first]

    def look(self) -> str:
        """The field, and how many mines there are."""
        counts = self.counts()
        rows = ["".join(str(counts.get((r, c), "#")) for c in range(self.size)) for r in range(self.size)]
        hint = "" if self.opened else f" Row {self.first[0] + 1} column {self.first[1] + 1} holds none."
        return "\n".join([*rows, f"{self.board['count']} mines.{hint}"])

    def moves(self) -> list[Move]:
        """Every closed cell."""
        cells = [(r, c) for r in range(self.size) for c in range(self.size) if (r, c) not in self.opened]
        return [("open_cell", {"row": r + 1, "column": c + 1}) for r, c in cells]

    def functions(self) -> Sequence[Callable[..., object]]:
        """open_cell."""

        @tool(effect="irreversible")
        def open_cell(row: int, column: int) -> str:
            """Opens a closed cell.

            Args:
                row: from 1, at the top.
                column: from 1, at the left.
            """
            return self.open_cell(row, column)

        return (open_cell,)

    def open_cell(self, row: int, column: int) -> str:
        """Opens a cell and what opens with it.

        Raises:
            ToolError: no such cell, or it is open.
        """
        self.go_on()
        cell = (row - 1, column - 1)
        if not (0 <= cell[0] < self.size and 0 <= cell[1] < self.size):
            raise refuse(f"there is no row {row} column {column}; both go from 1 to {self.size}")
        if cell in self.opened:
            raise refuse(f"row {row} column {column} is open")
        if cell in self.mines:
            self.end(paid=False, true=False)
            return "That was a mine."
        self.opened |= opening(cell, self.mines, self.size)
        return self.moved()

    def best(self) -> Move:
        """A cell that is safe by what is seen; after a lucky guess, which may leave none, one that holds no mine."""
        left = [(r, c) for r in range(self.size) for c in range(self.size) if (r, c) not in self.opened | self.mines]
        r, c = (self.safe() or left)[0]
        return "open_cell", {"row": r + 1, "column": c + 1}

    @property
    def solved(self) -> bool:
        """Everything but the mines is open."""
        return len(self.opened) == self.size**2 - len(self.mines)

    def position(self) -> dict[str, Any]:
        """Which cells are open."""
        return {"opened": sorted(self.opened)}

    def place(self, position: Mapping[str, Any]) -> None:
        """Opens exactly these cells."""
        self.opened = {(r, c) for r, c in position["opened"]}
