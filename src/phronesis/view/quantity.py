"""Numbers as people read them: few digits, a unit, and a dash for what is not known."""

from __future__ import annotations

import math

DASH = "–"
"""Shown where a number is not known, which differs from 0."""

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage.

    >>> percent(0.9238), percent(None)
    ('92.4 %', '–')
    """
    return DASH if share is None or math.isnan(share) else f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits with thin grouping; small and huge numbers in powers of ten.

    >>> number(0.12345), number(1234567.0), number(0.0000321), number(3.0), number(None)
    ('0.123', '1 234 567', '3.21·10⁻⁵', '3', '–')
    """
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e9):
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}·10{str(int(power)).translate(_SUPERSCRIPT)}".replace("-", "−")
    if size >= 1000 or float(value).is_integer():
        return f"{value:,.0f}".replace(",", " ").replace("-", "−")
    rounded = f"{value:.{digits}g}"
    return number(float(rounded)) if "e" in rounded else rounded.replace("-", "−")


def tick(value: float, step: float) -> str:
    """A label of an axis, with as many decimals as the distance between ticks needs.

    >>> tick(0.0005, 0.0005), tick(0.001, 0.0005), tick(20000.0, 10000.0)
    ('0.0005', '0.0010', '20 000')
    """
    if step <= 0 or step < 1e-4 or abs(value) >= 1e9:
        return number(value)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}".replace(",", " ").replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """A number that always shows its sign.

    >>> signed(0.5), signed(-0.5), signed(0.0)
    ('+0.5', '−0.5', '0')
    """
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def seconds(value: float | None) -> str:
    """A duration in the unit a reader would choose.

    >>> seconds(0.0123), seconds(4.26), seconds(75), seconds(3700), seconds(None)
    ('12 ms', '4.3 s', '1 min 15 s', '1 h 02 min', '–')
    """
    if value is None or math.isnan(value):
        return DASH
    if value < 0.9995:
        return f"{1000 * value:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count(value: float | None, noun: str) -> str:
    """A number of things.

    >>> count(1, "turn"), count(1200, "turn")
    ('1 turn', '1 200 turns')
    """
    return f"{number(value)} {noun if value == 1 else noun + 's'}"
