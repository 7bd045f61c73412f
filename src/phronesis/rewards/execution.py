"""Judging code by what it computes: each case in a box and a process of its own, compared on the host.

What is expected never enters the box, so nothing in there can be read, patched or forged into a pass: a submission that
controls its whole process can still only say a value, and the host compares that value strictly.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import cast

from msgspec import Struct

from phronesis.sandbox import BoxSpec, Limits, Sandbox

Value = None | bool | int | float | str | Sequence["Value"] | Mapping[str, "Value"]
"""What a case may pass in and expect: JSON."""

MAX_RESULT = 1 << 20
"""Bytes of an answer."""
MAX_DEPTH = 50
"""Levels of lists and objects in an answer."""

HARNESS = """
import json, os, sys
_dumps, _write, _exit = json.dumps, os.write, os._exit
def _plain(x, depth=0):
    if depth > 60:
        raise ValueError("too deep")
    kind = type(x)
    if x is None or kind in (bool, int, float, str):
        return x
    if kind in (list, tuple):
        return [_plain(v, depth + 1) for v in x]
    if kind is dict:
        return {k: _plain(v, depth + 1) for k, v in x.items() if type(k) is str or 1 / 0}
    raise TypeError("a result of type " + kind.__name__)
def _main():
    asked = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    names = {"__name__": "submission", "__builtins__": __builtins__}
    exec(compile(asked["code"], "<submission>", "exec"), names)
    result = names[asked["entry"]](*asked["arguments"])
    data = _dumps({"nonce": asked["nonce"], "result": _plain(result)}, allow_nan=True).encode()
    while data:
        data = data[_write(out, data):]
    _exit(0)
_main()
"""


class Case(Struct, frozen=True, kw_only=True):
    """A call and what it must give."""

    arguments: Sequence[Value]
    expected: Value
    tolerance: float = 0.0
    """Relative and absolute, for floats; 0 means equal."""
    hidden: bool = True
    """Whether the policy never sees it."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What came of a case."""

    passed: bool
    reason: str = ""
    """Why not: what the submission raised or said. It may quote the submission, never what was expected."""


async def judge(
    sandbox: Sandbox,
    code: str,
    entry: str,
    cases: Sequence[Case],
    *,
    limits: Limits | None = None,
    spec: BoxSpec | None = None,
) -> list[Verdict]:
    """Runs every case, each in a fresh box.

    Args:
        sandbox: makes the boxes.
        code: the submission, a Python module.
        entry: the function of it that is called.
        cases: at least one.
        limits: of one case; None: five seconds.
        spec: of the boxes; None: small ones.

    Raises:
        SandboxFault: a box broke; then nothing is known about the submission.
    """
    found: list[Verdict] = []
    for case in cases:
        found.append(await _judge_one(sandbox, code, entry, case, limits or Limits(seconds=5), spec or BoxSpec()))
    return found


async def _judge_one(sandbox: Sandbox, code: str, entry: str, case: Case, limits: Limits, spec: BoxSpec) -> Verdict:
    nonce = secrets.token_hex(16)
    asked = json.dumps({"code": code, "entry": entry, "arguments": case.arguments, "nonce": nonce}).encode()
    wide = Limits(**{**{f: getattr(limits, f) for f in limits.__struct_fields__}, "output": MAX_RESULT + 1024})
    async with await sandbox.open(spec) as box:
        ran = await box.run_python(HARNESS, stdin=asked, limits=wide)
    if ran.stopped is not None:
        return Verdict(passed=False, reason={"time": "out of time", "memory": "out of memory", "died": "died"}[ran.stopped])
    if ran.code != 0:
        last = ran.stderr.text.strip().splitlines()[-1:] or [f"exit status {ran.code}"]
        return Verdict(passed=False, reason=last[0][:300])
    if ran.stdout.truncated or ran.stdout.total > MAX_RESULT:
        return Verdict(passed=False, reason=f"the result is larger than {MAX_RESULT} bytes")
    try:
        said = cast("object", json.loads(ran.stdout.data))
    except (ValueError, RecursionError):
        return Verdict(passed=False, reason="no result was given")
    if not isinstance(said, dict) or set(cast("dict[str, object]", said)) != {"nonce", "result"}:
        return Verdict(passed=False, reason="no result was given")
    answer = cast("dict[str, object]", said)
    if answer["nonce"] != nonce:
        return Verdict(passed=False, reason="no result was given")
    right = same(answer["result"], case.expected, case.tolerance)
    return Verdict(passed=right, reason="" if right else "a wrong result")


def same(got: object, expected: Value, tolerance: float = 0.0, depth: int = 0) -> bool:
    """Equality with types: a bool is no int, an int is no float, tuples come as lists; nothing that is not finite is equal.

    >>> same([1, 2.0], [1, 2.0]), same(1, True), same(1.0, 1), same(float("nan"), float("nan"))
    (True, False, False, False)
    """
    if depth > MAX_DEPTH or type(got) is not (list if isinstance(expected, tuple) else type(expected)):
        return False
    if isinstance(expected, float):
        value = cast("float", got)
        if not (math.isfinite(value) and math.isfinite(expected)):
            return False
        return math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(expected, Mapping):
        values = cast("dict[str, object]", got)
        return values.keys() == expected.keys() and all(same(values[k], v, tolerance, depth + 1) for k, v in expected.items())
    if isinstance(expected, Sequence) and not isinstance(expected, str):
        items = cast("list[object]", got)
        pairs = zip(items, expected, strict=False)
        return len(items) == len(expected) and all(same(a, b, tolerance, depth + 1) for a, b in pairs)
    return got == expected
