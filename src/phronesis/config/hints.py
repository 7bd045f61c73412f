"""Questions about the types of config fields: which structs a union holds, what a field accepts, its default.

Everything that looks inside a type annotation is here, so that `phronesis.config.resolve` reads as rules about values.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping, MutableMapping, Sequence
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar, Union, cast, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct

Hint: TypeAlias = object
"""A type annotation."""

NONE = type(None)

NONE_TEXT = "none"
"""What stands for None in files and on the command line, in fields that may be None."""


class Tag(NamedTuple):
    """How one alternative of a union is told apart."""

    field: str
    """The key that holds the tag, usually ``type``."""
    value: str
    """This alternative's tag."""


def join(path: str, key: str) -> str:
    """A dotted path, one step deeper."""
    return f"{path}.{key}" if path else key


def members(hint: Hint) -> list[Hint]:
    """The alternatives of a (possibly annotated) union; the hint itself when it is none."""
    origin = get_origin(hint)
    if origin is Annotated:
        return members(get_args(hint)[0])
    if origin in (Union, UnionType):
        return [m for arg in get_args(hint) for m in members(arg)]
    return [hint]


def structs(alternatives: Sequence[Hint]) -> list[type[Struct]]:
    """The struct classes among `alternatives`."""
    return [m for m in alternatives if isinstance(m, type) and issubclass(m, Struct)]


def tag(cls: type[Struct]) -> Tag | None:
    """The tag of a class; None when it has none."""
    config = cls.__struct_config__
    return None if config.tag is None else Tag(str(config.tag_field), str(config.tag))


def fields(cls: type[Struct]) -> dict[str, Hint]:
    """Name in files and on the command line -> type, in order."""
    return {f.encode_name: f.type for f in msgspec.structs.fields(cls)}


def optional_fields(cls: type[Struct]) -> set[str]:
    """Names of the fields that may be None."""
    return {name for name, hint in fields(cls).items() if NONE in members(hint)}


def defaults(cls: type[Struct]) -> dict[str, object]:
    """The default values of a class as plain values, its tag included; required fields are absent."""
    own = tag(cls)
    table: dict[str, object] = {} if own is None else {own.field: own.value}
    for f in msgspec.structs.fields(cls):
        if f.default is not NODEFAULT:
            table[f.encode_name] = msgspec.to_builtins(f.default, str_keys=True)
        elif f.default_factory is not NODEFAULT:
            table[f.encode_name] = msgspec.to_builtins(f.default_factory(), str_keys=True)
    return table


def accepts_anything(alternatives: Sequence[Hint]) -> bool:
    """True when a table put here is not looked into."""
    return any(m is Any or m is object or m is dict or isinstance(m, TypeVar) for m in alternatives)


def table_value(alternatives: Sequence[Hint]) -> Hint | None:
    """The value type of the table among `alternatives`; None when there is none."""
    for m in alternatives:
        if get_origin(m) in (dict, Mapping, MutableMapping):
            return cast(Hint, get_args(m)[1])
    return None


def list_item(alternatives: Sequence[Hint]) -> Hint | None:
    """The item type of the list among `alternatives` when items are looked into; None when there is none."""
    for m in alternatives:
        args = get_args(m)
        if (
            get_origin(m) in (list, tuple, Sequence)
            and args
            and (len(args) == 1 or args[1] is Ellipsis)
            and structs(members(args[0]))
        ):
            return cast(Hint, args[0])
    return None


def choices(alternatives: Sequence[Hint]) -> list[str]:
    """The texts allowed, when only certain texts are; empty otherwise."""
    found: list[str] = []
    for m in alternatives:
        if m is str:
            return []
        if get_origin(m) is Literal:
            found += [a for a in get_args(m) if isinstance(a, str)]
        elif isinstance(m, type) and issubclass(m, Enum):
            found += [str(e.value) for e in m]
    return found


def describe(hint: Hint) -> str:
    """A type as a reader of an error message knows it."""
    names: list[str] = []
    for m in members(hint):
        if m is NONE:
            names.append("none")
        elif isinstance(m, type) and issubclass(m, Struct):
            names.append(f"a table ({m.__name__})")
        elif isinstance(m, type) and get_origin(m) is None:
            names.append(m.__name__)
        else:
            names.append(str(m).replace("typing.", ""))
    return " or ".join(names)


def paths(cls: type[Struct], prefix: str = "", depth: int = 6) -> list[str]:
    """Dotted paths of every field below a class, through every alternative of every union."""
    found: list[str] = []
    for name, hint in fields(cls).items():
        here = f"{prefix}{name}"
        found.append(here)
        if depth > 0:
            for inner in structs(members(hint)):
                found += paths(inner, here + ".", depth - 1)
    return list(dict.fromkeys(found))


def field_docs(cls: type[Struct]) -> dict[str, str]:
    """Field name -> the string literal below it in the source, inherited fields included.

    Empty for a class whose source cannot be read (typed into an interpreter).
    """
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if owner in (object, Struct) or not issubclass(owner, Struct):
            continue
        try:
            source = textwrap.dedent(inspect.getsource(owner))
        except (OSError, TypeError):
            continue
        body = cast(ast.ClassDef, ast.parse(source).body[0]).body
        docs |= documented(body)
    return docs


def documented(body: Sequence[ast.stmt]) -> dict[str, str]:
    """Annotated names of a class body -> the string literal that follows; '' where none does."""
    docs: dict[str, str] = {}
    for at, statement in enumerate(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            following = body[at + 1] if at + 1 < len(body) else None
            is_doc = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            text = (
                following.value.value if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant) else ""
            )
            docs[statement.target.id] = inspect.cleandoc(text) if is_doc and isinstance(text, str) else ""
    return docs
