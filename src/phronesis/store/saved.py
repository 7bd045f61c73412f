"""Which checkpoints a run holds: by their names alone, without reading any. `phronesis.train.checkpoint` writes them."""

from __future__ import annotations

from pathlib import Path

MANIFEST = "checkpoint.json"
"""The file that is written last: a folder that holds it is a whole checkpoint."""
PREFIX = "step-"
"""How the names of checkpoints begin."""
ASIDE = ".saving-old-"
"""How the name of one begins that is just being replaced."""


def saved(folder: Path) -> list[Path]:
    """A run's checkpoints, oldest first; drafts that were never finished are not among them.

    One that was just being replaced when the process was killed is found under the name it was set aside.
    """
    if not folder.is_dir():
        return []
    found = {p.name.removeprefix(ASIDE): p for p in folder.glob(f"{ASIDE}{PREFIX}*") if whole(p)}
    found |= {p.name: p for p in folder.glob(f"{PREFIX}*") if whole(p)}
    return [found[name] for name in sorted(found)]


def whole(path: Path) -> bool:
    """Whether a folder is a whole checkpoint."""
    return (path / MANIFEST).is_file()


def step_in(path: Path) -> int:
    """The training step of a checkpoint.

    >>> step_in(Path("checkpoints/step-00000012"))
    12
    """
    return int(path.name.removeprefix(ASIDE).removeprefix(PREFIX))
