"""Line charts as inline SVG that keep their text size at every width and can be read without JavaScript.

Horizontal positions are percentages of the drawing, so one picture fits a phone and a desk; curves live in a nested SVG
that stretches, with strokes that do not. Hover values, when JavaScript runs, come from the same points as the table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from phronesis.view.html import Html, join, table, tag
from phronesis.view.quantity import DASH, number, percent, tick
from phronesis.view.scale import Axis, Points, fit, smooth, spread, thin, window

MOST_VALUES = 400
"""Most steps whose values can be read in a figure's tooltip and table."""

Tone = Literal["a", "b", "c", "d"]
"""Colour and dash of a line; a is the accent, every tone has its own dash so colour is never the only sign."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve."""

    label: str
    """Name in legend, tooltip and table."""
    points: Points
    """(step, value), rising step; non-finite values leave a gap."""
    tone: Tone = "a"
    """How it looks."""
    band: Sequence[tuple[float, float, float]] = ()
    """(step, low, high): shaded spread; empty when there is none."""
    raw: bool = True
    """True: draw the points faintly and a smoothed line over them."""
    marks: bool = False
    """True: draw dots with `band` as whiskers instead of a line (sparse measurements)."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure: what is shown, in which unit, and what it means."""

    title: str
    """A few words."""
    unit: str
    """Unit of the vertical axis."""
    definition: str
    """One sentence."""
    lines: Sequence[Line]
    """Curves that share the unit; empty ones are skipped."""
    x_title: str = "training step"
    """Title of the horizontal axis."""
    references: Sequence[tuple[str, float]] = ()
    """Labelled horizontal lines: optimum, chance, threshold."""
    floor: float | None = None
    """Natural lower end of the values."""
    ceiling: float | None = None
    """Natural upper end of the values."""
    log: bool = False
    """True: logarithmic vertical axis."""
    wide: bool = False
    """True: takes the whole row."""
    spread: str | None = None
    """What the shaded band is; None when there is none."""

    @property
    def share(self) -> bool:
        """True when values read as percentages."""
        return self.unit == "share"


def draw(chart: Chart) -> Html | None:
    """The figure, or None when no line has a finite value."""
    lines = [line for line in chart.lines if any(math.isfinite(y) for _, y in line.points)]
    if not lines:
        return None
    x_axis, y_axis = _axes(chart, lines)
    longest = max((len(line.points) for line in lines if line.raw and not line.marks), default=0)
    half = window(longest)
    picture = tag(
        "svg",
        tag("title", f"{chart.title} in {_unit(chart)} by {chart.x_title}"),
        _grid(chart, x_axis, y_axis),
        tag(
            "svg",
            *(_band(line, x_axis, y_axis) for line in lines if not line.marks),
            *(_curves(line, x_axis, y_axis, half > 0) for line in lines if not line.marks),
            *(_marks(line, x_axis, y_axis) for line in lines if line.marks),
            class_="curves",
            viewBox="0 0 1000 1000",
            preserveAspectRatio="none",
            width="100%",
            height="100%",
        ),
        class_="plot",
        role="img",
        width="100%",
        height=250 if chart.wide else 170,
    )
    return tag(
        "figure",
        tag(
            "figcaption",
            tag("h3", chart.title, _latest(chart, lines[0])),
            tag("p", chart.definition),
            _legend(chart, lines, half),
        ),
        tag(
            "div",
            picture,
            class_="frame",
            data_chart=_hover(chart, lines, x_axis),
            tabindex="0",
            aria_label=f"{chart.title}: arrow keys read the values",
        ),
        _values(chart, lines),
        class_="chart wide" if chart.wide else "chart",
    )


def _unit(chart: Chart) -> str:
    return "%" if chart.share else chart.unit


def _show(chart: Chart, value: float) -> str:
    return percent(value) if chart.share else number(value)


def _axes(chart: Chart, lines: Sequence[Line]) -> tuple[Axis, Axis]:
    steps = [x for line in lines for x, _ in line.points]
    low, high = min(steps), max(steps)
    values = [y for line in lines for _, y in line.points]
    values += [y for line in lines for _, *ends in line.band for y in ends]
    values += [y for _, y in chart.references]
    return (
        Axis(low, high) if high > low else Axis(low - 1, high + 1),
        fit(values, log=chart.log, floor=chart.floor, ceiling=chart.ceiling),
    )


def _tick(chart: Chart, value: float, step: float, log: bool) -> str:
    if log:
        return number(value, 1).removeprefix("1·")
    return tick(100 * value, 100 * step) if chart.share else tick(value, step)


def _grid(chart: Chart, x_axis: Axis, y_axis: Axis) -> Html:
    """Rules, tick labels, axis titles and reference lines."""
    parts: list[Html] = []
    levels = y_axis.ticks(4)
    step = levels[1] - levels[0] if len(levels) > 1 else abs(levels[0]) if levels else 0.0
    for value in levels:
        y = f"{100 * (1 - y_axis.at(value)):.3f}%"
        parts.append(tag("line", class_="rule", x1="0", x2="100%", y1=y, y2=y))
        parts.append(tag("text", _tick(chart, value, step, y_axis.log), class_="tick y", x="-7", y=y, dy="0.32em"))
    for value in x_axis.ticks(8 if chart.wide else 5):
        if value.is_integer() and x_axis.low <= value <= x_axis.high:
            x = f"{100 * x_axis.at(value):.3f}%"
            parts.append(tag("text", number(value), class_="tick x", x=x, y="100%", dy="1.5em"))
    parts.append(tag("line", class_="axis", x1="0", x2="100%", y1="100%", y2="100%"))
    parts.append(tag("text", chart.x_title, class_="title x", x="100%", y="100%", dy="3em"))
    parts.append(tag("text", _unit(chart) + (", log scale" if y_axis.log else ""), class_="title y", x="-42", y="-12"))
    for label, value in chart.references:
        y = f"{100 * (1 - y_axis.at(value)):.3f}%"
        parts.append(tag("line", class_="reference", x1="0", x2="100%", y1=y, y2=y))
        parts.append(tag("text", label, class_="reference", x="100%", y=y, dy="-0.4em" if y_axis.at(value) < 0.9 else "1.1em"))
    return join(parts)


