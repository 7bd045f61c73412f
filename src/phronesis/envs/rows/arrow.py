"""Rows of Parquet and Arrow files, through pyarrow, which is optional."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from phronesis.errors import ConfigError


class _Table(Protocol):
    def to_pylist(self) -> list[dict[str, object]]: ...


def parquet_rows(path: Path) -> list[dict[str, object]]:
    """All rows of a Parquet file.

    Raises:
        ConfigError: pyarrow is missing, or the file cannot be read.
    """
    return _read(path, "pyarrow.parquet", lambda module: module.read_table(path, partitioning=None))


def arrow_rows(path: Path) -> list[dict[str, object]]:
    """All rows of an Arrow file: a stream, as `datasets` writes it, or the random-access format.

    Raises:
        ConfigError: pyarrow is missing, or the file cannot be read.
    """

    def table(module: ModuleType) -> object:
        with path.open("rb") as file:
            random_access = file.read(6) == b"ARROW1"
            file.seek(0)
            return (module.open_file if random_access else module.open_stream)(file).read_all()

    return _read(path, "pyarrow.ipc", table)


def _read(path: Path, module: str, table: Callable[[ModuleType], object]) -> list[dict[str, object]]:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"reading {path.name!r} needs pyarrow; install it with: pip install 'phronesis[data]'") from error
    try:
        return cast("_Table", table(found)).to_pylist()
    except (OSError, ValueError, ArithmeticError, TypeError) as error:  # pyarrow's own errors are some of these
        raise ConfigError(f"{str(path)!r} cannot be read: {error}") from error
