"""Agreement of what a function gave with what a case expects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, isnan
from typing import NamedTuple, Protocol, cast, runtime_checkable

from phronesis.conformance.fields import Json


class Mismatch(NamedTuple):
    """One place where they differ."""

    path: str
    """Where, e.g. ``adv[1][0]``."""
    got: str
    """What the function gave."""
    want: str
    """What the case expects."""


@runtime_checkable
class Listable(Protocol):
    """A tensor or an array."""

    def tolist(self) -> object:
        """Its values as nested lists."""
        ...


def mismatches(got: Mapping[str, object], want: Mapping[str, Json], tol: float, mask: Json = None) -> list[Mismatch]:
    """Places where they differ; none when they agree.

    Numbers agree when ``|got - want| <= tol * (1 + |want|)``, NaN with NaN, an infinity with itself. Fields nobody expects
    are not looked at. Where a field has the shape of the case's `mask`, positions whose mask is 0 are not looked at.

    >>> mismatches({"a": [1.0, 9.0]}, {"a": [1.0, 2.0]}, 1e-6)
    [Mismatch(path='a[1]', got='9.0', want='2.0')]
    """
    found: list[Mismatch] = []
    for name, wanted in want.items():
        if name not in got:
            found.append(Mismatch(name, f"missing; there are {sorted(got)}", repr(wanted)))
        else:
            same = mask if mask is not None and _shape(wanted) == _shape(mask) else None
            found += _differ(name, got[name], wanted, tol, same)
    return found


def _differ(path: str, got: object, want: Json, tol: float, mask: Json) -> Iterator[Mismatch]:
    if mask is not None and not isinstance(mask, Sequence) and not mask:
        return
    if isinstance(got, Listable):
        got = got.tolist()
    if isinstance(want, Mapping):
        if not isinstance(got, Mapping):
            yield Mismatch(path, repr(got), repr(want))
            return
        by_name = {str(k): v for k, v in cast(Mapping[object, object], got).items()}
        for name, wanted in want.items():
            if name in by_name:
                yield from _differ(f"{path}.{name}", by_name[name], wanted, tol, None)
            else:
                yield Mismatch(f"{path}.{name}", "missing", repr(wanted))
    elif isinstance(want, Sequence) and not isinstance(want, str):
        values = list(cast(Sequence[object], got)) if _is_list(got) else None
        if values is None or len(values) != len(want):
            yield Mismatch(path, repr(got), repr(want))
            return
        for i, wanted in enumerate(want):
            inner = mask[i] if isinstance(mask, Sequence) and not isinstance(mask, str) else None
            yield from _differ(f"{path}[{i}]", values[i], wanted, tol, inner)
    elif not _agree(got, want, tol):
        yield Mismatch(path, repr(got), repr(want))


def _agree(got: object, want: Json, tol: float) -> bool:
    if not isinstance(want, bool | int | float):
        return got == want
    if not isinstance(got, bool | int | float):
        return False
    if isnan(want) or isnan(got):
        return isnan(want) and isnan(got)
    if not isfinite(want) or not isfinite(got):
        return want == got
    return abs(got - want) <= tol * (1 + abs(want))


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _shape(value: Json) -> object:
    """Nested lengths, e.g. ``[2, [1, 3]]`` for rows of one and three; None for a single value."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return len(value), tuple(_shape(v) for v in value)
    return None
