"""Writing configs back: as TOML that loads to an equal config, as a short hash, as a list of differences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, cast

import msgspec
import tomli_w
from msgspec import Struct

from phronesis.config import hints
from phronesis.config.hints import NONE_TEXT, join
from phronesis.errors import ConfigError

Table = dict[str, object]


def to_toml(config: Struct) -> str:
    """The resolved config as TOML; `load` of the text gives an equal config.

    A None is left out where None is the default and written as ``"none"`` where it is not.

    Raises:
        ConfigError: a value TOML cannot hold (None inside a free table or list).
    """
    return tomli_w.dumps(cast(dict[str, Any], _plain(config, "")))


WHERE = (
    "name", "out", "learners", "cluster", "deadlines", "retry.attempts", "retry.share", "retry.reserve", "retry.seconds",
    "retry.cap_seconds", "retry.jitter", "retry.breaker",
)  # fmt: skip
"""Settings, by dotted path, that say what a run is called, where it lies, who computes it and how patient it is when things
break, not what it does."""


def is_where(path: str, ignore: Sequence[str] = WHERE) -> bool:
    """Whether a dotted path is, or lies under, one of `ignore`.

    >>> is_where("retry.breaker.patience"), is_where("retry.incomplete")
    (True, False)
    """
    return any(path == i or path.startswith(i + ".") for i in ignore)


def config_hash(config: Struct, ignore: Sequence[str] = WHERE) -> str:
    """12 hex digits that identify what a config computes.

    Independent of the order of fields and keys. The dotted paths in `ignore` do not count; by default those of `WHERE`. The
    seed counts.
    A new field changes the hash of every config of its class, as it must: the code that reads it is different.
    """
    values = _flat(cast(Table, msgspec.to_builtins(config, str_keys=True)))
    counted = {p: v for p, v in values.items() if not is_where(p, ignore)}
    return sha256(json.dumps(counted, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def differences(old: Struct, new: Struct) -> dict[str, tuple[object, object]]:
    """Dotted paths whose values differ, with both values; a value missing on one side is None there."""
    a, b = (_flat(cast(Table, msgspec.to_builtins(c, str_keys=True))) for c in (old, new))
    return {path: (a.get(path), b.get(path)) for path in sorted({*a, *b}) if a.get(path) != b.get(path)}


def _plain(value: object, path: str) -> object:
    """`value` as TOML can hold it."""
    if isinstance(value, Struct):
        cls = type(value)
        tag = hints.tag(cls)
        table: Table = {tag.field: tag.value} if tag is not None else {}
        optional = hints.optional_fields(cls)
        for field in msgspec.structs.fields(cls):
            held: object = getattr(value, field.name)
            here = join(path, field.encode_name)
            if held is None:
                if field.default is not None:
                    table[field.encode_name] = NONE_TEXT
                continue
            if held == NONE_TEXT and field.encode_name in optional:
                raise ConfigError(f"{here}: the text 'none' means None in this field; choose another text")
            table[field.encode_name] = _plain(held, here)
        return table
    if value is None:
        raise ConfigError(f"{path}: TOML cannot hold None here; leave the key out")
    if isinstance(value, Mapping):
        return {str(k): _plain(v, join(path, str(k))) for k, v in cast(Mapping[object, object], value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{path}[{i}]") for i, v in enumerate(cast(Sequence[object], value))]
    return msgspec.to_builtins(value)


def _flat(table: Table, path: str = "") -> Table:
    """A nested table as dotted paths to leaves."""
    flat: Table = {}
    for key, value in table.items():
        here = join(path, key)
        if isinstance(value, dict) and value:
            flat |= _flat(cast(Table, value), here)
        else:
            flat[here] = value
    return flat
