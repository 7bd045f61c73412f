"""Tasks that a worker lists: fetched when first asked for, split by content, so that equal problems never lie in two splits."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, cast

from phronesis.envs.digest import digest, split_of
from phronesis.envs.tasks import messages_of
from phronesis.envs.worker.hub import hub, now
from phronesis.envs.worker.spec import WorkerSpec
from phronesis.errors import ConfigError, UnknownName
from phronesis.records import Task

FIRST, MOST = 2, 64
"""Tasks asked for at once: few at first, as some generators take seconds for one, then ever more."""
PATIENCE = 4000
"""Tasks listed in a row that may fail to belong to a split before it counts as empty."""


class ListedTasks:
    """The tasks of one catalogue."""

    def __init__(self, name: str, spec: WorkerSpec, *, endless: bool, about: Mapping[str, Any] | None = None):
        """Reads all of a finite catalogue, and the beginning of an endless one.

        Args:
            name: of the environment.
            spec: its worker.
            endless: a generator, read as far as is asked for; else a list.
            about: fields of every ``list_tasks``, for workers that serve several lists.

        Raises:
            ConfigError: not installed, wrong arguments, or no tasks.
        """
        self.name, self.spec, self.endless, self.fields = name, spec, endless, dict(about or {})
        self.found: dict[str, list[Task]] = {"train": [], "heldout": []}
        self.splits: dict[str, str] = {}
        """Where the catalogue itself puts each problem."""
        self.read = 0
        self.lock = threading.Lock()
        self.about = now(_about(spec))
        """What the catalogue says of itself."""
        while self._more() and not endless:
            pass
        if not self.read:
            raise ConfigError(f"{name!r} lists no tasks")

    @property
    def sizes(self) -> dict[str, int | None]:
        """Number of tasks by split; None means unlimited."""
        return {split: None if self.endless else len(tasks) for split, tasks in self.found.items()}

    def task(self, split: str, index: int) -> Task:
        """The task of a split and a number; fetched if it was not yet.

        Raises:
            UnknownName: no such split.
            ConfigError: no such number, or the generator never gives a task of this split.
        """
        if split not in self.found:
            raise UnknownName(f"split of environment {self.name!r}", split, self.found)
        tasks = self.found[split]
        with self.lock:
            barren = 0
            while self.endless and index >= len(tasks):
                before, read = len(tasks), self.read
                if not self._more():
                    raise ConfigError(f"{self.name!r} has {before} tasks of split {split!r}; there is no number {index}")
                barren = 0 if len(tasks) > before else barren + self.read - read
                if barren > PATIENCE:
                    raise ConfigError(
                        f"{self.name!r} gives no further problem of split {split!r}; it has too few different ones"
                    )
        if not 0 <= index < len(tasks):
            raise ConfigError(f"split {split!r} of {self.name!r} has {len(tasks)} tasks; there is no number {index}")
        return tasks[index]

    def _more(self) -> int:
        listed = now(_listed(self.spec, {"start": self.read, "count": min(max(self.read, FIRST), MOST), **self.fields}))
        for number, row in enumerate(listed):
            messages = messages_of(row["messages"])
            payload = cast("dict[str, Any]", row.get("payload", {}))
            key = digest(row.get("content") or row["messages"] or payload)
            split = str(row.get("split") or split_of(key))
            if "split" in row and self.splits.setdefault(key, split) != split:
                raise ConfigError(f"{self.name!r}: problem {self.read + number} lies in two splits")
            place = self.found[split]
            task = Task(
                id=str(row.get("id") or f"{split}-{len(place)}"),
                env=self.name,
                messages=messages,
                payload=payload,
                split=split,
                difficulty=row.get("difficulty"),
                content_key=key,
            )
            place.append(task)
        self.read += len(listed)
        return len(listed)


async def _about(spec: WorkerSpec) -> dict[str, Any]:
    return (await hub().process(spec)).about


async def _listed(spec: WorkerSpec, fields: dict[str, Any]) -> list[dict[str, Any]]:
    process = await hub().process(spec)
    return (await process.ask("list_tasks", fields))["tasks"]
