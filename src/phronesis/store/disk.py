"""Putting things on the disk, so that not even a power cut undoes them: contents first, then the names that lead to them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from phronesis.errors import DiskError

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


class writing:
    """Turns the system's errors into one that says what could not be written, and what to do: ``with writing(path): ...``"""

    def __init__(self, path: Path, then: str = "continue with --resume"):
        """Nothing yet.

        Args:
            path: what is written.
            then: what to do once it can be.
        """
        self.path, self.then = path, then

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            raise unwritable(self.path, error, self.then) from error


def unwritable(path: Path, error: OSError, then: str = "continue with --resume") -> DiskError:
    """The error to raise where `path` could not be written."""
    return DiskError(
        f"cannot write {str(path)!r}: {error.strerror or error}; nothing written before is lost: "
        f"free some space or fix the permissions, then {then}"
    )


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
