"""Filling a config: class defaults or a preset, then files, then overrides, checked key by key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from msgspec import Struct

from phronesis.config import hints
from phronesis.config.hints import NONE_TEXT, Hint, join
from phronesis.errors import ConfigError, UnknownName

S = TypeVar("S", bound=Struct)

Table = dict[str, object]


class _Text(NamedTuple):
    """A value as typed on the command line, not read yet: what it means depends on the field's type."""

    text: str


def load(cls: type[S], files: Sequence[Path] = (), overrides: Sequence[str] = (), base: S | None = None) -> S:
    """Builds a config.

    Args:
        cls: the config's class.
        files: TOML files; a later one wins over an earlier one.
        overrides: ``dotted.path=value``, strongest. The value is TOML; text that is not TOML is taken as a string, so
            ``env.name=ledger`` needs no quotes. Tables are merged; to empty one, replace its owner in a file.
        base: a preset to start from; None starts from the class defaults.

    Returns:
        A new frozen config. Choosing another alternative of a union (``loss.type``) starts from that alternative's
        defaults and drops the other's values.

    Raises:
        ConfigError: a file or override that cannot be read, a missing field, a value of the wrong type or range.
        UnknownName: a field, tag or choice that does not exist.

    >>> class Optim(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ...     lr: float = 1e-3
    >>> load(Optim, overrides=["lr=3e-4"]).lr
    0.0003
    """
    table = start(cls, base)
    for layer in read_layers(files, overrides):
        table = overlay(cls, table, layer)
    return finish(cls, table)


def read_layers(files: Sequence[Path] = (), overrides: Sequence[str] = ()) -> list[Table]:
    """What `load` lays over one another, weakest first: one table per file, then one for all overrides if there are any.

    Raises:
        ConfigError: a file or override that cannot be read.
    """
    layers = [_read(path) for path in files]
    return [*layers, _parse_overrides(overrides)] if overrides else layers


def start(cls: type[S], base: S | None = None) -> Table:
    """The table a config of class `cls` is built from: plain values of `base`, or of the class defaults."""
    return hints.defaults(cls) if base is None else cast(Table, msgspec.to_builtins(base, str_keys=True))


def overlay(cls: type[Struct], table: Table, layer: Table) -> Table:
    """`table`, values of a `cls`, with a layer of `read_layers` on top.

    Raises:
        ConfigError: a value of the wrong type or range.
        UnknownName: a field, tag or choice that does not exist.
    """
    return _overlay_struct(cls, table, layer, "", cls)


def finish(cls: type[S], table: Table) -> S:
    """The config a table holds.

    Raises:
        ConfigError: a missing field, or a combination the config refuses.
    """
    try:
        return msgspec.convert(table, cls, str_keys=True)
    except msgspec.ValidationError as error:
        raise _explain(error, cls) from None


def plain(layer: Table) -> Table:
    """A layer of `read_layers` with every text of the command line read as TOML."""
    return cast(Table, _resolve(layer))


def arguments(texts: Sequence[str]) -> dict[str, object]:
    """``key=value`` texts as free arguments, e.g. of an environment; keys may be dotted, values as in `load`.

    >>> arguments(["size=4", "kind=slippery", "deep.er=[1]"])
    {'size': 4, 'kind': 'slippery', 'deep': {'er': [1]}}

    Raises:
        ConfigError: a text that is no assignment.
    """
    return cast(Table, _resolve(_parse_overrides(texts)))


def _read(path: Path) -> Table:
    """The table a TOML file holds."""
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"no config file {str(path)!r}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config file {str(path)!r} is not TOML: {error}") from error


def _parse_overrides(overrides: Sequence[str]) -> Table:
    """``["a.b=1", "a.c=x"]`` as one nested table whose leaves are unread texts; the last of equal paths wins."""
    table: Table = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        parts = path.strip().split(".")
        if not equals:
            raise ConfigError(f"override {override!r} has no '='; write dotted.path=value, e.g. train.lr=3e-4")
        if not all(parts):
            raise ConfigError(f"override {override!r} has an empty name in its path {path!r}")
        owner = table
        for i, part in enumerate(parts[:-1]):
            inner = owner.setdefault(part, {})
            if isinstance(inner, _Text):
                raise ConfigError(f"override {override!r} reaches into {'.'.join(parts[: i + 1])!r}, which is also set whole")
            owner = cast(Table, inner)
        if isinstance(owner.get(parts[-1]), dict):
            raise ConfigError(f"override {override!r} sets {path!r} whole, but other overrides set parts of it")
        owner[parts[-1]] = _Text(text.strip())
    return table


