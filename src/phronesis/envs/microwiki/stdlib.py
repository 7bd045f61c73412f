"""The other corpus of `microwiki`: Python's own documentation strings, and what forums and altered copies make of them.

The facts asked for are defaults of parameters, read from the running Python, so that pages and answers agree whatever its
version. Levels: 1 names the function; 2 names it and describes its module; 3 describes both.
"""

from __future__ import annotations

import importlib
import inspect
import platform
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from phronesis.envs.datadesk.sources import MODULES
from phronesis.envs.digest import digest
from phronesis.envs.microwiki.pages import FORUM, Problem
from phronesis.errors import ConfigError
from phronesis.seeding import rng
from phronesis.tools.search import Page

LEVELS = 3
OFFICIAL = "Python documentation"
TOGETHER = 8
"""Modules in a corpus of size 1."""
OFTEN = 2
"""A default that more parameters have, as False, is asked for as if these were all, so that it is no good guess."""
LONGEST = 8000
"""Characters of a documentation string that are kept."""


class Routine(NamedTuple):
    """A function and what its documentation says."""

    module: str
    name: str
    text: str
    """The page: how it is called, and the documentation string."""
    described: str
    """First line of the documentation; empty when there is none."""
    defaults: tuple[tuple[str, str], ...]
    """Parameters with a default that can be asked for, and the default."""


@lru_cache(maxsize=1)
def routines() -> dict[str, tuple[str, tuple[Routine, ...]]]:
    """By module: its documentation, and its functions that are written in Python. Modules without either are left out."""
    found: dict[str, tuple[str, tuple[Routine, ...]]] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        text = (inspect.getdoc(module) or "")[:LONGEST]
        members = sorted(vars(module).items())
        listed = [
            _routine(name, n, m) for n, m in members if inspect.isfunction(m) and not n.startswith("_") and m.__module__ == name
        ]
        if text and any(r.defaults for r in listed):
            found[name] = text, tuple(listed)
    if not found:
        raise ConfigError("this Python has no documentation strings (-OO?); run it without, or use corpus='generated'")
    return found


@lru_cache(maxsize=1)
def _parameters() -> tuple[tuple[Routine, str, str], ...]:
    """Every parameter that can be asked for, and its default."""
    return tuple(
        (r, parameter, default) for _, listed in routines().values() for r in listed for parameter, default in r.defaults
    )


@lru_cache(maxsize=1)
def _counted() -> Counter[str]:
    """How many parameters have each default."""
    return Counter(default for _, _, default in _parameters())


def _routine(module: str, name: str, function: object) -> Routine:
    assert callable(function)
    parameters = list(inspect.signature(function).parameters.values())
    simple = {p.name: repr(p.default) for p in parameters if _is_simple(p.default)}
    empty = inspect.Parameter.empty
    shown = [p.name if p.default is empty else f"{p.name}={simple.get(p.name, '…')}" for p in parameters]
    documented = (inspect.getdoc(function) or "")[:LONGEST]
    text = f"{module}.{name}({', '.join(shown)})\n\n{documented}"
    asked = tuple((parameter, default) for parameter, default in simple.items() if default != "None")  # too common to ask for
    return Routine(module, name, text, documented.split("\n")[0], asked)


def _is_simple(value: object) -> bool:
    """Whether a default is short: nothing, a truth value, a whole number, a short text without blanks."""
    return value is None or type(value) in (bool, int) or (isinstance(value, str) and 0 < len(value) < 20 and " " not in value)


def _other(default: str, chance: int) -> str:
    """A default it is not."""
    choices = [c for c in ("None", "True", "False", "0", "1", "'strict'") if c != default]
    return choices[chance % len(choices)]


@lru_cache(maxsize=64)
def stdlib(seed: str, hops: int, conflicts: float, size: int) -> tuple[tuple[Page, ...], Problem, str]:
    """The pages, the problem and its content key, which is that of the fact asked for, in this version of Python.

    Args:
        seed: decides the question and the pages.
        hops: the level, from 1 to 3.
        conflicts: chance that a forum, or an altered copy, says something else.
        size: how many times `TOGETHER` modules.
    """
    source = rng(0, "microwiki-stdlib", seed)
    known = routines()
    while True:
        chosen, parameter, default = source.choice(_parameters())
        module = chosen.module
        alike = [r for r in known[module][1] if r.described == chosen.described]
        asked = hops < LEVELS or (chosen.described and len(alike) == 1)
        if asked and source.random() < OFTEN / _counted()[default]:
            break
    ids = [f"p{n}" for n in source.sample(range(1000, 10000), 4000)]
    pages: list[Page] = []

    def add(title: str, text: str, origin: str) -> str:
        pages.append(Page(id=ids[len(pages)], title=title, text=text, source=origin))
        return pages[-1].id

    others = source.sample([m for m in known if m != module], min(TOGETHER * size, len(known)) - 1)
    places: dict[tuple[str, str], str] = {}
    for name in (module, *others):
        text, functions = known[name]
        places[name, ""] = add(name, f"{name}\n\n{text}\n\nFunctions: {', '.join(r.name for r in functions)}", OFFICIAL)
        for r in functions:
            places[name, r.name] = add(f"{name}.{r.name}", r.text, OFFICIAL)
    proof = places[module, chosen.name]
    title, wrong, trap = f"{module}.{chosen.name}", _other(default, source.randrange(100)), ""
    if source.random() < conflicts:
        if source.random() < 0.5:
            trap = add(f"What does {title} do", f"I am sure the default of {parameter} in {title} is {wrong}.", FORUM)
        else:
            altered = chosen.text.replace(f"{parameter}={default}", f"{parameter}={wrong}", 1)
            trap = add(title, altered, f"mirror of {proof}")
    source.shuffle(pages)
    problem = Problem(
        question=_question(chosen, parameter, known[module][0].split("\n")[0], hops),
        answer=default,
        evidence=(proof,) if hops == 1 else (places[module, ""], proof),
        steps=(title,) if hops == 1 else (module, title),
        misled=(wrong,) if trap else (),
        traps=(trap,) if trap else (),
    )
    return tuple(pages), problem, digest(["microwiki-stdlib", platform.python_version(), module, chosen.name, parameter])


def _question(chosen: Routine, parameter: str, about: str, hops: int) -> str:
    asked = f"What is the default of the parameter {parameter} of"
    written = "Write it as Python does."
    if hops == 1:
        return f"{asked} the function {chosen.module}.{chosen.name}? {written}"
    module = f'the module whose documentation begins "{about}"'
    if hops == 2:
        return f"{asked} the function {chosen.name} in {module}? {written}"
    return f'{asked} the function whose documentation begins "{chosen.described}" in {module}? {written}'
