"""Putting things on the disk, so that not even a power cut undoes them: contents first, then the names that lead to them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk.

    Some file systems cannot do that for folders, or the folder may be written but not read; then it is left to the system.

    Raises:
        OSError: the disk is full or failing.
    """
    folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        if folder:
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno not in _NOT_FOR_FOLDERS:
            raise
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it that are missing; their names are on the disk when it returns.

    Raises:
        OSError: it cannot be made, or the disk is full or failing.
    """
    made: list[Path] = []
    for folder in (path, *path.parents):
        if folder.exists():
            break
        made.append(folder)
    path.mkdir(parents=True, exist_ok=True)
    for folder in made:
        sync(folder.parent)
