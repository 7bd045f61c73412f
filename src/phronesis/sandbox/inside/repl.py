"""A Python that keeps its variables from one piece of code to the next. Runs in a box, as a program of its own.

Reads one JSON line ``{"code", "most"}``, runs the code, answers one JSON line ``{"output", "truncated", "value",
"error"}``. What the code prints, also through its children, goes to a file and from there into the answer. Code that looks
for the answer's way out can forge an answer; that gains it nothing, since an answer is only what the tool says.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import traceback
from typing import Any


def main() -> None:
    """Until the input ends."""
    lines, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    place = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"output-{os.getpid()}")
    log = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    os.unlink(place)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    for count, line in enumerate(lines, 1):
        asked = json.loads(line)
        os.ftruncate(log, 0)
        value, error = run(asked["code"], names, f"<cell {count}>")
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                sys.stdout = sys.stderr = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        told = {"value": value, "error": error, **_taken(log, asked["most"])}
        answers.write(json.dumps(told).encode() + b"\n")
        answers.flush()


def run(code: str, names: dict[str, Any], name: str) -> tuple[str | None, str | None]:
    """Runs code; the value of its last line if that is an expression, and the traceback if it raised."""
    import linecache

    linecache.cache[name] = len(code), None, code.splitlines(keepends=True), name  # so that tracebacks show the lines
    try:
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), names)
        if not isinstance(last, ast.Expr):
            return None, None
        value = eval(compile(ast.Expression(last.value), name, "eval"), names)
        return (None if value is None else repr(value)), None
    except SystemExit as leaving:
        return None, f"SystemExit: {leaving.code}"
    except BaseException as error:
        shown = error.__traceback__.tb_next if error.__traceback__ else None
        return None, "".join(traceback.format_exception(type(error), error, shown)).rstrip()


def _taken(log: int, most: int) -> dict[str, Any]:
    size = os.fstat(log).st_size
    if size <= most:
        return {"output": os.pread(log, size, 0).decode("utf-8", "replace"), "truncated": 0}
    head, tail = os.pread(log, most // 2, 0), os.pread(log, most // 2, size - most // 2)
    missing = size - len(head) - len(tail)
    text = head.decode("utf-8", "replace") + f"\n[{missing} bytes left out]\n" + tail.decode("utf-8", "replace")
    return {"output": text, "truncated": missing}
