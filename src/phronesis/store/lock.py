"""One writer per run folder: a lock the system releases by itself when the process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from phronesis.errors import DiskError, RunFolderError

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 0.5  # a reader that asks `is_held` holds the lock for an instant


class FolderLock:
    """The exclusive right to write a run folder, held until `release`."""

    def __init__(self, path: Path):
        """Takes the lock.

        Raises:
            RunFolderError: another process (or another writer in this one) holds it.
            DiskError: the folder cannot be written.
        """
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DiskError(
                f"cannot write in {str(path.parent)!r}: {error.strerror or error}; fix the permissions or choose another --out"
            ) from error
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _try(self._fd, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                holder = os.read(self._fd, 200).decode(errors="replace").strip() or "another process"
                os.close(self._fd)
                raise RunFolderError(
                    f"run folder {str(path.parent)!r} is being written by {holder}; "
                    "wait for it, stop it, or choose another --out"
                )
            time.sleep(0.02)
        with suppress(OSError):  # a full disk: the lock holds all the same, it only does not say whose it is
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Gives the right up; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_held(path: Path) -> bool:
    """True while some process writes the folder."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _try(fd: int, mode: int) -> bool:
    """Whether the lock could be had now. A file system without locks grants it, with a warning."""
    try:
        fcntl.flock(fd, mode | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR):
            return False
        logger.warning("this file system has no locks (%s): make sure that only one process writes a run", error.strerror)
    return True
