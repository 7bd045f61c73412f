"""Tasks from whatever a user has: records, rows of a data set, a mapping by split, or a generator function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import msgspec

from phronesis.envs.digest import digest, split_of
from phronesis.errors import ConfigError, UnknownName
from phronesis.records import Message, Task, say

Row = Mapping[str, object]
"""Columns of one problem: ``prompt`` (text or a list of role/content objects) and hidden facts."""
Tasks = Sequence[Task | Row] | Mapping[str, Sequence[Task | Row]] | Callable[[str, int], Task | Row]
"""A list (split by content), lists by split, or ``f(split, index)``."""


class TaskTable(NamedTuple):
    """The two fields of an `EnvSpec` that say where tasks come from."""

    task: Callable[[str, int], Task]
    """`task(split, index)`."""
    sizes: dict[str, int | None]
    """Number of tasks by split; None means unlimited."""


def task_table(name: str, tasks: Tasks, *, system: str | None = None) -> TaskTable:
    """The tasks of an environment in the form `EnvSpec` wants.

    A plain list is split by content: equal problems stay together, about one in five is held out, and adding problems
    later moves none of the old ones. Lists by split are taken as they are.

    Args:
        name: the environment's name.
        tasks: see `Tasks`.
        system: a system message put before every task made from a row.

    Raises:
        ConfigError: no tasks, a row without a prompt and without other columns, or values that are not JSON.
    """
    if callable(tasks):
        generate = tasks

        def generated(split: str, index: int) -> Task:
            return _as_task(name, split, index, generate(split, index), system=system)

        return TaskTable(generated, {"train": None, "heldout": None})
    lists = dict(tasks) if isinstance(tasks, Mapping) else _by_content(tasks)
    made = {split: [_as_task(name, split, i, t, system=system) for i, t in enumerate(found)] for split, found in lists.items()}
    if not any(made.values()):
        raise ConfigError(f"environment {name!r} has no tasks")

    def task(split: str, index: int) -> Task:
        if split not in made:
            raise UnknownName(f"split of environment {name!r}", split, made)
        if not 0 <= index < len(made[split]):
            raise ConfigError(f"split {split!r} of {name!r} has {len(made[split])} tasks; there is no number {index}")
        return made[split][index]

    return TaskTable(task, {split: len(found) for split, found in made.items()})


def messages_of(prompt: object) -> tuple[Message, ...]:
    """Opening messages of a prompt column: text for one user message, or a list of role/content objects.

    >>> [m.role for m in messages_of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])]
    ['system', 'user']

    Raises:
        ConfigError: some other shape, or content that is not text.
    """
    if isinstance(prompt, str):
        return (say("user", prompt),)
    if not isinstance(prompt, list | tuple):
        raise ConfigError(f"a prompt is text or a list of messages, got {prompt!r}")
    return tuple(_message(m) for m in cast("Sequence[object]", prompt))


def _message(found: object) -> Message:
    if isinstance(found, Message):
        return found
    columns = cast("Mapping[str, object]", found if isinstance(found, Mapping) else {})
    role, content = columns.get("role"), columns.get("content")
    if isinstance(content, list | tuple):
        parts = [cast("Mapping[str, object]", p) for p in cast("Sequence[object]", content) if isinstance(p, Mapping)]
        texts = [p.get("text") for p in parts if p.get("type") == "text"]
        if len(texts) != len(cast("Sequence[object]", content)):
            raise ConfigError(f"a prompt message holds something else than text: {found!r}")
        content = "".join(str(t) for t in texts)
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise ConfigError(f"a prompt message needs a role (system, user, assistant) and a text content, got {found!r}")
    return say(role, content)


def _content(task: Task | Row) -> str:
    if isinstance(task, Task) and task.content_key is not None:
        return task.content_key
    columns = (
        {"messages": msgspec.to_builtins(task.messages), "payload": task.payload} if isinstance(task, Task) else dict(task)
    )
    try:
        return digest(msgspec.to_builtins(columns))
    except TypeError as error:
        raise ConfigError(f"a task holds a value that is not JSON ({error}): {task!r}") from error


def _by_content(tasks: Sequence[Task | Row]) -> dict[str, list[Task | Row]]:
    keys = [_content(t) for t in tasks]
    held = {k for k in keys if split_of(k) == "heldout"}
    if len(set(keys)) > 1 and not held:
        held = {min(keys)}
    if held and held == set(keys):
        held.discard(max(keys))
    lists: dict[str, list[Task | Row]] = {"train": []}
    for key, task in zip(keys, tasks, strict=True):
        split = "heldout" if key in held else "train"
        placed = msgspec.structs.replace(task, split=split, content_key=key) if isinstance(task, Task) else task
        lists.setdefault(split, []).append(placed)
    return lists


def _as_task(name: str, split: str, index: int, found: Task | Row, *, system: str | None) -> Task:
    if isinstance(found, Task):
        return found
    columns = dict(found)
    prompt = columns.pop("prompt", None)
    if prompt is None and not columns:
        raise ConfigError(f"task {index} of {name!r} is an empty row")
    opening = (say("system", system),) if system else ()
    return Task(
        id=f"{split}-{index}",
        env=name,
        messages=opening + (messages_of(prompt) if prompt is not None else ()),
        payload=columns,
        split=split,
        content_key=_content(found),
    )
