"""Finds the mutants of `coderepair`: `python scripts/mutants.py [--out FILE] [--most 10] [MODULE ...]`.

For every module, changes are tried in a random order until enough are found that at least one recorded call and at least one of
CPython's own tests tell from the original, while others do not notice. What the calls give, which tests pass on the original
and which fail on the mutant is written down, with hashes of the module and of its tests: the file serves interpreters that have
the same ones. Needs an interpreter with the package `test`. Takes minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from phronesis.envs.coderepair import suite
from phronesis.envs.coderepair.modules import BY_NAME, SUBJECTS, Subject
from phronesis.envs.coderepair.mutate import mutations

OUT = Path(__file__).resolve().parent.parent / "src" / "phronesis" / "envs" / "coderepair" / "mutants.json"
TRIES = 90
"""Changes tried of one module."""


async def found(subject: Subject, most: int) -> dict[str, Any]:
    """What the file says of a module."""
    source, tests = suite.source(subject.name), suite.source(subject.tests)
    if source is None or tests is None:
        raise SystemExit(f"this interpreter has no {subject.name} or no {subject.tests}; install CPython with its tests")
    said = await suite.say(subject.name, source, subject.calls)
    first, second = [(await suite.suite(subject.name, source, subject.tests)).passed for _ in range(2)]
    passing = first & second
    assert said is not None and passing, subject.name
    places = mutations(source)
    random.Random(subject.name).shuffle(places)
    kept: list[dict[str, Any]] = []
    per: dict[str, int] = {}
    for mutation in places[:TRIES]:
        if len(kept) == most:
            break
        if per.get(mutation.function, 0) >= 3:
            continue
        text = mutation.apply(source)
        broken = await suite.say(subject.name, text, subject.calls)
        told = [i for i, (a, b) in enumerate(zip(said, broken or [], strict=False)) if a != b]
        if not told or len(told) == len(said):
            continue
        killed = passing - (await suite.suite(subject.name, text, subject.tests)).passed
        if not killed or len(killed) == len(passing):
            continue
        per[mutation.function] = per.get(mutation.function, 0) + 1
        kept.append({**msgspec.to_builtins(mutation), "calls": told, "killed": sorted(killed)})
    print(f"{subject.name}: {len(kept)} of {len(places)} changes, {len(passing)} tests", flush=True)
    return {
        "source": sha256(source.encode()).hexdigest(),
        "tests": sha256(tests.encode()).hexdigest(),
        "said": said,
        "passing": sorted(passing),
        "mutants": kept,
    }


async def write(names: list[str], most: int, out: Path) -> None:
    """Makes the entries of some modules anew and keeps the others."""
    known: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    for subject in SUBJECTS:
        if not names or subject.name in names:
            known[subject.name] = await found(subject, most)
            out.write_text(json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """0 when the file was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(BY_NAME)}; all by default")
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write")
    parser.add_argument("--most", type=int, default=10, help="mutants of one module")
    asked = parser.parse_args()
    asyncio.run(write(asked.modules, asked.most, asked.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
