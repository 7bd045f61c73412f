"""A run folder as a whole: is it one, may it be written, does it belong to this config; files replaced at once."""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

import msgspec
from msgspec import Struct

from phronesis.config import is_where, to_toml
from phronesis.errors import DiskError, RunFolderError
from phronesis.store.disk import make_folder, sync, unwritable
from phronesis.store.layout import Layout

logger = logging.getLogger(__name__)


def write_whole(path: Path, content: bytes, then: str = "continue with --resume") -> None:
    """Replaces a file at once: a reader, a crash or a power cut sees the old content or the new one. The new one is on the
    disk when it returns.

    Args:
        path: the file.
        content: all of it.
        then: what to do once it can be written, for the message.

    Raises:
        DiskError: it cannot be written; what is there is one of the two, whole.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise unwritable(path, error, then) from error


def read_json(path: Path) -> dict[str, object] | None:
    """The object in a JSON file; None when it is missing, or damaged (with a warning)."""
    try:
        table: object = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        logger.warning("%s is damaged (%s) and is treated as missing", path, error)
        return None
    return cast(dict[str, object], table) if isinstance(table, dict) else None


def read_config(layout: Layout) -> dict[str, object]:
    """The resolved config of a run as plain tables.

    Raises:
        RunFolderError: the file is damaged.
    """
    try:
        return tomllib.loads(layout.config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunFolderError(f"{str(layout.config)!r} is damaged ({error}); restore it from a copy of the run") from error


def check_folder(layout: Layout, resume: bool) -> None:
    """Refuses a folder that is not what the caller thinks it is."""
    path = layout.root
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{str(path)!r} is a file; choose another --out")
    if resume:
        if not layout.is_run:
            raise RunFolderError(f"there is no run in {str(path)!r} to resume; leave out --resume to start one")
        return
    if layout.is_run:
        raise RunFolderError(f"{str(path)!r} already holds a run; continue it with --resume, or choose another --out")
    held = (
        [p.name for p in path.iterdir() if not p.name.startswith(".") and p.name != layout.code.name] if path.exists() else []
    )
    if held:
        raise RunFolderError(f"{str(path)!r} is not empty (it holds {held[0]!r}) and is no run; choose another --out")
    try:
        make_folder(path)
    except OSError as error:
        raise DiskError(f"cannot make the folder {str(path)!r}: {error.strerror or error}; choose another --out") from error


def check_same(layout: Layout, config: Struct) -> None:
    """Refuses to continue a run under another config, or under one that cannot be read."""
    old = read_config(layout)
    new = tomllib.loads(to_toml(config))
    changed = {path: values for path, values in _changes(old, new).items() if not is_where(path)}
    if changed:
        listed = "; ".join(f"{k}: {a!r} -> {b!r}" for k, (a, b) in list(changed.items())[:5])
        raise RunFolderError(
            f"{str(layout.root)!r} was started with another config ({listed}); "
            "resume with the same one, or choose another --out"
        )


def _changes(old: Mapping[str, object], new: Mapping[str, object], path: str = "") -> dict[str, tuple[object, object]]:
    found: dict[str, tuple[object, object]] = {}
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= _changes(cast(dict[str, object], a), cast(dict[str, object], b), f"{path}{key}.")
        elif a != b:
            found[f"{path}{key}"] = (a, b)
    return found


def runs_near(path: Path) -> str:
    """A hint naming run folders inside `path` or beside it; '' when there are none."""
    for folder in (path, path.parent):
        try:
            runs = sorted(p for p in folder.iterdir() if Layout(p).is_run) if folder.is_dir() else []
        except OSError:
            continue
        if runs:
            return "did you mean " + " or ".join(repr(str(r)) for r in runs[-3:]) + "?"
    return ""
