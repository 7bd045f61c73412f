"""Finding and ending all processes below one, from outside, where no process namespace does it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path


def below(pid: int) -> list[int]:
    """Processes below one, nearest first. Orphans are below it too, if it adopts them (a subreaper)."""
    found, pending = list[int](), [pid]
    while pending:
        one = pending.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                text = Path(f"/proc/{one}/task/{task}/children").read_text(encoding="ascii")
                children = [int(child) for child in text.split()]
                found += children
                pending += children
    return found


async def sweep(pid: int) -> None:
    """Kills everything below a process. Each is stopped first, so that none can start another meanwhile."""
    stopped: set[int] = set()
    while fresh := [p for p in below(pid) if p not in stopped]:
        for one in fresh:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGSTOP)
        stopped.update(fresh)
    for one in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    while any(p in stopped for p in below(pid)):
        await asyncio.sleep(0.005)


def processes_of(uid: int) -> int:
    """How many tasks a user has on this machine."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count
