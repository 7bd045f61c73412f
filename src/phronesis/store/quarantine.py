"""Bytes that could not be read, moved out of the way of a writer and kept: nothing of a run is ever thrown away.

``episodes/train-00000.jsonl.zst.damaged-1200`` holds what stood at byte 1200 of that file and could not be read;
``….torn-1200`` the half-written item that a crash left there. They may be deleted once nobody wants to look at them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from phronesis.store.disk import sync

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<file>.+)\.(?P<why>damaged|torn)-(?P<offset>\d+)(?:-\d+)?")


class Stretch(Struct, frozen=True, kw_only=True):
    """Bytes of a run's file that could not be read."""

    file: str
    """The file they stood in, relative to the run folder."""
    offset: int
    """First byte in that file."""
    bytes: int
    """How many."""
    torn: bool = False
    """True for a half-written last item, which a crash leaves and which is no damage."""
    moved: str | None = None
    """The file that keeps them now, relative to the run folder; None while they are where they were."""


def set_aside(path: Path, content: bytes, end: int, torn: int) -> None:
    """Keeps bytes `end` to `torn` (damaged) and from `torn` on (half-written) of a file beside it; the file is not changed.

    Args:
        path: the file.
        content: everything it holds.
        end: where the readable part ends.
        torn: where the half-written item begins; the length of the file when there is none.

    Raises:
        OSError: the disk is full or failing.
    """
    for why, start, stop in (("damaged", end, torn), ("torn", torn, len(content))):
        if stop <= start:
            continue
        kept = _keep(path, f"{path.name}.{why}-{start}", content[start:stop])
        if why == "damaged":
            logger.warning("%d bytes of %s from byte %d cannot be read; they are now in %s", stop - start, path, start, kept)
        else:
            logger.info("%d bytes of %s, the write a crash interrupted, are now in %s", stop - start, path, kept)


def _keep(path: Path, name: str, content: bytes) -> str:
    """Writes `content` under `name` or the next free one; one that holds the same already is used again.

    The name is on the disk, too, when it returns: the caller cuts the content off where it stood.
    """
    number, place = 1, path.with_name(name)
    while place.exists():
        if place.read_bytes() == content:
            sync(place.parent)
            return place.name
        number += 1
        place = path.with_name(f"{name}-{number}")
    draft = path.with_name(f".{place.name}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(place)
        sync(place.parent)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return place.name


def moved(root: Path) -> Iterator[Stretch]:
    """What was moved aside in a run folder, by file and offset."""
    for folder in (root, root / "episodes"):
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        for name in names:
            found = _NAME.fullmatch(name)
            if found is not None and not name.startswith("."):
                yield Stretch(
                    file=(folder / found["file"]).relative_to(root).as_posix(),
                    offset=int(found["offset"]),
                    bytes=(folder / name).stat().st_size,
                    torn=found["why"] == "torn",
                    moved=(folder / name).relative_to(root).as_posix(),
                )
