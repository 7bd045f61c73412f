"""Running a module that an agent has changed: single calls compared on the host, and CPython's own tests beside it.

Both run in fresh boxes in which every copy of the module that the machine has is hidden. What a call should give never enters
a box. A whole test suite runs in the same process as what it tests, so a submission that knows how could forge its results;
therefore the calls decide first, the results carry a number that only the host chose, and tests that must fail are among them.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib.util
import json
import os
import secrets
from collections.abc import Sequence
from typing import Any, cast

from msgspec import Struct

from phronesis.envs import boxes
from phronesis.sandbox import Box, BoxSpec, Limits, Ran
from phronesis.sandbox.zygotes import interpreter, view

CALL_CPU, SUITE_CPU = 1, 2
"""CPU-seconds that a call or a suite may take."""
CALL_TIME, SUITE_TIME = 3.0, 12.0
"""Seconds on the clock that they may take: a busy machine is nobody's fault. Together less than a rollout waits for a world."""
MOST_OUTPUT = 256 << 10
"""Bytes of results that are read."""
NO_LIBRARIES = frozenset(f"/usr/{name}" for name in ("include", "src", "share/doc", "share/icons", "share/locale", "share/man"))
"""Large folders without programs."""
PACKAGES = frozenset(("site-packages", "dist-packages"))
"""Folders of what was installed."""
START = """
import json, os, sys
_asked = json.loads(sys.stdin.buffer.read())
_out = os.dup(1)
os.dup2(2, 1)
_dumps, _write, _leave = json.dumps, os.write, os._exit
def _tell(**said):
    data = _dumps({"nonce": _asked["nonce"], **said}).encode()
    while data:
        data = data[_write(_out, data):]
    _leave(0)
sys.path.insert(0, "lib")
"""
CALLS = (
    START
    + """
def _said(text, m):
    try:
        return "gives " + repr(eval(text, {"m": m}))
    except Exception as error:
        return "raises " + type(error).__name__ + ": " + str(error)
_m = __import__(_asked["module"])
_tell(said=[_said(text, _m) for text in _asked["calls"]])
"""
)
SUITE = (
    START
    + """
import unittest
class Result(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.passed, self.skips = [], []
    def addSuccess(self, test):
        self.passed.append(test.id())
    def addSkip(self, test, reason):
        self.skips.append(test.id())
class Sentinel(unittest.TestCase):
    def test_equal(self):
        self.assertEqual(*_asked["pair"])
    def test_true(self):
        self.assertTrue(_asked["pair"][0] == _asked["pair"][1])
    def test_raises(self):
        with self.assertRaises(ValueError):
            pass
    def test_in(self):
        self.assertIn(_asked["pair"][0], _asked["pair"][1:])
    def test_plain(self):
        assert _asked["pair"][0] == _asked["pair"][1]
_load = unittest.defaultTestLoader
_result = Result()
_sentinels = _load.loadTestsFromTestCase(Sentinel)
_suite = unittest.TestSuite([_sentinels, _load.loadTestsFromName(_asked["tests"]), _load.loadTestsFromTestCase(Sentinel)])
_suite.run(_result)
_tell(passed=_result.passed, skipped=_result.skips, run=_result.testsRun)
"""
)
SHOWN = """
import sys
sys.path[:0] = ["lib", "tests"]
import unittest
unittest.main("visible", argv=["visible"])
"""
SENTINELS = 10
"""Tests that must fail, those before and those after the suite together."""


class Results(Struct, frozen=True, kw_only=True):
    """What came of a suite."""

    passed: frozenset[str] = frozenset()
    """Names of the tests that passed, without their module."""
    forged: bool = False
    """Tests passed that must fail, or what was told was not told by the harness."""


@functools.cache
def elsewhere() -> tuple[str, ...]:
    """Everything that a box shows where another copy of a module may lie: the libraries of other Pythons, which some programs
    bring along, packed libraries, and all that was installed beside the standard library. No test needs them."""
    own, found = os.path.realpath(os.path.dirname(os.__file__)), set[str]()
    for top in (inside for host, inside in view(BoxSpec())[0] if os.path.isdir(host)):
        for folder, inner, names in os.walk(top):
            if {"os.py", "abc.py"} & set(names) == {"os.py", "abc.py"} and os.path.realpath(folder) != own:
                found.add(folder)
                inner.clear()
            beside = PACKAGES & set(inner)
            found.update(os.path.join(folder, name) for name in beside)
            inner[:] = [name for name in inner if name not in beside and os.path.join(folder, name) not in NO_LIBRARIES]
            found.update(os.path.join(folder, name) for name in fnmatch.filter(names, "python3*.zip"))
    return tuple(sorted(found))


