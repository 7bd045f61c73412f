"""What a run says when it ends with an error: what broke, what is whole, and how to go on."""

from __future__ import annotations

import errno
from pathlib import Path

from phronesis.errors import DiskError
from phronesis.store.disk import unwritable
from phronesis.store.run import RunWriter
from phronesis.store.saved import saved, step_in

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def last_words(run: RunWriter, error: Exception) -> Exception:
    """Stores why the run ends, and returns the error to end it with: one about the disk also says which checkpoint is whole.

    Example: ``cannot write 'runs/a/metrics.jsonl': No space left on device; nothing written before is lost: free some space or
    fix the permissions, then continue with --resume; the checkpoint of step 20 is whole``
    """
    if isinstance(error, OSError) and error.errno in _DISK and _inside(run.path, error.filename):
        error = unwritable(Path(str(error.filename)), error)
    if isinstance(error, DiskError):
        error = DiskError(f"{error}; {_whole(run)}")
    run.last_event("failure", f"{type(error).__name__}: {error}")
    return error


def _inside(folder: Path, file: object) -> bool:
    return isinstance(file, str | bytes) and Path(str(file)).absolute().is_relative_to(folder.absolute())


def _whole(run: RunWriter) -> str:
    kept = saved(run.layout.checkpoints)
    if not kept:
        return "there is no checkpoint yet, so that it begins anew"
    return f"the checkpoint of step {step_in(kept[-1])} is whole"
