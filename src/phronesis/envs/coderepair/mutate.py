"""Small changes that break a program: another comparison, another operation, another number."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

Operator = Literal["compare", "arithmetic", "boolean", "negation", "number"]
"""Kinds of changes."""
COMPARE: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
"""What a comparison is written as, and what it becomes."""
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "+"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"),
}  # fmt: skip
"""What an operation is written as, and what it becomes."""


class Mutation(Struct, frozen=True, kw_only=True):
    """One change of a text."""

    function: str
    """Name of the function it is in, e.g. ``TextWrapper._split``."""
    operator: Operator
    """Its kind."""
    start: int
    """Index of the first byte replaced, in UTF-8."""
    old: str
    """What is replaced."""
    new: str
    """What takes its place."""

    def apply(self, source: str) -> str:
        """The broken text.

        Raises:
            ValueError: the text does not hold what is replaced.
        """
        data = source.encode()
        end = self.start + len(self.old.encode())
        if data[self.start : end] != self.old.encode():
            raise ValueError(f"byte {self.start} does not begin {self.old!r}")
        return (data[: self.start] + self.new.encode() + data[end:]).decode()


def mutations(source: str) -> list[Mutation]:
    """Every change inside a function, in order of place.

    >>> [(m.old, m.new) for m in mutations("def f(a):\\n    return a + 1 if a < 2 and a else 0")]
    [('+', '-'), ('1', '2'), ('<', '<='), ('2', '3'), ('and', 'or'), ('0', '1')]
    """
    lines = [0]
    for line in source.encode().splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    found = _visit(ast.parse(source), "", source.encode(), lines)
    return sorted(found, key=lambda m: m.start)


def _visit(node: ast.AST, function: str, data: bytes, lines: list[int]) -> Iterator[Mutation]:
    for child in ast.iter_child_nodes(node):
        inner = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{function}.{child.name}".lstrip(".")
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue  # a docstring
        elif function and isinstance(child, ast.expr):
            yield from _changes(child, function, data, lines)
        yield from _visit(child, inner if not isinstance(node, ast.Module) or inner else function, data, lines)


def _changes(node: ast.expr, function: str, data: bytes, lines: list[int]) -> Iterator[Mutation]:
    match node:
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARE:
            yield from _between(left, right, COMPARE[type(op)], ("compare", function, data, lines))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC and not _is_text(left):
            yield from _between(left, right, ARITHMETIC[type(op)], ("arithmetic", function, data, lines))
        case ast.BoolOp(op=op, values=[left, right]):
            words = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
            yield from _between(left, right, words, ("boolean", function, data, lines))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            start = _start(node, lines)
            gap = data[start : _start(operand, lines)].decode()
            if gap.strip() == "not":
                yield Mutation(function=function, operator="negation", start=start, old=gap, new="")
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            start, old = _start(node, lines), str(value)
            if data[start : start + len(old)] == old.encode():
                yield Mutation(function=function, operator="number", start=start, old=old, new=str(value + 1))
        case _:
            pass


def _between(
    left: ast.expr, right: ast.expr, words: tuple[str, str], about: tuple[Operator, str, bytes, list[int]]
) -> Iterator[Mutation]:
    """The change of the one operator that is written between two operands."""
    operator, function, data, lines = about
    begin = lines[(left.end_lineno or 1) - 1] + (left.end_col_offset or 0)
    gap = data[begin : _start(right, lines)].decode()
    pattern = r"\s+".join(rf"\b{w}\b" if w.isalpha() else re.escape(w) for w in words[0].split())
    places = list(re.finditer(pattern, gap))
    if len(places) == 1 and "#" not in gap:
        start = begin + len(gap[: places[0].start()].encode())
        yield Mutation(function=function, operator=operator, start=start, old=places[0].group(), new=words[1])


def _start(node: ast.expr, lines: list[int]) -> int:
    return lines[node.lineno - 1] + node.col_offset


def _is_text(node: ast.expr) -> bool:
    """A text before %, which formats."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))
