"""The `guess` environment: `GuessNumber` with its known optimum and baselines.

With ten numbers and four calls, guessing uniformly earns 0.29683, never repeating a number 0.34, bisection 0.81.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from phronesis.env import EnvSpec
from phronesis.envs.guess_game import PROMPT, GuessNumber
from phronesis.envs.trl_style import Call, Hooks, from_class
from phronesis.errors import ConfigError
from phronesis.records import Task, say

__all__ = ["GuessNumber", "best_reward", "chance_reward", "make"]


def make(high: int = 9, calls: int = 4, turn_rewards: bool = True, stop_when_over: bool = True) -> EnvSpec:
    """Guess a number from 0 to `high` in at most `calls` guesses.

    The world is closed: every split holds the same `high` + 1 tasks, so a held-out score only says that it was learnt.

    Args:
        high: largest possible number, at least 1.
        calls: guesses allowed, in [1, 10].
        turn_rewards: credit the guess that finds the number; False credits the episode as a whole.
        stop_when_over: end the episode with the last guess; False waits for a message without calls, as TRL does.

    Raises:
        ConfigError: numbers out of range.
    """
    if high < 1 or not 1 <= calls <= 10:
        raise ConfigError(f"guess needs high >= 1 and calls in [1, 10], got {high!r} and {calls!r}")
    opening = (say("user", PROMPT.format(high=high, calls=calls)),)

    def hidden(split: str) -> list[Task]:
        return [
            Task(id=f"{split}-{n}", env="guess", messages=opening, split=split, payload=_payload(n, high, calls))
            for n in range(high + 1)
        ]

    spec = from_class(
        GuessNumber,
        rows={split: hidden(split) for split in ("train", "heldout")},
        name="guess",
        turn_rewards=turn_rewards,
        hooks=Hooks[GuessNumber](
            done=_over if stop_when_over else None,
            state_key=lambda game: f"{game.low}-{game.high}/{game.limit - game.calls}" + ("!" if game.found else ""),
            legal=lambda game: [("guess", {"number": n}) for n in range(high + 1)],
            expert=_bisect,
            snapshots=True,
        ),
        thread=False,
        max_turns=calls if stop_when_over else calls + 1,
        secrets=("secret",),
    )
    return replace(
        spec,
        oracle_reward=best_reward(high + 1, calls),
        null_reward=0.0,
        chance_reward=chance_reward(high + 1, calls),
        success=1.0 - 0.1 * (calls - 1),
        hint=_secret,
        oracle_tasks=high + 1,
    )


def best_reward(numbers: int, calls: int) -> float:
    """Mean reward of bisection, which is optimal: as many numbers as possible are found at every depth.

    Depth d (from 0) of a search tree holds at most 2^d numbers: 10 numbers in 4 calls give
    (1 · 1 + 2 · 0.9 + 4 · 0.8 + 3 · 0.7) / 10 = 0.81.
    """
    left, total = numbers, Fraction(0)
    for depth in range(calls):
        found = min(left, 2**depth)
        total += found * (1 - Fraction(depth, 10))
        left -= found
    return float(total / numbers)


def chance_reward(numbers: int, calls: int) -> float:
    """Mean reward of uniform guessing that ignores the answers.

    Σ_k (1/n)(1 - 1/n)^k (1 - k/10): 0.29683 for 10 numbers in 4 calls.
    """
    hit = Fraction(1, numbers)
    return float(sum((hit * (1 - hit) ** k * (1 - Fraction(k, 10)) for k in range(calls)), Fraction(0)))


def _payload(secret: int, high: int, calls: int) -> dict[str, object]:
    return {"secret": secret, "high": high, "calls": calls}


def _secret(task: Task) -> str:
    return str(task.payload["secret"])


def _over(game: GuessNumber) -> bool:
    return game.found or game.calls >= game.limit


def _bisect(game: GuessNumber) -> Call | str:
    if _over(game):
        return f"The number is {game.low}." if game.found else "I did not find it."
    return "guess", {"number": (game.low + game.high) // 2}
