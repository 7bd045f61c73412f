"""Guess a hidden number: a plain class that needs nothing but Python, so that other trainers can run it unchanged."""

from __future__ import annotations

PROMPT = "Find the hidden number from 0 to {high}. You have {calls} guesses. Call guess with one number."


class GuessNumber:
    """Find a hidden number; each guess is answered with higher, lower or correct.

    Reward: 1 for the first guess, 0.1 less for every further one, 0 when it is not found.
    """

    def __init__(self) -> None:
        self.secret = 0
        self.low, self.high = 0, 9
        self.calls, self.limit = 0, 4
        self.found = False

    def reset(self, secret: int, high: int = 9, calls: int = 4, **row: object) -> None:
        """Hides a number.

        Args:
            secret: the number, from 0 to `high`.
            high: largest possible number.
            calls: guesses allowed.
            row: further columns of the data set, not used.
        """
        self.secret = secret
        self.low, self.high = 0, high
        self.calls, self.limit = 0, calls
        self.found = False

    def guess(self, number: int) -> str:
        """Guesses the hidden number.

        Args:
            number: the guess.

        Returns:
            higher, lower or correct.
        """
        if self.found or self.calls >= self.limit:
            raise ValueError("the game is over")
        self.calls += 1
        if number == self.secret:
            self.found = True
            self.low = self.high = number
            return "correct"
        if number < self.secret:
            self.low = max(self.low, number + 1)
            return "higher"
        self.high = min(self.high, number - 1)
        return "lower"

    def get_reward(self) -> float:
        """What has been earned so far."""
        return 1.0 - 0.1 * (self.calls - 1) if self.found else 0.0