def _toml_value(text: str) -> object:
    """`text` read as a TOML value, or the text itself where it is none."""
    try:
        read = tomllib.loads(f"v = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return read["v"] if read.keys() == {"v"} else text


def _resolve(value: object) -> object:
    """`value` with every unread text read as TOML, for places that accept anything."""
    if isinstance(value, _Text):
        return _toml_value(value.text)
    if isinstance(value, dict):
        return {k: _resolve(v) for k, v in cast(Table, value).items()}
    return value


def _overlay_struct(cls: type[Struct], low: Table, high: Table, path: str, root: type[Struct]) -> Table:
    """`low`, values of a `cls`, overlaid with `high`."""
    known = hints.fields(cls)
    tag = hints.tag(cls)
    merged = dict(low)
    for key, value in high.items():
        here = join(path, key)
        if tag is not None and key == tag.field:
            merged[key] = tag.value
        elif key in known:
            merged[key] = _overlay(known[key], low.get(key), value, here, root)
        else:
            raise _unknown_field(here, path, [*known, *([tag.field] if tag else [])], root)
    return merged


def _overlay(hint: Hint, low: object, high: object, path: str, root: type[Struct]) -> object:
    """The value of a field of type `hint` whose weaker value is `low` and whose stronger one is `high`."""
    members = hints.members(hint)
    if isinstance(high, _Text):
        high = _from_text(hint, high.text, path)
    if high == NONE_TEXT and hints.NONE in members:
        return None
    structs = hints.structs(members)
    if isinstance(high, dict):
        table = cast(Table, high)
        if structs:
            cls = _choose(structs, low, table, path)
            tag = hints.tag(cls)
            kept = isinstance(low, dict) and (tag is None or cast(Table, low).get(tag.field) == tag.value)
            return _overlay_struct(cls, cast(Table, low) if kept else hints.defaults(cls), table, path, root)
        weak = cast(Table, low) if isinstance(low, dict) else {}
        if hints.accepts_anything(members):
            return _merge(weak, table)
        value_hint = hints.table_value(members)
        if value_hint is not None:
            return weak | {k: _overlay(value_hint, weak.get(k), v, join(path, k), root) for k, v in table.items()}
        raise ConfigError(f"{path}: expected {hints.describe(hint)}, got a table {_resolve(table)!r}")
    item = hints.list_item(members)
    if isinstance(high, list) and item is not None:
        return [_overlay(item, None, v, f"{path}[{i}]", root) for i, v in enumerate(cast(list[object], high))]
    if structs and len(structs) == len([m for m in members if m is not hints.NONE]):
        names = ", ".join(repr(f) for c in structs for f in hints.fields(c))
        raise ConfigError(f"{path}: expected {hints.describe(hint)} with fields {names}, got {high!r}; set {path}.FIELD=VALUE")
    return _leaf(hint, cast(object, high), path)


def _merge(low: Table, high: Table) -> Table:
    """Free tables: `high` over `low`, table by table."""
    merged = dict(low)
    for key, value in high.items():
        weak = merged.get(key)
        if isinstance(value, dict) and isinstance(weak, dict):
            merged[key] = _merge(cast(Table, weak), cast(Table, value))
        else:
            merged[key] = _resolve(cast(object, value))
    return merged


def _choose(structs: Sequence[type[Struct]], low: object, high: Table, path: str) -> type[Struct]:
    """Which alternative of a union the table `high` means: its tag, else the tag of the weaker value."""
    if len(structs) == 1 and hints.tag(structs[0]) is None:
        return structs[0]
    tags = {tag.value: cls for cls in structs if (tag := hints.tag(cls)) is not None}
    field = cast(hints.Tag, hints.tag(structs[0])).field
    given = high.get(field)
    if given is None and isinstance(low, dict):
        given = cast(Table, low).get(field)
    if given is None and len(structs) == 1:
        return structs[0]
    value = _resolve(given)
    if value is None:
        raise ConfigError(f"{path}: say which one with {join(path, field)}=NAME; known: {', '.join(map(str, sorted(tags)))}")
    if value not in tags:
        raise UnknownName(join(path, field), str(value), [str(t) for t in tags])
    return tags[cast(str, value)]


def _from_text(hint: Hint, text: str, path: str) -> object:
    """A command-line text as a value of type `hint`: TOML if that fits, else the text itself if that fits."""
    members = hints.members(hint)
    if hints.NONE in members and text.lower() in ("none", "null"):
        return NONE_TEXT
    value = _toml_value(text)
    if isinstance(value, (dict, list)) or hints.structs(members) or hints.accepts_anything(members):
        return cast(object, value)
    readings: list[object] = [value, text, *([text.lower()] if bool in members else [])]
    if float in members:
        with suppress(ValueError):
            readings.append(float(text))
    for reading in readings:
        try:
            return msgspec.convert(reading, cast(Any, hint), strict=not (isinstance(reading, str) and bool in members))
        except msgspec.ValidationError:
            continue
    return _leaf(hint, value, path)


def _leaf(hint: Hint, value: object, path: str) -> object:
    """`value` checked against `hint`; errors carry the dotted path."""
    try:
        msgspec.convert(value, cast(Any, hint), str_keys=True)
    except msgspec.ValidationError as error:
        choices = hints.choices(hints.members(hint))
        if choices and isinstance(value, str):
            raise UnknownName(path, value, choices) from None
        text, inner = _split_location(str(error))
        expected = re.sub(r"^Expected |, got `[^`]*`$", "", text).replace("`", "").replace("null", "none")
        raise ConfigError(f"{path}{inner}: expected {expected}, got {value!r}") from None
    return value


def _split_location(text: str) -> tuple[str, str]:
    """``"Expected `int` - at `$.a[1]`"`` as text and dotted location ``"a[1]"``."""
    found = re.fullmatch(r"(.*) - at `(?:key in )?\$(.*)`", text, re.DOTALL)
    return (text, "") if found is None else (found[1], found[2].lstrip("."))


def _explain(error: msgspec.ValidationError, cls: type[Struct]) -> ConfigError:
    """The error of the final check: a missing field, or a combination a config's own check refused."""
    text, location = _split_location(str(error))
    missing = re.fullmatch(r"Object missing required field `(.*)`", text)
    if missing is not None:
        path = join(location, missing[1])
        return ConfigError(f"{path} is required; set it in a file or as {path}=VALUE")
    return ConfigError(f"{location or cls.__name__}: {text.replace('`', '')}")


def _unknown_field(path: str, owner: str, siblings: Sequence[str], root: type[Struct]) -> UnknownName:
    """The error for a field that does not exist: near siblings first, then a field of that name elsewhere."""
    near_here = UnknownName("field", path, [join(owner, s) for s in siblings])
    if near_here.near:
        return near_here
    near_elsewhere = UnknownName("field", path, hints.paths(root))
    return near_elsewhere if near_elsewhere.near else near_here
