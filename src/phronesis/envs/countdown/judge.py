"""Judges an expression exactly, by walking its syntax tree; nothing is ever executed."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from msgspec import Struct

from phronesis.errors import ToolError
from phronesis.tools.calculator import shown

LONGEST = 200
"""Characters of an answer that is read."""
_FIELD = re.compile(r"answer\s*:([^\n]*)", re.IGNORECASE)
_ALPHABET = re.compile(r"[0-9+\-*/() ]+")
_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "\u00a0": " "})


class Verdict(Struct, frozen=True, kw_only=True):
    """What an answer is worth."""

    right: bool
    """It gives the target, from the numbers given, each at most once."""
    value: Fraction | None
    """What it comes to; None when it is no expression."""
    problem: str
    """Why it is wrong; empty when it is right."""


def judge(text: str, numbers: Sequence[int], target: int) -> Verdict:
    """The verdict on a final message.

    >>> judge("answer: (3 + 4) * 2", [2, 3, 4], 14).right
    True
    >>> judge("answer: 7 * 2", [2, 3, 4], 14).problem
    '7 is not among the numbers given'
    >>> judge("answer: 3 + 4", [2, 3, 4], 14).problem
    'it comes to 7, not 14'

    Args:
        text: the message; what follows ``answer:`` is judged, else all of it.
        numbers: what may be used.
        target: what is asked for.
    """
    try:
        tree = _read(text)
        used = Counter[int]()
        value = _walk(tree, used)
    except ToolError as error:
        return Verdict(right=False, value=None, problem=str(error))
    if value != target:
        return Verdict(right=False, value=value, problem=f"it comes to {shown(value)}, not {target}")
    given = Counter(numbers)
    for number, times in used.items():
        if number not in given:
            return Verdict(right=False, value=value, problem=f"{number} is not among the numbers given")
        if times > given[number]:
            return Verdict(right=False, value=value, problem=f"{number} is used {times} times and given {given[number]} times")
    return Verdict(right=True, value=value, problem="")


def _read(text: str) -> ast.expr:
    """The one expression of a message.

    Raises:
        ToolError: none, several different ones, or something else than digits, operators and brackets.
    """
    fields = {found.strip() for found in _FIELD.findall(text)} or {text.strip()}
    if len(fields) > 1:
        raise ToolError(f"{len(fields)} different answers were given", "bad_argument")
    said = fields.pop().translate(_SIGNS)
    if not said or len(said) > LONGEST:
        raise ToolError(f"an answer has 1 to {LONGEST} characters, this one {len(said)}", "bad_argument")
    if not _ALPHABET.fullmatch(said):
        raise ToolError("an answer is made of digits, + - * / and brackets", "bad_argument")
    try:
        return ast.parse(said, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise ToolError(f"{said!r} is no expression", "bad_argument") from error


def _walk(node: ast.expr, used: Counter[int]) -> Fraction:
    match node:
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            used[value] += 1
            return Fraction(value)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _walk(left, used), _walk(right, used)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div() if b != 0:
                    return a / b
                case ast.Div():
                    raise ToolError("it divides by zero", "bad_argument")
                case _:
                    pass
        case _:
            pass
    raise ToolError("only whole numbers joined by + - * / are an answer", "bad_argument")
