"""A case, and the function that carries it to the real one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from phronesis.conformance.compare import Mismatch
from phronesis.conformance.fields import Fields
from phronesis.errors import UserError

Inputs = Fields
"""The inputs of a case."""
Params = Fields
"""The parameters of a case."""
Expected = Mapping[str, object]
"""Names to numbers, strings, bools, None, nested lists or tuples of them, mappings, tensors."""
Case = Callable[[Inputs, Params], Expected]
"""Translates a case's lists to the arguments of the real function, calls it, and names what it gave."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One case of a file."""

    id: str
    """Its name."""
    formula: str
    """Id of the formula it asks about."""
    inputs: dict[str, object] = {}
    """By name."""
    params: dict[str, object] = {}
    """By name."""
    expected: dict[str, object]
    """By name."""
    tol: float = 1e-6
    """Tolerance, relative to 1 + |expected|."""
    note: str = ""
    """For people."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a case."""

    id: str
    """The case's name."""
    formula: str
    """Its formula."""
    passed: bool
    """Whether everything expected was given."""
    error: str | None = None
    """What went wrong before anything could be compared; None when nothing did."""
    mismatches: Sequence[Mismatch] = ()
    """Where it differs."""


class _File(msgspec.Struct, frozen=True):
    cases: list[Question]


def load(path: Path) -> list[Question]:
    """The cases of a file.

    Raises:
        UserError: it cannot be read, or is not a case file.
    """
    try:
        return msgspec.convert(json.loads(path.read_bytes()), _File).cases  # json also reads a bare NaN
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise UserError(f"{str(path)!r} is no file of cases: {error}") from error
