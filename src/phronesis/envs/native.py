"""First way in: a class with `reset`, `step` and `close`, async or not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import cast

from phronesis.env import Env, EnvSpec, Rubric
from phronesis.envs.blocking import SyncEnv
from phronesis.envs.tasks import Tasks, task_table
from phronesis.errors import ConfigError
from phronesis.rewards import EnvReward

METHODS = ("reset", "step", "close")


def from_env(
    make: Callable[[], object],
    tasks: Tasks,
    *,
    name: str | None = None,
    rubric: Rubric | None = None,
    max_turns: int = 16,
    system: str | None = None,
    description: str = "",
    thread: bool = True,
) -> EnvSpec:
    """The environment family of a class. For promised scores use `dataclasses.replace` on the result.

    Args:
        make: the class, or a function that builds a fresh instance. Its methods may be sync; then see `SyncEnv`.
        tasks: see `phronesis.envs.tasks.task_table`.
        name: the class's name by default.
        rubric: what the environment itself rewards (`EnvReward`) by default.
        max_turns: turns an episode needs at most.
        system: system message of tasks made from rows.
        description: the first line of the docstring by default.
        thread: for sync classes, run each instance's methods in a thread of its own, so that one that hangs fails its own
            episode and no other; see `SyncEnv`. A class is built in that thread, too; what a function builds is built in
            the event loop's.

    Raises:
        ConfigError: a class without one of the three methods, or bad tasks.
    """
    if isinstance(make, type):
        missing = [m for m in METHODS if not callable(getattr(make, m, None))]
        if missing:
            raise ConfigError(f"{make.__name__} lacks {', '.join(missing)}; an environment has reset, step and close")
    label = name or getattr(make, "__name__", "env")
    asynchronous = isinstance(make, type) and all(inspect.iscoroutinefunction(getattr(make, m)) for m in METHODS)
    table = task_table(label, tasks, system=system)

    def build() -> Env:
        if isinstance(make, type) and not asynchronous:
            return SyncEnv(make, thread=thread)
        env = make()
        if asynchronous or all(inspect.iscoroutinefunction(getattr(env, m, None)) for m in METHODS):
            return cast("Env", env)
        return SyncEnv(env, thread=thread)

    return EnvSpec(
        name=label,
        make=build,
        task=table.task,
        sizes=table.sizes,
        rubric=rubric or EnvReward(),
        description=description or (inspect.getdoc(make) or "").split("\n")[0],
        max_turns=max_turns,
        oracle_reward=None,
        null_reward=None,
    )
