"""Environments by name: the built-in table, the entry points of installed packages, and import paths.

Nothing is imported before it is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple, cast, get_type_hints

import msgspec

from phronesis.config.importing import import_path
from phronesis.env import EnvSpec
from phronesis.envs.native import METHODS
from phronesis.envs.trl_style import from_class
from phronesis.errors import ConfigError, UnknownName

GROUP = "phronesis.envs"
"""Entry point group: ``my-world = "my_package.my_env:make"``."""


class Listing(NamedTuple):
    """One line of `phronesis env list`."""

    name: str
    """What `get` takes."""
    path: str
    """Import path of the function that makes it."""
    description: str
    """One sentence; empty for entry points, which are not imported to be listed."""


_TEXT = "phronesis.envs.adapters.toy_text"
_ADAPTERS = "phronesis.envs.adapters"
_PROBE = "Learning probe: "

BUILT_IN = (
    Listing("ledger", "phronesis.envs.ledger:make", "Keep a check digit over look-ups that may be busy, redirect or miss"),
    Listing("guess", "phronesis.envs.guess:make", "Find a hidden number; answers are higher, lower, correct"),
    Listing(
        "countdown", "phronesis.envs.countdown:make", "Make a target from numbers; the answer is an expression, judged exactly"
    ),
    Listing("sort", "phronesis.envs.sort:make", "Sort hidden values with a machine that compares and swaps"),
    Listing("gridplan", "phronesis.envs.gridplan:make", "Plan on small boards: lake, Sokoban, mines, Blocksworld and its twin"),
    Listing("microwiki", "phronesis.envs.microwiki:make", "Questions over pages that disagree: exact answers, with proof"),
    Listing("miniweb", "phronesis.envs.miniweb:make", "Order, write, reserve on the web site of a small town, in a browser"),
    Listing("terminal", "phronesis.envs.terminal:make", "Repair and operations work at a real shell, tested afterwards"),
    Listing("coderepair", "phronesis.envs.coderepair:make", "Repair a broken module of the standard library"),
    Listing("talkworld", "phronesis.envs.talkworld:make", "Serve customers by a policy; the database shows what was done"),
    Listing(
        "datadesk", "phronesis.envs.datadesk:make", "Ask and change real SQLite databases, perturbed so that one must look"
    ),
    Listing("mergeroad", "phronesis.envs.mergeroad:make", "Merge onto a motorway while the clock runs and thinking takes time"),
    Listing("frozenlake", f"{_TEXT}:frozenlake", "Cross a frozen lake to the goal (Gymnasium FrozenLake)"),
    Listing("taxi", f"{_TEXT}:taxi", "Fetch a passenger and bring it where it wants to go (Gymnasium Taxi)"),
    Listing("cliffwalking", f"{_TEXT}:cliffwalking", "Walk along a cliff to the goal (Gymnasium CliffWalking)"),
    Listing("blackjack", "phronesis.envs.adapters.blackjack:blackjack", "Hit or stick against a dealer (Gymnasium Blackjack)"),
    Listing("miniwob", "phronesis.envs.adapters.miniwob:miniwob", "Small tasks on MiniWoB++ pages in a real browser"),
    Listing("probe-bandit", "phronesis.envs.probes:bandit", _PROBE + "one decision, always the same best answer"),
    Listing("probe-copy", "phronesis.envs.probes:copy", _PROBE + "the best answer depends on the prompt"),
    Listing("probe-memory", "phronesis.envs.probes:memory", _PROBE + "the answer is asked for one turn later"),
    Listing("probe-recovery", "phronesis.envs.probes:recovery", _PROBE + "late reward after a look-up that fails first"),
    Listing(
        "probe-bifurcation", "phronesis.envs.bifurcation:bifurcation", _PROBE + "one decisive turn among many, known which"
    ),
)
"""Environments that come with the package."""
OUTSIDE = Listing("outside", "phronesis.envs.outside:make", "A world that agents outside bring with them")
"""Known by name, too, and not among those there are to play."""
CATALOGUES = (
    Listing("harbor", f"{_ADAPTERS}.harbor:make", "Harbor task folders, played in boxes, folder=PATH"),
    Listing("reasoning_gym", f"{_ADAPTERS}.reasoning_gym:make", "reasoning-gym: 106 generators of problems, dataset=NAME"),
    Listing("openenv", f"{_ADAPTERS}.openenv.client:make", "A world behind an OpenEnv server, url=ws://…"),
    Listing("textarena", f"{_ADAPTERS}.textarena:make", "TextArena: text games for one or two players, game=NAME"),
    Listing("verifiers", f"{_ADAPTERS}.verifiers:taskset", "A taskset of verifiers v1, module=NAME or FILE"),
    Listing("verifiers_v0", f"{_ADAPTERS}.verifiers:environment", "A module with load_environment, of verifiers v0"),
)
"""Catalogues that people already have. Known by name; what they play is installed apart, with ``phronesis catalogue setup``."""
SERVED = Listing("served", "phronesis.envs.services.served:make", "Another world, played by services elsewhere, env=NAME")
"""Known by name, too, and nothing without a world."""
ROWS = Listing("rows", "phronesis.envs.rows:make", "Your own file of prompts and answers, with a judge: path=FILE")
"""Known by name, too, and nothing without a file."""


def names() -> tuple[Listing, ...]:
    """Every environment known by name: built-in ones first, then those of installed packages."""
    taken = {listing.name for listing in BUILT_IN}
    return BUILT_IN + tuple(Listing(n, p.value, "") for n, p in sorted(_installed().items()) if n not in taken)


def get(name: str, args: Mapping[str, object] | None = None) -> EnvSpec:
    """The environment of a name or an import path.

    Args:
        name: a built-in name, an installed one, or ``package.module:attribute``: a function that returns an `EnvSpec`, an
            `EnvSpec`, or a TRL-style class.
        args: arguments of that function.

    Raises:
        UnknownName: no environment or no argument of that name; suggests near ones.
        ConfigError: the module cannot be imported, an argument is missing or has the wrong type, or the result is no
            `EnvSpec`.
    """
    args = dict(args or {})
    known = {listing.name: listing.path for listing in (*names(), *CATALOGUES, OUTSIDE, ROWS, SERVED)}
    if ":" in name:
        path = name
    elif name in known:
        path = known[name]
    else:
        raise UnknownName("environment", name, known)
    found = import_path(path)
    if isinstance(found, EnvSpec):
        if args:
            raise ConfigError(f"{name!r} is a finished EnvSpec and takes no arguments, got {sorted(args)}")
        return found
    if isinstance(found, type):
        return _from_class(name, cast("type[object]", found), args)
    if not callable(found):
        raise ConfigError(f"{name!r} is {type(found).__name__!r}, expected a function that returns an EnvSpec")
    made = found(**_checked(name, found, args))
    if not isinstance(made, EnvSpec):
        raise ConfigError(f"{name!r} returned {type(made).__name__!r}, expected phronesis.env.EnvSpec")
    return made


def _from_class(name: str, found: type[object], args: dict[str, object]) -> EnvSpec:
    if all(callable(getattr(found, m, None)) for m in METHODS) and not hasattr(found, "get_reward"):
        raise ConfigError(f"{name!r} has no tasks; name a function that returns from_env({found.__name__}, tasks) instead")
    checked = _checked(name, from_class, args, skip=frozenset({"cls", "rubric", "hooks", "tell", "rows"}))
    return cast("Callable[..., EnvSpec]", from_class)(found, **checked)


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _checked(
    name: str, function: Callable[..., object], args: dict[str, object], skip: frozenset[str] = frozenset()
) -> dict[str, object]:
    """The arguments, converted to the function's type hints where it has any."""
    parameters = {
        n: p
        for n, p in inspect.signature(function).parameters.items()
        if n not in skip and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    for given in args:
        if given not in parameters:
            raise UnknownName(f"argument of environment {name!r}", given, parameters)
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in args]
    if missing:
        raise ConfigError(f"environment {name!r} needs the argument {missing[0]!r}; it takes: {', '.join(parameters)}")
    hints = get_type_hints(function)
    return {n: _convert(name, n, value, hints.get(n)) for n, value in args.items()}


def _convert(name: str, argument: str, value: object, hint: object) -> object:
    if hint is None:
        return value
    try:
        return msgspec.convert(value, type=cast("type[object]", hint))
    except msgspec.ValidationError as error:
        raise ConfigError(f"environment {name!r}: argument {argument!r} is {value!r}: {error}") from error
