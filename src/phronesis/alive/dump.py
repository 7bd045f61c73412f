"""Stacks of a process that cannot speak for itself, because C code keeps its interpreter: asked for by a signal."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from phronesis.alive import process
from phronesis.alive.record import STACKS, Status
from phronesis.alive.stacks import Frame, ThreadStack, foreign, short

_THREAD = re.compile(r"^(?:Current thread|Thread) (?P<id>0x[0-9a-f]+)(?: \[(?P<name>[^\]]*)\])? \(most recent call first\):")
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)$')
_PATIENCE_SECONDS = 2.0


def ask(folder: Path, status: Status) -> tuple[ThreadStack, ...]:
    """Makes the process that wrote `status` write its stacks, and reads them; none where it cannot be asked safely.

    The signal is only sent to the very same process, and only while that has a handler for it: to another it would be the end.
    """
    pid = status.process.pid
    if status.signal is None or process.runs(status.process) is not True or process.state(pid) == "T":
        return ()
    if process.catches(pid, status.signal) is False:
        return ()
    path = folder / STACKS
    try:
        before = path.stat().st_size
        os.kill(pid, status.signal)
    except OSError:
        return ()
    deadline, size = time.monotonic() + _PATIENCE_SECONDS, before
    while time.monotonic() < deadline:
        time.sleep(0.05)
        try:
            now = path.stat().st_size
            if now > before and now == size:
                return parse(path.read_bytes()[before:].decode(errors="replace"))
        except OSError:
            return ()
        size = now
    return ()


def parse(text: str) -> tuple[ThreadStack, ...]:
    """The threads in what `faulthandler` writes, the main one (which it writes last) first.

    >>> parse('Thread 0x01 (most recent call first):\\n  File "/a/b/c/d.py", line 3 in wait\\n')[0].frames[0].file
    'b/c/d.py'
    """
    found: list[tuple[str, list[Frame]]] = []
    for line in text.splitlines():
        if head := _THREAD.match(line):
            found.append((head["name"] or f"thread {head['id']}", []))
        elif (frame := _FRAME.match(line)) and found:
            number = int(frame["line"]) if frame["line"].isdigit() else 0
            file = frame["file"]
            found[-1][1].append(Frame(file=short(file), line=number, function=frame["function"], foreign=foreign(file)))
    return tuple(ThreadStack(name=name, frames=tuple(frames)) for name, frames in reversed(found))
