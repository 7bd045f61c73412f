"""Arithmetic without `eval`: the syntax tree is walked, and only numbers and operators are known."""

from __future__ import annotations

import ast
from collections.abc import Callable
from fractions import Fraction

from phronesis.errors import ToolError
from phronesis.tool import tool

LONGEST = 500
"""Characters of an expression."""
LARGEST = 10**60
"""Numbers beyond this, either way, are refused."""

_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: lambda a, b: a % b,
}


def evaluate(expression: str) -> Fraction:
    """The exact value of an arithmetic expression: + - * / // % ** and brackets over decimal numbers.

    Raises:
        ToolError: anything else, division by zero, or numbers too large.

    >>> evaluate("2 * (3 + 4) - 1/2")
    Fraction(27, 2)
    """
    if len(expression) > LONGEST:
        raise ToolError(f"the expression has {len(expression)} characters; at most {LONGEST} are read", "bad_argument")
    if not expression.isascii():
        raise ToolError("the expression holds characters other than ASCII; use digits, operators and brackets", "bad_argument")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise ToolError(f"{expression!r} is no arithmetic: {getattr(error, 'msg', error)}", "bad_argument") from error
    except ZeroDivisionError:
        raise ToolError(f"{expression!r} divides by zero", "bad_argument") from None


def shown(value: Fraction) -> str:
    """A number as people write it: whole, or a short decimal, else a fraction and about how much that is.

    >>> shown(Fraction(1, 4)), shown(Fraction(1, 3)), shown(Fraction(7))
    ('0.25', '1/3 (about 0.333333)', '7')
    """
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1 and value.denominator < 10**9:
        places = max(len(str(value.denominator)), 1)
        while (value * 10**places).denominator != 1:
            places += 1
        sign = "-" if value < 0 else ""
        digits = str(abs(value * 10**places).numerator).rjust(places + 1, "0")
        return f"{sign}{digits[:-places]}.{digits[-places:].rstrip('0')}"
    return f"{value} (about {float(value):.6g})"


@tool(effect="pure")
def calculate(expression: str) -> str:
    """Computes an arithmetic expression exactly.

    Args:
        expression: numbers with + - * / // % ** and brackets, e.g. "(3 + 4) * 2".
    """
    return shown(evaluate(expression))


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(Fraction(ast.unparse(node)) if isinstance(value, float) else Fraction(value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
        case _:
            text = ast.unparse(node)[:40]
            raise ToolError(f"{text!r} is not arithmetic; use numbers, + - * / // % ** and brackets", "bad_argument")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > 1000:
        raise ToolError(f"the exponent {shown(exponent)} is not a whole number up to 1000", "bad_argument")
    count = int(exponent)
    if count > 0 and len(str(abs(base.numerator))) * count > 2 * len(str(LARGEST)):
        raise ToolError(f"numbers beyond {LARGEST:.0e} are not computed", "bad_argument")
    return _bounded(base**count)


def _bounded(value: Fraction) -> Fraction:
    if abs(value) > LARGEST or value.denominator > LARGEST:
        raise ToolError(f"numbers beyond {LARGEST:.0e} are not computed", "bad_argument")
    return value
