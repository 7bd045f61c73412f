"""Configs: frozen structs filled from class defaults or a preset, then TOML files in order, then dotted overrides.

Rule: nothing is guessed and nothing is dropped. An unknown key, at any depth, is an error that names the nearest known
one; a wrong value is an error that names its dotted path. The result is frozen and can be written back (`to_toml`).

A config is a `msgspec.Struct` with ``frozen=True, kw_only=True, forbid_unknown_fields=True``; alternatives are unions of
structs told apart by their tag (``loss.type = "ppo_clip"``). TOML has no null, so wherever a field may be None the text
``none`` means None.
"""

from phronesis.config.hints import field_docs
from phronesis.config.importing import import_path
from phronesis.config.resolve import Table, arguments, finish, load, overlay, plain, read_layers, start
from phronesis.config.write import WHERE, config_hash, differences, is_where, to_toml

__all__ = [
    "WHERE",
    "Table",
    "arguments",
    "config_hash",
    "differences",
    "field_docs",
    "finish",
    "import_path",
    "is_where",
    "load",
    "overlay",
    "plain",
    "read_layers",
    "start",
    "to_toml",
]
