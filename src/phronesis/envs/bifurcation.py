"""A learning probe with one decisive step: of H turns only one matters, and it is known which.

The world leads through H rooms. In every room the policy says a letter; only in the vault does the letter decide, and the
reward, 1 or 0, comes after the last room. So the exact advantage of every turn is known: 0 outside the vault, and there
``reward - p`` with p the policy's probability of the right letter (`exact_advantages`). How well a credit rule finds the
decisive turn among H can be measured instead of guessed.

Source: the bifurcation diagnostic proposed with the survey of credit assignment, arXiv 2604.09459.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from phronesis.env import EnvSpec
from phronesis.envs.native import from_env
from phronesis.errors import ConfigError
from phronesis.records import Message, Reply, Task, say

LETTERS = "abcd"
RIGHT = "c"
"""The letter that opens the vault."""


class Bifurcation:
    """Walks through the rooms."""

    def __init__(self) -> None:
        self._horizon = self._decisive = self._turn = 0
        self._opened = False

    async def reset(self, task: Task, seed: int) -> Reply:
        """The first room."""
        self._horizon, self._decisive = int(task.payload["horizon"]), int(task.payload["decisive"])
        self._turn, self._opened = 0, False
        return Reply(messages=(say("user", f"Say a, b, c or d in every room. {self._room()}"),), state_key=self._key())

    async def step(self, action: Message) -> Reply:
        """The next room, or the end."""
        answer = action.text.strip()
        errors = () if answer in tuple(LETTERS) else ("no_letter",)
        if self._turn == self._decisive:
            self._opened = answer == RIGHT
        self._turn += 1
        if self._turn == self._horizon:
            return Reply(reward=float(self._opened), done=True, errors=errors, state_key=f"end/{self._opened}")
        return Reply(messages=(say("user", self._room()),), errors=errors, state_key=self._key())

    async def close(self) -> None:
        """Nothing to release."""

    async def snapshot(self) -> bytes:
        """Where it stands."""
        return json.dumps([self._horizon, self._decisive, self._turn, self._opened]).encode()

    async def restore(self, state: bytes) -> None:
        """Continues from there."""
        self._horizon, self._decisive, self._turn, self._opened = json.loads(state)

    async def legal(self) -> Sequence[Message]:
        """Every letter."""
        return [say("assistant", letter) for letter in LETTERS]

    async def expert(self) -> Message:
        """The letter that opens the vault."""
        return say("assistant", RIGHT)

    def _room(self) -> str:
        return "The vault." if self._turn == self._decisive else "A room."

    def _key(self) -> str:
        """Once the vault lies behind, whether it was opened is all that matters besides the turn."""
        return f"{self._turn}/{self._decisive}/{self._opened}"


def exact_advantages(decisive: int, turns: int, reward: float, chance: float) -> list[float]:
    """Q minus V of each turn of an episode under the policy that played it.

    Args:
        decisive: the turn in the vault.
        turns: H.
        reward: 1 or 0.
        chance: the policy's probability of the right letter in the vault.

    >>> exact_advantages(1, 3, 1.0, 0.25)
    [0.0, 0.75, 0.0]
    """
    return [reward - chance if turn == decisive else 0.0 for turn in range(turns)]


def bifurcation(horizon: int = 4) -> EnvSpec:
    """The probe with `horizon` rooms, in [1, 64]; the vault is in any of them.

    Raises:
        ConfigError: a horizon out of range.
    """
    if not 1 <= horizon <= 64:
        raise ConfigError(f"probe-bifurcation needs a horizon in [1, 64], got {horizon!r}")

    def task(split: str, decisive: int) -> Task:
        payload = {"horizon": horizon, "decisive": decisive}
        return Task(id=f"{split}-{horizon}-{decisive}", env="probe-bifurcation", payload=payload, split=split)

    tasks = {split: [task(split, decisive) for decisive in range(horizon)] for split in ("train", "heldout")}
    spec = from_env(Bifurcation, tasks, name="probe-bifurcation", max_turns=horizon, thread=False)
    return replace(spec, oracle_reward=1.0, null_reward=0.0, chance_reward=1 / len(LETTERS), oracle_tasks=horizon)
