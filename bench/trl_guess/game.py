"""What both sides are told about the game; the game itself is `phronesis/envs/guess_game.py`, unchanged on both sides."""

from __future__ import annotations

import random

QUESTION = (
    "Find the hidden number from 0 to 9. Call guess with one number at a time. It answers higher or lower when the hidden "
    "number is higher or lower than your guess, and correct when you found it. You have 4 guesses. Your score is 1 for the "
    "first guess and 0.1 less for each further one; it is 0 when the number is not found. When it answered correct, or "
    "when you have no guesses left, the game is over: say so in one short sentence and do not call guess again."
)
CALLS = 4
GROUP = 8


def secrets(count: int, seed: int) -> list[int]:
    """The hidden numbers of `count` tasks."""
    rng = random.Random(seed)
    return [rng.randrange(10) for _ in range(count)]
