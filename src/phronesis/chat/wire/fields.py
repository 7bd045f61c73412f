"""Reading JSON objects field by field. Whatever is missing or of a wrong kind is a `WireError` that names its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar, cast

from phronesis.errors import WireError

D = TypeVar("D")


def join(where: str, name: str) -> str:
    """The place of a field.

    >>> join("messages[2]", "role"), join("", "model")
    ('messages[2].role', 'model')
    """
    return f"{where}.{name}" if where else name


def shown(value: object) -> str:
    """A value of JSON in an error message: short, and named by its kind where it is long.

    >>> shown(7), shown(None), shown({"a": 1})
    ('7', 'null', 'an object')
    """
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


class Fields:
    """One JSON object and its place in the whole.

    >>> Fields({"n": 3, "stop": None}, "request").whole("n")
    3
    >>> Fields({"n": "3"}, "request").whole("n")
    Traceback (most recent call last):
        ...
    phronesis.errors.WireError: request.n: expected a whole number, got '3'

    A field that is null counts as missing. `rest` holds what nobody read.
    """

    def __init__(self, value: object, where: str = ""):
        if not isinstance(value, dict):
            raise WireError(where, f"expected an object, got {shown(value)}")
        self._value = cast(Mapping[str, object], value)
        self.where = where
        self._read: set[str] = set()

    @property
    def rest(self) -> dict[str, object]:
        """The fields that were not asked for, nulls left out."""
        return {k: v for k, v in self._value.items() if k not in self._read and v is not None}

    def has(self, name: str) -> bool:
        """Whether the field is there and not null; does not count as reading it."""
        return self._value.get(name) is not None

    def value(self, name: str) -> object:
        """The field as it is; None when missing."""
        self._read.add(name)
        return self._value.get(name)

    def place(self, name: str) -> str:
        """The field's place."""
        return join(self.where, name)

    def text(self, name: str) -> str:
        """A text that must be there."""
        return self._must(name, self.text_or(name, None), "a text")

    def text_or(self, name: str, default: D) -> str | D:
        """A text."""
        value = self.value(name)
        return default if value is None else as_text(value, self.place(name))

    def whole(self, name: str) -> int:
        """A whole number that must be there."""
        return self._must(name, self.whole_or(name, None), "a whole number")

    def whole_or(self, name: str, default: D) -> int | D:
        """A whole number."""
        value = self.value(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise WireError(self.place(name), f"expected a whole number, got {shown(value)}")
        return value

    def count(self, name: str) -> int:
        """A number of things, at least 0; 0 when missing."""
        value = self.whole_or(name, 0)
        if value < 0:
            raise WireError(self.place(name), f"expected a number of at least 0, got {value!r}")
        return value

    def number_or(self, name: str, default: D) -> float | D:
        """A finite number."""
        value = self.value(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise WireError(self.place(name), f"expected a finite number, got {shown(value)}")
        return float(value)

    def flag_or(self, name: str, default: D) -> bool | D:
        """True or false."""
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise WireError(self.place(name), f"expected true or false, got {shown(value)}")
        return value

    def items(self, name: str) -> list[object]:
        """A list that must be there."""
        return self._must(name, self.items_or(name, None), "a list")

    def items_or(self, name: str, default: D) -> list[object] | D:
        """A list."""
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, list):
            raise WireError(self.place(name), f"expected a list, got {shown(value)}")
        return cast(list[object], value)

    def each(self, name: str) -> list[Fields]:
        """The objects of a list; none when it is missing."""
        found = self.items_or(name, list[object]())
        return [Fields(item, f"{self.place(name)}[{i}]") for i, item in enumerate(found)]

    def child(self, name: str) -> Fields:
        """An object that must be there."""
        return self._must(name, self.child_or(name), "an object")

    def child_or(self, name: str) -> Fields | None:
        """An object."""
        value = self.value(name)
        return None if value is None else Fields(value, self.place(name))

    def mapping_or(self, name: str, default: D) -> dict[str, object] | D:
        """An object, as a plain dict."""
        value = self.value(name)
        if value is None:
            return default
        if not isinstance(value, dict):
            raise WireError(self.place(name), f"expected an object, got {shown(value)}")
        return cast(dict[str, object], value)

    def wrong(self, name: str, problem: str) -> WireError:
        """An error about a field."""
        return WireError(self.place(name), problem)

    def _must(self, name: str, value: D | None, kind: str) -> D:
        if value is None:
            raise WireError(self.place(name), f"expected {kind}, got nothing")
        return value


def as_text(value: object, where: str) -> str:
    """A text, known to be one."""
    if not isinstance(value, str):
        raise WireError(where, f"expected a text, got {shown(value)}")
    return value
