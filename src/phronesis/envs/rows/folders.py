"""Which files of a folder hold which split: folders of `datasets`, repositories of data sets, or plain files by name.

| what lies there | what is read |
|---|---|
| ``dataset_dict.json`` | a folder per split, as ``DatasetDict.save_to_disk`` writes it |
| ``state.json`` | the Arrow files it names, as ``Dataset.save_to_disk`` writes it; one list without splits |
| ``README.md`` with ``configs`` | the files each split's patterns match |
| anything else | all files of rows; a split in a file's or folder's name (train, test, validation and their usual variants) |
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec

from phronesis.envs.rows.files import readable
from phronesis.errors import ConfigError, UnknownName

log = logging.getLogger(__name__)

WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation", "heldout"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""What a split is called in file names."""
UNSPLIT = ""
"""Key of files that belong to no split."""


def find_files(path: Path, config: str | None = None) -> dict[str, list[Path]]:
    """Files by split, in order; under `UNSPLIT` where there are no splits.

    Args:
        path: a file, or a folder.
        config: which of a repository's configurations; None takes the default one.

    Raises:
        ConfigError: nothing to read there, or a description of the folder that is wrong.
        UnknownName: no configuration of that name.
    """
    if path.is_file():
        return {UNSPLIT: [path]}
    if not path.is_dir():
        raise ConfigError(f"there is no file or folder {str(path)!r}")
    listed = path / "dataset_dict.json"
    if listed.is_file():
        names = cast("list[str]", _json(listed, list[str], "splits"))
        return {name: _saved(_member(path, name, listed)) for name in names}
    if (path / "state.json").is_file():
        return {UNSPLIT: _saved(path)}
    configs = _configs(path / "README.md")
    if configs:
        return _described(path, configs, config)
    if config is not None:
        raise ConfigError(f"{str(path)!r} has no README.md with configurations, so there is no {config!r}")
    return _by_name(path)


def _saved(folder: Path) -> list[Path]:
    state = folder / "state.json"
    entries = cast("list[dict[str, object]]", _json(state, list[dict[str, object]], "_data_files"))
    return [_member(folder, str(e.get("filename")), state) for e in entries]


def _member(folder: Path, name: str, said_by: Path) -> Path:
    """What lies directly in a folder under that name; a description may not lead elsewhere."""
    found = folder / name
    if Path(name).name != name or name in (".", "..") or not found.exists():
        raise ConfigError(f"{str(said_by)!r} names {name!r}, which is not in its folder")
    return found


def _json(path: Path, kind: object, field: str) -> object:
    try:
        whole = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
        return msgspec.convert(whole.get(field), cast("type[object]", kind))
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{str(path)!r} is not what datasets writes: {field}: {error}") from error


def _configs(readme: Path) -> list[dict[str, object]]:
    """The configurations in the head of a README; none when it has no head."""
    if not readme.is_file():
        return []
    front = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    if front is None:
        return []
    yaml = importlib.import_module("yaml")  # transformers brings it
    try:
        found: object = yaml.safe_load(front[1])
        head = cast("dict[str, object]", found if isinstance(found, dict) else {})
        configs = head.get("configs", [])
        return msgspec.convert(configs, list[dict[str, object]])
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(f"the head of {str(readme)!r} cannot be read: {error}") from error


def _described(folder: Path, configs: Sequence[Mapping[str, object]], wanted: str | None) -> dict[str, list[Path]]:
    named = {str(c.get("config_name", "default")): c for c in configs}
    if wanted is None:
        default = [n for n, c in named.items() if c.get("default") is True] or [n for n in named if n == "default"]
        if not default and len(named) > 1:
            raise ConfigError(f"{str(folder)!r} has several configurations; set config to one of {', '.join(map(repr, named))}")
        wanted = next(iter(default or named))
    if wanted not in named:
        raise UnknownName("configuration", wanted, named)
    chosen = named[wanted]
    base = _below(folder, str(chosen.get("data_dir", ".")))
    files = chosen.get("data_files")
    if files is None:
        return _by_name(base)
    entries = cast("list[object]", files if isinstance(files, list) else [files])
    found: dict[str, list[Path]] = {}
    for entry in entries:
        columns = cast("Mapping[str, object]", entry if isinstance(entry, Mapping) else {"split": "train", "path": entry})
        patterns = columns.get("path")
        for pattern in cast("list[object]", patterns if isinstance(patterns, list) else [patterns]):
            matched = _matching(base, str(pattern))
            if not matched:
                raise ConfigError(f"README.md of {folder.name!r}: no file of rows matches {pattern!r}")
            found.setdefault(str(columns.get("split", "train")), []).extend(matched)
    return found


def _below(folder: Path, name: str) -> Path:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(f"README.md of {folder.name!r} leads out of its folder: {name!r}")
    return folder / name


def _matching(base: Path, pattern: str) -> list[Path]:
    _below(base, pattern)
    direct = base / pattern
    if direct.is_file():
        return [direct]
    if direct.is_dir():
        pattern = f"{pattern.rstrip('/')}/**"
    try:
        found = base.glob(f"{pattern}/*" if pattern.endswith("**") else pattern)
        return sorted(p for p in found if p.is_file() and readable(p))
    except ValueError as error:
        raise ConfigError(f"{pattern!r} is no pattern of files: {error}") from error


def _by_name(folder: Path) -> dict[str, list[Path]]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and readable(p) and not _hidden(p.relative_to(folder)))
    if not files:
        raise ConfigError(f"there is no file of rows in {str(folder)!r}")
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(_split(file.relative_to(folder)), []).append(file)
    left_out = found.pop(UNSPLIT, []) if len(found) > 1 else []
    if left_out:
        names = ", ".join(repr(p.name) for p in left_out[:5])
        log.warning("%s: %d files whose names say no split are left out: %s", folder.name, len(left_out), names)
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts) or path.name in ("dataset_infos.json", "dataset_info.json")


def _split(path: Path) -> str:
    """The split that the innermost telling part of a path names."""
    for part in (path.name, *reversed(path.parts[:-1])):
        said = set(re.split(r"[^a-z]+", part.lower()))
        for split, words in WORDS.items():
            if said & set(words):
                return split
    return UNSPLIT
