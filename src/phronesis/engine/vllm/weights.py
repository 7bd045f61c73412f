"""Folders of weights that servers load: written whole, kept until no server can still need them, removed at the end."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

Save = Callable[[Path], None]
"""Writes a checkpoint directory, tokenizer and all."""
MEMORY = Path("/dev/shm")
"""Memory-backed space of Linux."""
KEPT = 2
"""Newest folders kept: a server may be reading the one before."""


class Probe(Struct, frozen=True, kw_only=True):
    """What right weights say of a few ids, to recognise wrong ones."""

    ids: tuple[int, ...]
    """Ids."""
    nats: tuple[float, ...]
    """`[len(ids) - 1]` log-probabilities at temperature 1, of whoever made the weights."""

    def off(self, found: tuple[float, ...]) -> float:
        """Largest difference, nats."""
        return max(abs(a - b) for a, b in zip(self.nats, found, strict=True))


class Target(Struct, frozen=True, kw_only=True):
    """Weights that every server shall have."""

    folder: Path
    """Checkpoint directory."""
    label: str
    """Their name."""
    probe: Probe | None = None
    """How to recognise them; None trusts the server."""


class WeightFolders:
    """One folder per name."""

    def __init__(self, root: str | None = None):
        """Nothing is written yet.

        Args:
            root: where the servers see the folders; None takes temporary space in memory where there is some.
        """
        self._own = root is None
        self._root = None if root is None else Path(root)
        self._kept: list[Path] = []

    def write(self, name: str, save: Save) -> Path:
        """The folder of the present weights, whole."""
        if self._root is None:
            within = MEMORY if MEMORY.is_dir() else None
            self._root = Path(tempfile.mkdtemp(prefix="phronesis-weights-", dir=within))
            weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)  # also when the run ends in the middle
        folder = self._root.absolute() / name
        save(folder)
        if folder not in self._kept:
            self._kept.append(folder)
        for old in self._kept[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        self._kept = self._kept[-KEPT:]
        return folder

    def remove(self) -> None:
        """Removes everything written."""
        for folder in self._kept:
            shutil.rmtree(folder, ignore_errors=True)
        if self._own and self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None
        self._kept = []
