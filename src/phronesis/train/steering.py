"""Shares of a run that goes on: asked for in a file of its folder, taken over between two steps."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

from phronesis.data.mixture import Mixture
from phronesis.errors import UserError
from phronesis.store.folder import write_whole
from phronesis.store.run import RunWriter

log = logging.getLogger(__name__)

FILE = "shares.json"
"""Where a run's folder says which shares are wanted: an object of source names and numbers."""


def ask(folder: Path, weights: dict[str, float]) -> None:
    """Asks the run in a folder for other shares; it takes them over after the step it is at.

    Args:
        folder: the run folder.
        weights: by source, all or some; see `phronesis.data.mixture.Shares.change`.
    """
    write_whole(folder / FILE, msgspec.json.encode(weights))


class Steering:
    """Reads the file and changes the shares."""

    def __init__(self, mixture: Mixture, run: RunWriter):
        self._mixture, self._run = mixture, run
        self._file = run.path / FILE

    def look(self) -> None:
        """Takes over what is asked for, if it is new. What cannot be read or done is said aloud and changes nothing."""
        try:
            asked = self._file.read_bytes()
        except OSError:
            return
        name = hashlib.sha256(asked).hexdigest()[:16]
        if name == self._mixture.asked:
            return
        self._mixture.asked = name
        try:
            self._mixture.shares.change(msgspec.json.decode(asked, type=dict[str, float]))
        except (msgspec.DecodeError, msgspec.ValidationError, UserError) as error:
            why = f"{FILE} asks for shares that there cannot be, and changes nothing: {error}"
            log.warning("%s", why)
            self._run.event("shares", why)
            return
        now = self._mixture.shares.weights
        said = ", ".join(f"{name} {share:.1%}" for name, share in now.items())
        log.info("shares are now %s", said)
        self._run.event("shares", f"shares are now {said}", None, **{f"share_{name}": share for name, share in now.items()})