def _place(x: float, y: float, x_axis: Axis, y_axis: Axis) -> str:
    return f"{1000 * x_axis.at(x):.1f} {1000 * (1 - y_axis.at(y)):.1f}"


def _path(points: Points, x_axis: Axis, y_axis: Axis) -> str:
    """SVG path with a gap wherever a value is not finite; a lone point becomes a dot."""
    runs: list[list[str]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            runs[-1].append(_place(x, y, x_axis, y_axis))
        elif runs[-1]:
            runs.append([])
    return " ".join(f"M{run[0]}h0" if len(run) == 1 else "M" + "L".join(run) for run in runs if run)


def _curves(line: Line, x_axis: Axis, y_axis: Axis, smoothed: bool) -> Html:
    raw = _path(thin(line.points), x_axis, y_axis)
    if not (smoothed and line.raw):
        return tag("path", class_=f"line {line.tone}", d=raw)
    return join(
        [
            tag("path", class_=f"raw {line.tone}", d=raw),
            tag("path", class_=f"line {line.tone}", d=_path(thin(smooth(line.points)), x_axis, y_axis)),
        ]
    )


def _band(line: Line, x_axis: Axis, y_axis: Axis) -> Html | None:
    """The spread, smoothed like the line it belongs to."""
    ends = [(x, low, high) for x, low, high in line.band if math.isfinite(low) and math.isfinite(high)]
    if len(ends) < 2:
        return None
    shown = spread(len(ends), 600)
    top, bottom = smooth([(x, high) for x, _, high in ends]), smooth([(x, low) for x, low, _ in ends])
    upper = [_place(*top[i], x_axis, y_axis) for i in shown]
    lower = [_place(*bottom[i], x_axis, y_axis) for i in reversed(shown)]
    return tag("path", class_=f"band {line.tone}", d=f"M{'L'.join(upper + lower)}Z")


def _marks(line: Line, x_axis: Axis, y_axis: Axis) -> Html:
    whiskers = [
        tag("path", class_=f"whisker {line.tone}", d=f"M{_place(x, low, x_axis, y_axis)}L{_place(x, high, x_axis, y_axis)}")
        for x, low, high in line.band
    ]
    dots = [
        tag("path", class_=f"dot {line.tone}", d=f"M{_place(x, y, x_axis, y_axis)}h0")
        for x, y in line.points
        if math.isfinite(y)
    ]
    link = tag("path", class_=f"link {line.tone}", d=_path(line.points, x_axis, y_axis))
    return join([link, *whiskers, *dots])


def _latest(chart: Chart, line: Line) -> Html | None:
    finite = [y for _, y in smooth(line.points) if math.isfinite(y)]
    if not finite:
        return None
    unit = "" if chart.share else f" {chart.unit}"
    return tag("span", _show(chart, finite[-1]), tag("small", unit), class_="latest", title=f"latest {line.label}")


def _legend(chart: Chart, lines: Sequence[Line], half: int) -> Html | None:
    """Names of the lines when there are several; what thin, thick and shaded mean on the wide figures."""
    entries: list[Html] = []
    if len(lines) > 1:
        keys = [f"{'key mark' if line.marks else 'key'} {line.tone}" for line in lines]
        entries = [tag("span", tag("i", class_=k), line.label, class_="entry") for k, line in zip(keys, lines, strict=True)]
    if half and chart.wide and any(line.raw and not line.marks for line in lines):
        entries.append(tag("span", f"thin: every step, thick: mean over ±{half} steps", class_="entry quiet"))
    if chart.spread and any(line.band for line in lines):
        entries.append(tag("span", chart.spread, class_="entry quiet"))
    return tag("div", *entries, class_="legend") if entries else None


def _columns(lines: Sequence[Line]) -> tuple[list[float], list[dict[float, float]], int]:
    """Steps to read values at, the values by line, and how many steps there are in all; sparse measurements are kept."""
    steps = sorted({x for line in lines for x, _ in line.points})
    kept = {steps[i] for i in spread(len(steps), MOST_VALUES)} | {x for line in lines if line.marks for x, _ in line.points}
    return sorted(kept), [dict(line.points) for line in lines], len(steps)


def _hover(chart: Chart, lines: Sequence[Line], x_axis: Axis) -> str:
    """What the pointer reads, as JSON for an attribute: positions in percent and texts, so the script needs no arithmetic."""
    steps, columns, _ = _columns(lines)
    reads = [
        [
            f"{chart.x_title} {number(x)}",
            *(f"{line.label}: {_show(chart, c[x])}" for line, c in zip(lines, columns, strict=True) if x in c),
        ]
        for x in steps
    ]
    return json.dumps(
        {"at": [round(100 * x_axis.at(x), 2) for x in steps], "read": reads}, ensure_ascii=False, separators=(",", ":")
    )


def _values(chart: Chart, lines: Sequence[Line]) -> Html:
    steps, columns, of = _columns(lines)
    head = [chart.x_title, *(f"{line.label} [{_unit(chart)}]" for line in lines)]
    rows = [[number(x), *(_show(chart, c[x]) if x in c else DASH for c in columns)] for x in steps]
    caption = f"{of - len(steps)} of {of} steps left out, evenly" if of > len(steps) else None
    return tag("details", tag("summary", "Table"), table(head, rows, caption), class_="values")
