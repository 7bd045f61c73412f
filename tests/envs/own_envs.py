"""Environments of a user's own module, for the registry tests."""

from __future__ import annotations

from phronesis.envs.from_tools import from_tools
from phronesis.rewards import FunctionRubric
from phronesis.tool import tool


@tool
def ping() -> str:
    """Pings."""
    return "pong"


def make(size: int, share: float = 0.5, names: list[str] | None = None):
    """An environment with arguments."""
    rows = [{"prompt": f"{i} {share} {names}"} for i in range(size)]
    return from_tools("own", [ping], FunctionRubric(lambda e: 1.0), {"train": rows})


READY = make(2)


def wrong():
    """Returns no EnvSpec."""
    return "spec"


class Style:
    """A TRL-style class."""

    def reset(self, seed):
        return f"Start {seed % 10}"

    def ping(self) -> str:
        """Pings."""
        return "pong"

    def get_reward(self):
        return 1.0


class NoTasks:
    """An environment class, which alone says nothing about tasks."""

    async def reset(self, task, seed): ...

    async def step(self, action): ...

    async def close(self): ...


NUMBER = 3
