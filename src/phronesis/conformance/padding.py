"""Positions that do not count: a mask that the formula does not know, and NaN where nothing was.

Most formulas read a mask themselves. For one that does not, positions whose mask is 0 are taken out of every list of the mask's
shape before it is asked, and are 0 in what it gives. Where a case has no mask, NaN marks padding and makes one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import cast

from phronesis.conformance.case import Case, Expected, Params
from phronesis.conformance.compare import Listable
from phronesis.conformance.fields import Fields, Json

READS_NAN = frozenset({"archer", "dpo", "ipo", "step-dpo", "dump"})
"""Formulas in whose lists NaN has a place of its own, list by list."""

Mask = Sequence[object]
"""Flags, or rows of flags."""


def played(formula: str, case: Case, values: Mapping[str, Json], params: Params) -> Expected:
    """What the case gives when padding is left out."""
    mask = values.get("mask")
    if mask is None and formula not in READS_NAN:
        mask = nan_mask(values)
        values = values if mask is None else {**values, "mask": mask}
    inputs = Fields(values)
    try:
        got: Expected | Exception = case(inputs, params)
    except Exception as raised:  # perhaps because of what lies under the mask
        got = raised
    if _counts(mask) or "mask" in inputs.read or not isinstance(mask, Sequence) or isinstance(mask, str):
        if isinstance(got, Exception):
            raise got
        return got
    flags: Mask = mask
    inner = {name: _without(value, flags) for name, value in values.items() if name != "mask"}
    return {name: _back(value, flags) for name, value in case(Fields(inner), params).items()}


def nan_mask(values: Mapping[str, Json]) -> Json:
    """0 where a list, or a row of a list, holds NaN; None when nothing does, or when lists of several shapes do.

    >>> nan_mask({"p": [0.5, float("nan")], "q": [0.1, 0.2]})
    [True, False]
    """
    lists = [v for v in values.values() if isinstance(v, Sequence) and not isinstance(v, str)]
    padded = [v for v in lists if _any_nan(v)]
    shapes = {_lengths(v) for v in padded}
    if len(shapes) != 1 or None in shapes:
        return None
    alike = [v for v in lists if _lengths(v) in shapes]
    if isinstance(alike[0][0], Sequence):
        rows = [cast("list[Sequence[Json]]", v) for v in alike]
        return [[not any(_is_nan(v[i][t]) for v in rows) for t in range(len(row))] for i, row in enumerate(rows[0])]
    return [not any(_is_nan(v[i]) for v in alike) for i in range(len(alike[0]))]


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and isnan(value)


def _any_nan(value: Sequence[Json]) -> bool:
    return any(_is_nan(v) or (isinstance(v, Sequence) and any(_is_nan(x) for x in v)) for v in value)


def _lengths(value: object) -> object:
    """The number of entries, or those of each row; None for anything deeper, mixed or empty."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    entries = cast("Sequence[object]", value)
    deep = [isinstance(v, Sequence) and not isinstance(v, str) for v in entries]
    if not any(deep):
        return len(entries)
    rows = [cast("Sequence[object]", v) for v in entries if isinstance(v, Sequence)]
    if not all(deep) or any(isinstance(x, Sequence | Mapping) and not isinstance(x, str) for row in rows for x in row):
        return None
    return tuple(len(row) for row in rows)


def _counts(mask: object) -> bool:
    """Whether there is nothing to leave out."""
    if isinstance(mask, Sequence) and not isinstance(mask, str):
        return all(_counts(m) for m in cast("Sequence[object]", mask))
    return mask is None or bool(mask)


def _without(value: Json, mask: Mask) -> Json:
    """The list without the positions that do not count; of a list of such lists, each; anything else as it is."""
    shape, wanted = _lengths(value), _lengths(mask)
    if shape is None or isinstance(value, str) or not isinstance(value, Sequence):
        return value
    if shape == wanted:
        if isinstance(wanted, int):
            return [v for v, m in zip(value, mask, strict=True) if m]
        return [_without(v, cast("Mask", m)) for v, m in zip(value, mask, strict=True)]
    if isinstance(wanted, int) and isinstance(shape, tuple) and set(cast("tuple[int, ...]", shape)) == {wanted}:
        return [_without(v, mask) for v in value]
    return value


def _back(value: object, mask: Mask) -> object:
    """Zeros put back where a list lost its positions."""
    if isinstance(value, Listable):
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value
    values = cast("Sequence[object]", value)
    if isinstance(_lengths(mask), tuple):
        if len(values) != len(mask):
            return values
        return [_back(v, cast("Mask", m)) for v, m in zip(values, mask, strict=True)]
    if len(values) == sum(bool(m) for m in mask):
        left = iter(values)
        return [next(left) if m else 0.0 for m in mask]
    return [_back(v, mask) for v in values] if all(isinstance(v, Sequence) for v in values) else values
