"""Runs a command until it ends or until whoever started this script is gone; then nothing of it is left.

Usage: ``python guard.py GRACE COMMAND...`` with a pipe for standard input. The pipe closes when the starting process lets go
of it or dies in any way, SIGKILL included. Then the command gets SIGTERM, and what is left of its process group SIGKILL: GRACE
seconds later, or two after the command itself is gone. Where this script is killed (Ray ends the children of its workers),
the kernel sends the command SIGTERM. It imports the standard library alone, so that it starts at once.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time


def main() -> int:
    """Guards one command; returns its exit code."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, _stay)  # the pipe alone decides; ignoring would be inherited by the command
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_us)

    def watch() -> None:
        while os.read(0, 4096):
            pass
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)  # it stops its own helpers, and cleans up after them
        ends = time.monotonic() + grace
        while time.monotonic() < ends and child.poll() is None:
            time.sleep(0.05)
        if child.poll() is None:
            _kill(child.pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    ends = time.monotonic() + min(grace, 2.0)
    while time.monotonic() < ends and _there(child.pid):  # its helpers may still clean up
        time.sleep(0.05)
    _kill(child.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _end_with_us() -> None:
    """In the command, before it runs: SIGTERM when the thread that started it, our main one, is gone. Linux alone does that."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG


def _stay(number: int, frame: object) -> None:
    pass


def _kill(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
