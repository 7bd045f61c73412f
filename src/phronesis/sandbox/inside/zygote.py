"""A small interpreter that is always ready: each box is a fork of it, put into namespaces of its own.

It starts with an empty environment before anything secret exists in it, and has one thread, since a user namespace
demands that.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from typing import Any, cast

from phronesis.sandbox.inside import boxes, init, kernel, repl

READY = (
    "abc", "ast", "atexit", "bisect", "codeop", "collections", "contextlib", "copy", "dataclasses", "datetime", "decimal",
    "encodings.idna", "enum", "fractions", "functools", "heapq", "io", "itertools", "json", "linecache", "math", "operator",
    "random", "re", "statistics", "string", "textwrap", "threading", "time", "tokenize", "traceback", "types", "typing",
)  # fmt: skip
"""Modules that commands find already imported."""


def main(descriptor: int) -> None:
    """Opens boxes until the host goes; then everything ends."""
    assert repl.main  # boxes find it imported, since they cannot read the package
    for name in READY:
        with contextlib.suppress(ImportError):
            __import__(name)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=descriptor)
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, init.PACKET, 4)
        if not data:
            break
        asked = cast("dict[str, Any]", json.loads(data))
        told, tell = os.pipe()
        if os.fork() == 0:
            os.close(told)
            channel.close()
            _box(asked, descriptors, tell)
        os.close(tell)
        for taken in descriptors:
            os.close(taken)
        with open(told, "rb") as report:
            channel.send(report.readline() or b'{"step": "start", "text": "the process of the box died"}\n')
    sys.exit(0)


def _box(asked: dict[str, Any], descriptors: list[int], tell: int) -> None:
    """Becomes a box, and reports its first process or the step that failed. Never returns."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    step = boxes.Step()
    code = 0
    try:
        boxes.enter(asked, descriptors[0], tell, step)
    except BaseException as error:
        code = 1
        said = {"step": step.name, "text": str(error) or type(error).__name__, "errno": getattr(error, "errno", None)}
        with contextlib.suppress(OSError):
            os.write(tell, json.dumps(said).encode() + b"\n")
    finally:
        os._exit(code)
