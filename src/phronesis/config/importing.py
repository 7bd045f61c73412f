"""Users' own code, named by import path."""

from __future__ import annotations

import importlib
from typing import TypeVar

from phronesis.errors import ConfigError, UnknownName

T = TypeVar("T")

EXTRAS = {"gymnasium": "gym", "mcp": "mcp", "playwright": "browser", "pyarrow": "data", "websockets": "openenv"}
"""Module that not every installation has -> the extra of `pyproject.toml` that brings it."""


def import_path(path: str) -> object:
    """The object at ``package.module:attribute`` (attributes may be dotted).

    Raises:
        ConfigError: not of that form, no such module, the module fails to import, or it has no such attribute.

    >>> import_path("math:tau")
    6.283185307179586
    """
    module_name, colon, attribute = path.partition(":")
    if not (colon and attribute and all(p.isidentifier() for p in [*module_name.split("."), *attribute.split(".")])):
        raise ConfigError(f"{path!r} is not an import path; write 'package.module:attribute'")
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigError(
                f"no module {error.name!r} (from {path!r}); install it, or put its folder on PYTHONPATH"
            ) from error
        missing = error.name or "?"
        extra = EXTRAS.get(missing.partition(".")[0])
        advice = f"; install it with: pip install 'phronesis[{extra}]'" if extra is not None else ""
        raise ConfigError(f"importing {module_name!r} needs the module {missing!r}, which is not installed{advice}") from error
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ConfigError(f"importing {module_name!r} failed with {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise ConfigError(str(UnknownName(f"attribute of {module_name}", part, public)))
        found = getattr(found, part)
    return found


def import_made(path: str, kind: type[T], what: str) -> T:
    """The object of a kind at an import path, or the one that the class or function there makes without arguments.

    Args:
        path: ``package.module:attribute``.
        kind: a class, or a protocol that can be checked.
        what: what it is not, for the message, e.g. ``a rubric: it has no async score(group)``.

    Raises:
        ConfigError: it cannot be imported or made, or is of another kind.
    """
    found = import_path(path)
    made: object = found
    is_one = isinstance(found, kind) and not isinstance(found, type)
    if callable(found) and not is_one:
        try:
            made = found()
        except Exception as error:  # the boundary to user code
            raise ConfigError(f"{path!r} cannot be made without arguments: {type(error).__name__}: {error}") from error
    if not isinstance(made, kind):
        raise ConfigError(f"{path!r} is a {type(made).__name__}, not {what}")
    return made
