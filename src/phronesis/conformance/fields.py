"""What a case hands in: typed reading of JSON, with "nan", "inf" and "-inf" understood as numbers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from math import inf, nan
from typing import TypeVar, cast

from phronesis.errors import ConfigError

T = TypeVar("T")

Json = str | float | int | bool | None | Sequence["Json"] | Mapping[str, "Json"]
"""A value of a case file."""

_WORDS = {"nan": nan, "inf": inf, "-inf": -inf}


def decoded(value: Json) -> Json:
    """The value with the words nan, inf and -inf replaced by the numbers, at any depth.

    >>> decoded({"x": [1, "inf"]})
    {'x': [1, inf]}
    """
    if isinstance(value, str):
        return _WORDS.get(value, value)
    if isinstance(value, Mapping):
        return {k: decoded(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [decoded(v) for v in value]
    return value


class Fields:
    """The inputs or the parameters of a case, read by name and kind.

    Every reader takes an optional default; without one a missing field raises ConfigError. Ragged rows stay ragged.
    """

    def __init__(self, values: Mapping[str, Json], where: str = "inputs"):
        self.values, self.where = values, where
        self.read: set[str] = set()
        """Names asked for so far."""

    def __contains__(self, name: str) -> bool:
        self.read.add(name)
        return name in self.values

    def get(self, name: str, default: Json = None) -> Json:
        """The field as it is; `default` when it is missing."""
        self.read.add(name)
        return self.values.get(name, default)

    def number(self, name: str, default: float | None = None) -> float:
        """A float."""
        return self._read(name, default, _number)

    def integer(self, name: str, default: int | None = None) -> int:
        """An int."""
        return self._read(name, default, lambda v: int(_number(v)))

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        return self._read(name, default, _text)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or False; 1 and 0 count."""
        return self._read(name, default, _flag)

    def numbers(self, name: str, default: Sequence[float] | None = None) -> list[float]:
        """A list of floats."""
        return self._read(name, None if default is None else list(default), _each(_number))

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """A list of ints."""
        return self._read(name, None if default is None else list(default), _each(lambda v: int(_number(v))))

    def texts(self, name: str) -> list[str]:
        """A list of strings."""
        return self._read(name, None, _each(_text))

    def keys(self, name: str, default: Sequence[Hashable] | None = None) -> list[Hashable]:
        """A list of strings or numbers that name something, such as groups."""
        return self._read(name, None if default is None else list(default), _each(_key))

    def flags(self, name: str, default: Sequence[bool] | None = None) -> list[bool]:
        """A list of bools; 1 and 0 count."""
        return self._read(name, None if default is None else list(default), _each(_flag))

    def rows(self, name: str, default: Sequence[Sequence[float]] | None = None) -> list[list[float]]:
        """A list of lists of floats, of any lengths."""
        return self._read(name, None if default is None else [list(r) for r in default], _each(_each(_number)))

    def masks(self, name: str, default: Sequence[Sequence[bool]] | None = None) -> list[list[bool]]:
        """A list of lists of bools, of any lengths."""
        return self._read(name, None if default is None else [list(r) for r in default], _each(_each(_flag)))

    def cube(self, name: str) -> list[list[list[float]]]:
        """A list of lists of lists of floats."""
        return self._read(name, None, _each(_each(_each(_number))))

    def fields(self, name: str) -> Fields:
        """An object, as fields of its own."""
        return self._read(name, None, lambda v: _fields(v, name))

    def table(self, name: str) -> list[Fields]:
        """A list of objects."""
        return self._read(name, None, _each(lambda v: _fields(v, name)))

    def _read(self, name: str, default: T | None, convert: Callable[[Json], T]) -> T:
        self.read.add(name)
        if name not in self.values:
            if default is None:
                raise ConfigError(f"{self.where} have no {name!r}; there are {sorted(self.values)}")
            return default
        try:
            return convert(self.values[name])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.where} field {name!r}: {error}") from error


def _number(value: Json) -> float:
    if isinstance(value, bool | int | float):
        return float(value)
    raise TypeError(f"{value!r} is not a number")


def _text(value: Json) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"{value!r} is not a string")


def _flag(value: Json) -> bool:
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    raise TypeError(f"{value!r} is neither true nor false")


def _key(value: Json) -> Hashable:
    if isinstance(value, str | bool | int | float) or value is None:
        return value
    return tuple(_key(v) for v in value) if not isinstance(value, Mapping) else tuple(sorted(value))


def _fields(value: Json, name: str) -> Fields:
    if isinstance(value, Mapping):
        return Fields(cast(Mapping[str, Json], value), name)
    raise TypeError(f"{value!r} is not an object")


def _each(convert: Callable[[Json], T]) -> Callable[[Json], list[T]]:
    def read(value: Json) -> list[T]:
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
            raise TypeError(f"{value!r} is not a list")
        return [convert(v) for v in value]

    return read
