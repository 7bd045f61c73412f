"""One program in namespaces of its own, with the descriptors it was given. For programs that are driven through these, such as
a browser; they get no commands and answer none.

Run by an executable file that `sandbox.confined` writes.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from phronesis.sandbox.inside import boxes, kernel

FAILED = 97
"""Exit status when the namespaces could not be made; stderr says why."""


def main(asked: dict[str, Any], command: list[str]) -> None:
    """Becomes the host side of the program. Never returns.

    Args:
        asked: fields of a box, see `sandbox.zygotes`; besides ``environment`` of the program and ``pid``, a file for the
            number of this process.
        command: path of the program and its arguments.
    """
    step = boxes.Step()
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        with open(asked["pid"], "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        asked["uid"] += os.getpid()
        boxes.separate(asked, step)
        first = os.fork()
        if first == 0:
            _first(asked, command, step)
        for number in range(3, 10):
            with _quiet():
                os.close(number)
        _, status = os.waitpid(first, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    except BaseException as error:
        _complain(step, error)


def _first(asked: dict[str, Any], command: list[str], step: boxes.Step) -> None:
    """The first process of the process namespace: starts the program, collects the dead, ends with the program."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        boxes.settle(asked, step)
        step("start the program")
        program = os.fork()
        if program == 0:
            try:
                os.execve(command[0], command, asked["environment"])
            except BaseException as error:
                _complain(step, error)
        for number in range(3, 10):
            with _quiet():
                os.close(number)
        while True:
            ended, status = os.wait()
            if ended == program:
                os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    except BaseException as error:
        _complain(step, error)


class _quiet:
    """Closing what is not open is no error."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool:
        return kind is not None and issubclass(kind, OSError)


def _complain(step: boxes.Step, error: BaseException) -> None:
    sys.stderr.write(f"phronesis: {step.name}: {error}\n")
    sys.stderr.flush()
    os._exit(FAILED)
