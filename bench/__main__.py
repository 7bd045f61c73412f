"""`python -m bench [CASE ...]` measures and prints the table; `python -m bench compare A.json B.json` compares two results;
`python -m bench stability ...` is a study with options of its own (see `bench.stability`)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from bench.crowd.case import crowd, long
from bench.engine import engine
from bench.group import group
from bench.learner import learner
from bench.maths import maths
from bench.measure import QUICK, Row, difference, read, table, write
from bench.multitask import multitask
from bench.overlap import overlap
from bench.push import push
from bench.push_ray import push_ray
from bench.sandbox import sandbox
from bench.services import services
from bench.stability import main as stability
from bench.trl_guess.case import learning, speed

CASES: dict[str, Callable[[], list[Row]]] = {
    "trl-guess": speed,
    "learner": learner,
    "engine": engine,
    "trl-learning": learning,
    "maths": maths,
    "sandbox": sandbox,
    "overlap": overlap,
    "multitask": multitask,
    "group": group,
    "push": push,
    "push-ray": push_ray,
    "crowd": crowd,
    "crowd-long": long,
    "services": services,
}
"""Name -> what measures it."""
DEFAULT = ("trl-guess", "learner", "engine")
"""Cases of a plain run; the others take longer and are named."""

SMALL = ("crowd", "group", "multitask", "push", "services")
"""Cases that know `--quick`."""


def main(arguments: list[str]) -> None:
    """Command line."""
    if arguments[:1] == ["compare"]:
        before, after = (read(Path(p)) for p in arguments[1:3])
        print(difference(before, after))
        return
    if arguments[:1] == ["stability"]:
        stability(arguments[1:])
        return
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("case", nargs="*", help=f"any of {', '.join(CASES)}; none means {', '.join(DEFAULT)}")
    small = ", ".join(SMALL)
    parser.add_argument("--quick", action="store_true", help=f"only see that it runs, in seconds, not minutes ({small})")
    given = parser.parse_args(arguments)
    names: list[str] = given.case or list(DEFAULT)
    if unknown := [n for n in names if n not in CASES]:
        parser.error(f"unknown case {unknown[0]!r}; known: {', '.join(CASES)}")
    if given.quick:
        if large := [n for n in names if n not in SMALL]:
            parser.error(f"case {large[0]!r} knows no --quick; those that do: {small}")
        os.environ[QUICK] = "1"
    rows: list[Row] = []
    for name in names:
        print(f"bench: {name} ...", file=sys.stderr, flush=True)
        rows += CASES[name]()
    path = write(rows)
    print(table(rows))
    print(f"\nbench: written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
