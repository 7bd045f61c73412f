"""What foreign code raised, as a record of the episode."""

from __future__ import annotations

import asyncio
import traceback

from phronesis.errors import PolicyFault
from phronesis.records import Failure

FOREIGN = (Exception, SystemExit, asyncio.CancelledError)
"""What user code may raise without ending more than its episode; see `is_cancelled`."""


def is_cancelled(error: BaseException) -> bool:
    """Whether the caller gave up. Foreign code may raise `CancelledError` too, by awaiting something that was cancelled."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def hung(where: str, seconds: float) -> Failure:
    """Foreign code gave no answer in time."""
    return Failure(where=where, kind="Hung", message=f"no answer within {seconds:g} s; raise the limit or mend the call")


def describe(where: str, error: BaseException) -> Failure:
    """An exception as a record: type, text (first 2,000 characters), last six frames."""
    frames = traceback.format_list(traceback.extract_tb(error.__traceback__)[-6:])
    kind = type(error).__name__
    text = str(error.__cause__ or error) if type(error) is PolicyFault else str(error)
    return Failure(where=where, kind=kind, message=text[:2000], traceback="".join(frames) or None)
