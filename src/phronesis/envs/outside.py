"""The environment `outside`: a world that agents of other makes bring with them. Here it is only a name and a list of tasks.

``phronesis train --from-gateway`` hands its tasks out; what happens in an episode, and what it is worth, the agent decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from phronesis.env import EnvSpec
from phronesis.errors import ConfigError, EnvFault, one_line
from phronesis.records import EpisodeGroup, Message, Reply, Reward, Task

NAME = "outside"
"""Name of the environment."""


class TaskLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a file of tasks."""

    id: str
    """Unique within its split."""
    payload: dict[str, Any] = {}
    """Given to the agent that plays it; the policy never sees it."""
    split: str = "train"
    """``train`` or ``heldout``."""
    difficulty: float | None = None
    """Larger is harder."""


class Elsewhere:
    """An environment that nobody can play here."""

    async def reset(self, task: Task, seed: int) -> Reply:
        """Raises EnvFault."""
        raise EnvFault(f"task {task.id!r} is played by agents outside; start the run with --from-gateway")

    async def step(self, action: Message) -> Reply:
        """Raises EnvFault."""
        raise EnvFault("this world is played by agents outside")

    async def close(self) -> None:
        """Nothing to release."""


class TheirOwn:
    """A rubric that leaves rewards as the agents gave them."""

    async def score(self, group: EpisodeGroup) -> Sequence[Reward]:
        """Each episode's own reward; unscored where it has none."""
        return [e.reward or Reward() for e in group.episodes]


def make(tasks: str | None = None, success: float = 1.0) -> EnvSpec:
    """A world of agents outside.

    Args:
        tasks: file with one task per line: ``{"id": "fig-price", "payload": {...}, "split": "train"}``. None numbers tasks
            without end: ids ``train-0``, ``train-1``, …, with the number as payload ``index``.
        success: an episode whose reward is at least this counts as a success.

    Raises:
        ConfigError: a file that is missing or holds something else.
    """
    listed = None if tasks is None else _read(Path(tasks))

    def task(split: str, index: int) -> Task:
        if listed is None:
            return Task(id=f"{split}-{index}", env=NAME, split=split, payload={"index": index})
        return listed[split][index]

    sizes: dict[str, int | None] = {"train": None, "heldout": None}
    return EnvSpec(
        name=NAME,
        make=Elsewhere,
        task=task,
        rubric=TheirOwn(),
        sizes=sizes if listed is None else {split: len(found) for split, found in listed.items()},
        description="A world that agents outside bring with them",
        success=success,
        oracle_reward=None,
        null_reward=None,
        playable=False,
    )


def _read(path: Path) -> dict[str, list[Task]]:
    """Tasks by split."""
    found: dict[str, list[Task]] = {"train": [], "heldout": []}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the tasks in {str(path)!r}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            given = msgspec.json.decode(line, type=TaskLine)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise ConfigError(f"line {number} of {str(path)!r} is no task: {one_line(error)}") from error
        if any(t.id == given.id for t in found.get(given.split, [])):
            raise ConfigError(f"line {number} of {str(path)!r}: there is a task {given.id!r} of split {given.split!r} already")
        mine = Task(id=given.id, env=NAME, split=given.split, payload=given.payload, difficulty=given.difficulty)
        found.setdefault(given.split, []).append(mine)
    if not found["train"]:
        raise ConfigError(f"{str(path)!r} holds no task of split 'train'")
    return found
