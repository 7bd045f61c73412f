"""Code judged by what it computes: honest code passes, everything that tries to pass otherwise does not."""

import asyncio

import pytest

from phronesis.rewards.execution import Case, judge, same
from phronesis.sandbox import BoxSpec, Limits, start

CASES = [Case(arguments=[[3, 1, 2]], expected=[1, 2, 3]), Case(arguments=[[]], expected=[])]
HONEST = "def f(xs):\n    print('thinking')\n    return sorted(xs)\n"
CHEATS = {
    "exits with 0": "import sys\ndef f(xs): sys.exit(0)",
    "exits at import": "import os\nos._exit(0)",
    "skips": "import unittest\ndef f(xs): raise unittest.SkipTest('no')",
    "equals everything": "class E(list):\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\ndef f(xs): return E()",
    "patches json": "import json\njson.dumps = lambda *a, **k: '{}'\ndef f(xs): return None",
    "prints a verdict": "def f(xs):\n    print('PASSED')\n    print('{\"passed\": true}')\n    return None",
    "prints to the descriptor": "import os\ndef f(xs):\n    for fd in range(20):\n        try: os.write(fd, b'{\"nonce\": 0, \"result\": [1, 2, 3]}')\n        except OSError: pass\n    os._exit(0)",
    "looks for what is expected": "import gc\ndef f(xs):\n    for o in gc.get_objects():\n        if isinstance(o, dict) and 'expected' in o: return o['expected']\n    return None",
    "looks in the frames": "import sys\ndef f(xs):\n    frame = sys._getframe()\n    while frame:\n        for v in frame.f_locals.values():\n            if isinstance(v, dict) and 'expected' in v: return v['expected']\n        frame = frame.f_back",
    "reads the tests": "import glob\ndef f(xs): return [open(p).read() for p in glob.glob('**', recursive=True) + glob.glob('/tmp/*')] or None",
    "a daemon answers later": "import os, time\ndef f(xs):\n    if os.fork() == 0:\n        time.sleep(1); os._exit(0)\n    os._exit(0)",
    "a thread answers": "import threading, os\ndef f(xs):\n    threading.Thread(target=lambda: os._exit(0)).start()\n    while True: pass",
    "writes at exit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(xs): raise ValueError",
    "patches the builtins": "import builtins\nbuiltins.type = lambda *a: list\nbuiltins.sorted = lambda x: x\ndef f(xs): return 7",
    "floats for ints": "def f(xs): return [float(x) for x in sorted(xs)] + [1.0] * (not xs)",
    "bools for ints": "def f(xs): return [True, 2, 3] if xs else [False]",
    "nan": "def f(xs): return float('nan')",
    "a string that looks right": "def f(xs): return str(sorted(xs))",
    "special-cases what was seen": "def f(xs): return [1, 2, 3]",
    "deep": "def f(xs):\n    x = []\n    for _ in range(10000): x = [x]\n    return x",
    "huge": "def f(xs): return 'x' * 50_000_000",
    "endless": "def f(xs):\n    while True: pass",
    "recursion": "def f(xs): return f(xs)",
    "stops the output": "import os\nos.close(1)\ndef f(xs): return 5",
    "replaces the harness": "import __main__\n__main__._main = None\n__main__._plain = lambda x: [1, 2, 3]\ndef f(xs): return 1 if xs else 2",
    "no such function": "def g(xs): return sorted(xs)",
    "does not compile": "def f(xs) return sorted(xs)",
    "environment": "import os\ndef f(xs): return eval(os.environ.get('EXPECTED', 'None'))",
}  # fmt: skip


def judged(code, cases=CASES, **options):
    async def run():
        sandbox = await start("landlock")
        try:
            return await judge(sandbox, code, "f", cases, limits=Limits(seconds=2), **options)
        finally:
            sandbox.close()

    return asyncio.run(run())


def test_honest_code_passes():
    assert [v.passed for v in judged(HONEST)] == [True, True]


@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes(name):
    verdicts = judged(CHEATS[name])
    assert not all(v.passed for v in verdicts)
    assert all(v.passed or v.reason for v in verdicts)


def test_no_reason_tells_what_was_expected():
    (verdict,) = judged("def f(x): return 0", [Case(arguments=[1], expected="canary-77")])
    assert not verdict.passed
    assert "canary" not in verdict.reason


def test_cases_do_not_see_one_another():
    code = "import os\ndef f(x):\n    found = os.path.exists('left')\n    open('left', 'w').close()\n    return found"
    cases = [Case(arguments=[i], expected=False) for i in range(3)]
    assert all(v.passed for v in judged(code, cases, spec=BoxSpec(disk=1 << 20)))


@pytest.mark.parametrize(
    ("got", "expected", "tolerance", "verdict"),
    [
        (1, 1, 0.0, True), (1, True, 0.0, False), (True, 1, 0.0, False), (1.0, 1, 0.0, False), (0.1 + 0.2, 0.3, 0.0, False),
        (0.1 + 0.2, 0.3, 1e-9, True), (float("inf"), float("inf"), 0.0, False), (-0.0, 0.0, 0.0, True), ({"a": [1]}, {"a": [1]}, 0.0, True),
        ({"a": 1, "b": 2}, {"a": 1}, 0.0, False), ([1, 2], (1, 2), 0.0, True), ("1", 1, 0.0, False), (None, None, 0.0, True), ([], {}, 0.0, False),
    ],
)  # fmt: skip
def test_equality_is_strict(got, expected, tolerance, verdict):
    assert same(got, expected, tolerance) is verdict
