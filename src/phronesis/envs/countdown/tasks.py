"""Countdown tasks: numbers, a target, and the exact search that says how many of the numbers it takes.

A task is generated from (split, index) alone. Its content key hashes the sorted numbers and the target; the key decides the
split, so no held-out problem can occur in training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

from msgspec import Struct

from phronesis.envs.digest import digest, split_of
from phronesis.envs.game_env import levels
from phronesis.records import Task, say
from phronesis.seeding import rng

LEVELS = {1: (3, 2, 100), 2: (4, 3, 100), 3: (5, 3, 200), 4: (5, 4, 1000)}
"""Numbers given, fewest numbers a solution uses, and largest target, by difficulty."""
LARGEST = 25
"""Numbers are drawn from 1 to this, without repetition."""
SMALLEST = 10
"""Smallest target."""
Values = dict[Fraction, str]
"""What can be reached, and an expression for each."""


class Dials(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hard the tasks are."""

    min_difficulty: int = 1
    """Easiest level drawn: three numbers given, two needed."""
    max_difficulty: int = 3
    """Hardest level drawn, up to 4: five numbers given, four needed."""

    def validate(self) -> None:
        """Raises ConfigError for values out of range."""
        levels("countdown", self.min_difficulty, self.max_difficulty, max(LEVELS))


def joined(left: Values, right: Values) -> Values:
    """Every value of one operation on a value of each side, both ways round.

    >>> sorted(map(str, joined({Fraction(6): "6"}, {Fraction(4): "4"})))
    ['-2', '10', '2', '2/3', '24', '3/2']
    """
    found: Values = {}
    for a, x in left.items():
        for b, y in right.items():
            found.setdefault(a + b, f"({x} + {y})")
            found.setdefault(a - b, f"({x} - {y})")
            found.setdefault(b - a, f"({y} - {x})")
            found.setdefault(a * b, f"({x} * {y})")
            if b:
                found.setdefault(a / b, f"({x} / {y})")
            if a:
                found.setdefault(b / a, f"({y} / {x})")
    return found


def reachable(numbers: Sequence[int], size: int) -> dict[tuple[int, ...], Values]:
    """What exactly the numbers of every subset of up to `size` members can give, each used once.

    Exact, with fractions in between. Keys are subsets of positions, so equal numbers are told apart.
    """
    table: dict[tuple[int, ...], Values] = {(i,): {Fraction(n): str(n)} for i, n in enumerate(numbers)}
    for width in range(2, size + 1):
        for subset in combinations(range(len(numbers)), width):
            found: Values = {}
            first, rest = subset[0], subset[1:]
            for count in range(width - 1):  # the side that holds the first member; each way to cut is met once
                for others in combinations(rest, count):
                    side = (first, *others)
                    other = tuple(i for i in rest if i not in others)
                    for value, text in joined(table[side], table[other]).items():
                        found.setdefault(value, text)
            table[subset] = found
    return table


def solve(numbers: Sequence[int], target: int, size: int | None = None) -> str | None:
    """A solution with as few of the numbers as possible, up to `size`; None when there is none.

    >>> solve([2, 3, 4], 14), solve([2, 3, 4], 99)
    ('(2 * (3 + 4))', None)
    """
    for values in reachable(numbers, len(numbers) if size is None else size).values():  # small subsets come first
        if target in values:
            return values[Fraction(target)]
    return None


def problem(source: random.Random, difficulty: int, split: str) -> tuple[list[int], int, str]:
    """Numbers, a target that takes exactly as many of them as the level says, and a solution; a problem of that split."""
    given, needed, largest = LEVELS[difficulty]
    while True:
        numbers = source.sample(range(1, LARGEST + 1), given)
        target, solution = _tree(source, source.sample(numbers, needed))
        if not SMALLEST <= target <= largest or split_of(key_of(numbers, int(target))) != split:
            continue
        shorter = reachable(numbers, needed - 1)
        if not any(target in values for values in shorter.values()):
            return numbers, int(target), solution


def key_of(numbers: Sequence[int], target: int) -> str:
    """The content key: the order of the numbers makes no other problem."""
    return digest(["countdown", sorted(numbers), target])


def _tree(source: random.Random, numbers: list[int]) -> tuple[Fraction, str]:
    """A random expression over all the numbers whose every step is a whole number above 0."""
    parts = [(Fraction(n), str(n)) for n in numbers]
    while len(parts) > 1:
        (a, x), (b, y) = (parts.pop(source.randrange(len(parts))) for _ in range(2))
        choices = [(a + b, f"({x} + {y})"), (a * b, f"({x} * {y})")]
        if a > b:
            choices.append((a - b, f"({x} - {y})"))
        if a % b == 0:
            choices.append((a / b, f"({x} / {y})"))
        parts.append(source.choice(choices))
    return parts[0]


def task(dials: Dials, split: str, index: int) -> Task:
    """The task of that split and index, the same on every machine."""
    source = rng(index, "countdown", split)
    difficulty = source.randint(dials.min_difficulty, dials.max_difficulty)
    numbers, target, solution = problem(source, difficulty, "train" if split == "train" else "heldout")
    listed = ", ".join(map(str, numbers))
    text = (
        f"Make {target} from the numbers {listed} with + - * / and brackets. Use each number at most once. "
        'End with one line "answer: EXPRESSION".'
    )
    return Task(
        id=f"countdown-{split}-{index}",
        env="countdown",
        messages=(say("user", text),),
        payload={"numbers": numbers, "target": target, "solution": solution},
        split=split,
        difficulty=float(difficulty),
        content_key=key_of(numbers, target),
    )
