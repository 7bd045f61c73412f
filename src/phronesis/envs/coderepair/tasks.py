"""Tasks of `coderepair`: a mutant, a module without its pristine copy, a few tests to see and all of them for afterwards.

Mutants come from a file that `scripts/mutants.py` writes. It serves every interpreter whose modules are the same, byte by byte;
what it says of others is left out.
"""

from __future__ import annotations

import ast
import functools
import json
import random
from collections.abc import Collection, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Struct

from phronesis.envs.coderepair import suite
from phronesis.envs.coderepair.modules import BY_NAME, Subject
from phronesis.envs.coderepair.mutate import Mutation
from phronesis.envs.digest import digest
from phronesis.errors import ConfigError
from phronesis.records import Task, say
from phronesis.seeding import rng

DATA = Path(__file__).with_name("mutants.json")
"""The mutants that come with the package."""
HIDDEN_CALLS, OTHER_CALLS = 2, 1
"""Calls compared afterwards: of those that tell the mutant from the original, and of the others; at most."""
SHOWN = 4
"""Passing tests that are shown beside a failing one; at most."""


class Mutant(Struct, frozen=True, kw_only=True):
    """A way to break a module, and who notices."""

    module: str
    """Its name."""
    mutation: Mutation
    """The change."""
    calls: tuple[int, ...]
    """Calls of the module that give something else."""
    killed: tuple[str, ...]
    """CPython's tests that fail."""


class Known(Struct, frozen=True, kw_only=True):
    """What is known of a module of this interpreter."""

    source: str
    """Its text."""
    tests: str | None
    """The text of CPython's tests; None where this interpreter has none, or other ones: then only calls are compared."""
    said: tuple[str, ...]
    """What its calls give."""
    passing: tuple[str, ...]
    """Tests that it passes."""


class Stock(NamedTuple):
    """Mutants that can be played here."""

    known: dict[str, Known]
    """By module."""
    mutants: dict[str, list[Mutant]]
    """By split."""
    left_out: tuple[str, ...]
    """Modules of the file that are not those of this interpreter."""


@functools.cache
def stock(path: Path = DATA) -> Stock:
    """The mutants of a file that fit this interpreter.

    Raises:
        ConfigError: the file cannot be read, or none of a split fits.
    """
    try:
        read = cast("dict[str, dict[str, Any]]", json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"coderepair: {str(path)!r} cannot be read ({error}); python scripts/mutants.py writes it") from error
    known: dict[str, Known] = {}
    mutants: dict[str, list[Mutant]] = {"train": [], "heldout": []}
    left_out: list[str] = []
    for name in sorted(read):
        entry, subject = read[name], BY_NAME.get(name)
        source = suite.source(name) if subject else None
        if subject is None or source is None or _hash(source) != entry["source"] or len(entry["said"]) != len(subject.calls):
            left_out.append(name)
            continue
        tests = suite.source(subject.tests)
        same = tests is not None and _hash(tests) == entry["tests"]
        known[name] = Known(
            source=source, tests=tests if same else None, said=tuple(entry["said"]), passing=tuple(entry["passing"])
        )
        for made in entry["mutants"]:
            mutants[subject.split].append(msgspec.convert({**made, "module": name, "mutation": made}, Mutant))
    if empty := [split for split, found in mutants.items() if not found]:
        raise ConfigError(
            f"coderepair: no mutant of {' and '.join(empty)} is of a module of this interpreter; "
            "python scripts/mutants.py --out FILE makes some, and mutants=FILE plays them"
        )
    return Stock(known, mutants, tuple(left_out))


def task(path: Path, split: str, index: int, difficulty: tuple[int, int]) -> Task:
    """The task of that split and index. Level 1 names the function that is broken, level 2 does not.

    Raises:
        ConfigError: see `stock`.
    """
    here = stock(path)
    mutants = here.mutants["train" if split == "train" else "heldout"]
    mutant = mutants[index % len(mutants)]
    source = rng(index, "coderepair", split)
    level = source.randint(*difficulty)
    known, subject = here.known[mutant.module], BY_NAME[mutant.module]
    told = list(mutant.calls)
    others = [i for i in range(len(subject.calls)) if i not in told]
    calls = source.sample(told, min(HIDDEN_CALLS, len(told))) + source.sample(others, min(OTHER_CALLS, len(others)))
    where = f"The function {mutant.mutation.function}" if level == 1 else "One function"
    tests = "" if known.tests is None else " run_tests runs some of its tests, in a process of its own."
    text = (
        f"{where} of the Python module {mutant.module} is broken by one small change. Find and repair it: read and search the "
        f"file, and edit it.{tests} Afterwards other tests are run, so change nothing else. Say that you are done when you are."
    )
    return Task(
        id=f"coderepair-{split}-{index}",
        env="coderepair",
        messages=(say("user", text),),
        payload={
            "module": mutant.module,
            "mutant": msgspec.to_builtins(mutant),
            "calls": [subject.calls[i] for i in calls],
            "said": [known.said[i] for i in calls],
            "shown": shown(mutant, known.passing, source),
        },
        split=split,
        difficulty=float(level),
        content_key=digest(["coderepair", mutant.module, msgspec.to_builtins(mutant.mutation), level]),
    )


def shown(mutant: Mutant, passing: Sequence[str], source: random.Random) -> list[str]:
    """Names of the tests that the agent may run: a failing one and some others."""
    failing = [name for name in mutant.killed if "." in name]
    others = [name for name in passing if name not in mutant.killed and "." in name]
    return sorted([*source.sample(failing, min(1, len(failing))), *source.sample(others, min(SHOWN, len(others)))])


def visible(tests: str, names: Collection[str]) -> str:
    """A module of tests without all methods ``test…`` but some.

    >>> tests = "class A:\\n    def test_a(self): pass\\n    def test_b(self): pass\\n    def help(self): pass\\n"
    >>> print(visible(tests, ["A.test_b"]))
    class A:
        def test_b(self): pass
        def help(self): pass

    Args:
        tests: its text.
        names: ``Class.method`` of those to keep; a method of that name is kept in every class, since classes inherit.
    """
    kept = {name.rpartition(".")[2] for name in names}
    lines = tests.splitlines()
    gone: set[int] = set()
    empty: dict[int, str] = {}
    for node in ast.walk(ast.parse(tests)):
        if not isinstance(node, ast.ClassDef):
            continue
        left = len(node.body)
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef) and inner.name.startswith("test") and inner.name not in kept:
                first = min([inner.lineno, *(d.lineno for d in inner.decorator_list)])
                gone.update(range(first, (inner.end_lineno or inner.lineno) + 1))
                left -= 1
        if left == 0:
            empty[node.body[0].lineno] = " " * node.body[0].col_offset + "pass"
    return "\n".join(empty.get(n, line) for n, line in enumerate(lines, 1) if n not in gone or n in empty)


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def subject_of(payload: dict[str, Any]) -> Subject:
    """The module of a task."""
    return BY_NAME[payload["module"]]
