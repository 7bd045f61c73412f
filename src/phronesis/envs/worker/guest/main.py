"""The worker: serves one catalogue to the host. Started as a script by an interpreter that knows nothing of Phronesis.

Before anything else is imported it moves its two pipes to descriptors of their own, so that whatever libraries print, and
whatever they read, cannot reach the host. Each line is one JSON object::

    -> {"id": "5f…", "op": "hello", "catalogue": "/…/reasoning_gym.py", "args": {"dataset": "chain_sum"}}
    <- {"id": "5f…", "ok": {"package": "reasoning-gym", "version": "0.1.25"}}
    -> {"id": "c0…", "op": "reset", "episode": "e7", "task": {…}, "seed": 3}
    <- {"id": "c0…", "error": {"kind": "fault", "text": "ValueError: …"}}

Kinds of error: ``missing`` (a package is not installed), ``user`` (the arguments are wrong), ``fault`` (anything else).
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any, cast

MOST = 1 << 24
"""Bytes of an answer."""
OPS = ("hello", "list_tasks", "reset", "step", "state", "score", "close")
"""What can be asked."""


class Wrong(Exception):
    """What was asked cannot be: the caller's mistake, not the catalogue's."""


def private_pipes() -> tuple[int, int]:
    """Moves standard input and output to other descriptors, and leaves nothing and a sink in their place."""
    given, told = os.dup(0), os.dup(1)
    for descriptor in (given, told):
        os.set_inheritable(descriptor, False)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    if "--quiet" in sys.argv:  # errors would go where output goes
        os.dup2(nothing, 2)
    os.close(nothing)
    return given, told


def load(path: str, args: dict[str, Any]) -> object:
    """Opens the catalogue in a file: what its function ``catalogue(**args)`` returns."""
    spec = importlib.util.spec_from_file_location("phronesis_guest", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.Wrong = Wrong  # pyright: ignore[reportAttributeAccessIssue]
    spec.loader.exec_module(module)
    return module.catalogue(**args)


def plain(value: object) -> object:
    """The value as JSON can carry it; numbers that are not finite become words, foreign numbers become ours."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return value if isinstance(value, int) or math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in cast("dict[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("list[object]", value)]
    item = getattr(value, "item", None)  # numbers of numpy
    return plain(item()) if callable(item) and getattr(value, "shape", None) == () else str(value)


class Worker:
    """One catalogue, many episodes."""

    def __init__(self) -> None:
        self.catalogue: object = None

    def answer(self, line: bytes) -> dict[str, Any]:
        """What is answered to one line."""
        number: object = None
        try:
            asked = cast("dict[str, Any]", json.loads(line))
            number, op = asked.pop("id"), asked.pop("op")
            return {"id": number, "ok": plain(self._do(op, asked))}
        except ModuleNotFoundError as error:
            return _error(number, "missing", str(error))
        except Wrong as error:
            return _error(number, "user", str(error))
        except (KeyboardInterrupt, SystemExit) as error:
            return _error(number, "fault", f"the package wanted to end the process: {error!r}")
        except BaseException as error:
            return _error(number, "fault", f"{type(error).__name__}: {error}")

    def _do(self, op: str, asked: dict[str, Any]) -> object:
        if op not in OPS:
            raise Wrong(f"unknown operation {op!r}; known: {', '.join(OPS)}")
        if op == "hello":
            self.catalogue = load(asked["catalogue"], asked["args"])
        method = cast("Callable[..., object] | None", getattr(self.catalogue, op, None))
        if method is None:
            raise Wrong(f"this catalogue has no operation {op!r}")
        return method() if op == "hello" else method(**asked)


def _error(number: object, kind: str, text: str) -> dict[str, Any]:
    return {"id": number, "error": {"kind": kind, "text": text[:2000]}}


def main() -> None:
    """Serves until the host closes its end."""
    given, told = private_pipes()
    worker = Worker()
    with open(given, "rb") as lines, open(told, "wb") as out:
        for line in lines:
            answer = json.dumps(worker.answer(line), ensure_ascii=True).encode()
            if len(answer) > MOST:
                answer = json.dumps(_error(json.loads(line).get("id"), "fault", f"an answer of {len(answer)} bytes")).encode()
            out.write(answer + b"\n")
            out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
