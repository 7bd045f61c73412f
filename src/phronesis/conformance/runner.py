"""Runs cases: each either agrees, or fails with what was given and what was expected, or with what was raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import cast

from phronesis.conformance.case import Answer, Case, Question
from phronesis.conformance.compare import mismatches
from phronesis.conformance.fields import Fields, Json, decoded
from phronesis.conformance.padding import played
from phronesis.errors import one_line


def answer(question: Question, formulas: Mapping[str, Case]) -> Answer:
    """Runs one case. An unknown formula and an exception are failures, told in `Answer.error`."""
    case = formulas.get(question.formula)
    if case is None:
        return Answer(id=question.id, formula=question.formula, passed=False, error=f"unknown formula {question.formula!r}")
    inputs, params, expected = _values(question.inputs), _values(question.params), _values(question.expected)
    try:
        got = played(question.formula, case, inputs, Fields(params, "params"))
        found = mismatches(got, expected, question.tol, inputs.get("mask"))
    except Exception as error:  # one broken formula must not hide the others
        said = f"{type(error).__name__}: {one_line(error)}"
        return Answer(id=question.id, formula=question.formula, passed=False, error=said)
    return Answer(id=question.id, formula=question.formula, passed=not found, mismatches=tuple(found))


def report(answers: Iterable[Answer]) -> list[str]:
    """Lines for people: one per formula in the order of the file, its failures under it, the totals last."""
    by_formula: dict[str, list[Answer]] = {}
    for one in answers:
        by_formula.setdefault(one.formula, []).append(one)
    lines: list[str] = []
    for formula, group in by_formula.items():
        failed = [a for a in group if not a.passed]
        share = f"{len(group) - len(failed)} of {len(group)}"
        lines.append(f"{'FAIL' if failed else 'pass'}  {formula}  ({share})")
        for one in failed:
            if one.error is not None:
                lines.append(f"      {one.id}: {one.error}")
            lines += [f"      {one.id}: {m.path}: got {m.got}, want {m.want}" for m in one.mismatches]
    passed = Counter(a.passed for group in by_formula.values() for a in group)
    return [*lines, f"{passed[True]} passed, {passed[False]} failed"]


def _values(values: Mapping[str, object]) -> dict[str, Json]:
    return {name: decoded(cast(Json, value)) for name, value in values.items()}
