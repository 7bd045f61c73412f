"""Results and times of a run's finished phases, so that a resumed run does not do them again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from phronesis.errors import RunFolderError
from phronesis.store.folder import write_whole
from phronesis.store.run import RunWriter

T = TypeVar("T")


class Phases:
    """A small JSON file of finished phases, replaced whole at each change."""

    def __init__(self, path: Path) -> None:
        """Reads what is there; a missing file means that nothing is finished."""
        self._path = path
        self._done: dict[str, Any] = {}
        if path.exists():
            try:
                self._done = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
            except msgspec.DecodeError as error:
                raise RunFolderError(f"{path.name} cannot be read ({error}); delete it to redo the evaluations") from error

    def get(self, name: str, kind: type[T]) -> T | None:
        """The result of a finished phase; None when it is not finished.

        Raises:
            RunFolderError: it is of another form, as after a change of version.
        """
        if name not in self._done:
            return None
        try:
            return msgspec.convert(self._done[name], kind)
        except msgspec.ValidationError as error:
            raise RunFolderError(
                f"{name!r} in {self._path.name} cannot be read ({error}); delete the file to redo the evaluations"
            ) from error

    def has(self, name: str) -> bool:
        """Whether a phase is finished."""
        return name in self._done

    def put(self, name: str, result: object) -> None:
        """Records a phase as finished."""
        self._done[name] = msgspec.to_builtins(result)
        write_whole(self._path, msgspec.json.encode(self._done))


class Timing:
    """How long phases took, a resumed one continuing where it stood."""

    def __init__(self, phases: Phases, writer: RunWriter):
        self._phases, self._writer = phases, writer

    def took(self, phase: str, began: float) -> None:
        """A phase is over."""
        seconds = self.add(phase, began)
        self._writer.event("phase", f"{phase} took {seconds:.1f} s", seconds=seconds)

    def add(self, phase: str, began: float) -> float:
        """Adds to a phase's wall-clock time, which a resumed phase continues; the time so far."""
        seconds = self._phases.get("seconds", dict[str, float]) or {}
        seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - began
        self._phases.put("seconds", seconds)
        return seconds[phase]