@functools.cache
def _library() -> tuple[str, ...]:
    """Every file of the standard library."""
    found: list[str] = []
    for folder, inner, names in os.walk(os.path.dirname(os.__file__)):
        inner[:] = [name for name in inner if name not in PACKAGES]
        found += [os.path.join(folder, name) for name in names]
    return tuple(found)


@functools.cache
def copies(module: str) -> tuple[str, ...]:
    """Every place on this machine where a box could read the module or its compiled form."""
    compiled = f"__pycache__/{module}."
    own = [p for p in _library() if p.endswith(f"/{module}.py") or (compiled in p and p.endswith(".pyc"))]
    return tuple(sorted({*elsewhere(), *own}))


def spec(module: str) -> BoxSpec:
    """The box in which a module is tried."""
    return BoxSpec(disk=8 << 20, files=256, memory=512 << 20, processes=32, hidden=copies(module))


def source(module: str) -> str | None:
    """The text of a module; None when this interpreter has none."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return None
    with open(found.origin, encoding="utf-8") as file:
        return file.read()


async def say(module: str, text: str, calls: Sequence[str]) -> list[str] | None:
    """What calls of a module give, as text; None when it told nothing, e.g. because it cannot be imported.

    Args:
        module: its name.
        text: its source.
        calls: expressions, all in one process.

    Raises:
        SandboxFault: the box broke.
    """
    nonce = secrets.token_hex(16)
    told = _told(await _run(module, text, CALLS, {"module": module, "calls": list(calls), "nonce": nonce}), nonce)
    said = told.get("said")
    return cast("list[str]", said) if isinstance(said, list) else None


async def suite(module: str, text: str, tests: str) -> Results:
    """Runs a module's tests beside it.

    Args:
        module: its name.
        text: its source.
        tests: name of the module of tests.

    Raises:
        SandboxFault: the box broke.
    """
    nonce, pair = secrets.token_hex(16), [secrets.randbits(40), secrets.randbits(40), secrets.randbits(40)]
    told = _told(await _run(module, text, SUITE, {"tests": tests, "pair": pair, "nonce": nonce}), nonce)
    if not told:
        return Results()
    names = {str(name) for name in told.get("passed", [])}
    inside = f"{tests}."
    passed = frozenset(name.removeprefix(inside) for name in names if name.startswith(inside))
    run = told.get("run")
    forged = any("Sentinel" in name for name in names) or not isinstance(run, int) or run < len(passed) + SENTINELS
    return Results(passed=frozenset() if forged else passed, forged=forged)


async def show(module: str, text: str, tests: str) -> Ran:
    """Runs the visible tests and gives what they print.

    Raises:
        SandboxFault: the box broke.
    """
    return await _run(module, text, SHOWN, {}, {"tests/visible.py": tests})


async def _run(module: str, text: str, program: str, asked: dict[str, object], files: dict[str, str] | None = None) -> Ran:
    hidden = spec(module)
    cpu, seconds = (CALL_CPU, CALL_TIME) if program is CALLS else (SUITE_CPU, SUITE_TIME)

    async def use(box: Box) -> Ran:
        await box.write(f"lib/{module}.py", text.encode("utf-8", "surrogateescape"))
        for path, content in (files or {}).items():
            await box.write(path, content.encode())
        return await box.run(
            [interpreter(), "-I", "-S", "-B", "-X", "utf8", "-c", program],
            stdin=json.dumps(asked).encode(),
            limits=Limits(seconds=seconds, cpu=cpu, output=MOST_OUTPUT),
        )

    return await boxes.tried(hidden, use)


def _told(ran: Ran, nonce: str) -> dict[str, Any]:
    """What the harness said; nothing when it was not the harness that said it, or the process ended otherwise."""
    if not ran.ok or ran.stopped is not None or ran.stdout.truncated:
        return {}
    try:
        said = cast("object", json.loads(ran.stdout.data))
    except (ValueError, RecursionError):
        return {}
    told = cast("dict[str, Any]", said) if isinstance(said, dict) else dict[str, Any]()
    return told if told.get("nonce") == nonce else {}
