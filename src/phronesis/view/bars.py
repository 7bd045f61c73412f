"""Dot plots with intervals, and bars along time, as inline SVG in the manner of `chart`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from phronesis.evals.statistics import wilson
from phronesis.view.html import Html, join, tag
from phronesis.view.quantity import percent, seconds
from phronesis.view.scale import Axis

_ROW = 34
"""Height of one row in pixels."""


class Dot(NamedTuple):
    """One share with its interval."""

    label: str
    """What it is, e.g. before."""
    value: float
    """In [0, 1]."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    n: int
    """Episodes behind it."""
    tone: Literal["before", "after", "other"]
    """How it looks: before is hollow, after is filled, other is grey."""

    @classmethod
    def of(cls, label: str, value: float, n: int, tone: Literal["before", "after", "other"]) -> Dot:
        """A share of n episodes with its 95 % Wilson interval."""
        return cls(label, value, *wilson(value * n, n), n, tone)


class DotRow(NamedTuple):
    """A line of the plot."""

    label: str
    """Name of the row."""
    dots: Sequence[Dot]
    """What is compared on it."""


class Phase(NamedTuple):
    """A stretch of the run."""

    label: str
    """What was done."""
    seconds: float
    """How long it took."""


def dot_plot(rows: Sequence[DotRow], title: str) -> Html:
    """Shares by row on an axis from 0 to 100 %, intervals as whiskers, the numbers beside it."""
    height = _ROW * len(rows)
    parts: list[Html] = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = f"{100 * value}%"
        parts.append(tag("line", class_="rule", x1=x, x2=x, y1="0", y2=height))
        parts.append(tag("text", f"{100 * value:g}", class_="tick x", x=x, y=height, dy="1.5em"))
    parts.append(tag("text", "success, %", class_="title x", x="100%", y=height, dy="3em"))
    for i, row in enumerate(rows):
        parts += [_dot(dot, _ROW * (i + 0.5) + _offset(j, len(row.dots))) for j, dot in enumerate(row.dots)]
    picture = tag(
        "svg", tag("title", title), join(parts), class_="plot", role="img", width="100%", height=height, data_rows=len(rows)
    )
    labels = [tag("div", tag("b", row.label), style=f"height:{_ROW}px") for row in rows]
    numbers = [_numbers(row.label, [_figure(dot) for dot in row.dots], _ROW) for row in rows]
    return tag(
        "div",
        tag("div", *labels, class_="labels"),
        tag("div", picture, class_="frame"),
        tag("div", *numbers, class_="numbers"),
        class_="dots",
    )


def _offset(index: int, of: int) -> float:
    return (index - (of - 1) / 2) * 9


def _dot(dot: Dot, y: float) -> Html:
    low, high, x = (f"{100 * v:.2f}%" for v in (dot.low, dot.high, dot.value))
    text = f"{dot.label}: {percent(dot.value)}, 95 % interval {percent(dot.low)} to {percent(dot.high)}, n = {dot.n}"
    return tag(
        "g",
        tag("title", text),
        tag("line", class_="whisker", x1=low, x2=high, y1=y, y2=y),
        tag("circle", cx=x, cy=y, r=4.5),
        class_=f"point {dot.tone}",
    )


def _figure(dot: Dot) -> Html:
    interval = f"{100 * dot.low:.1f} to {100 * dot.high:.1f}"
    return tag(
        "span",
        tag("i", class_=f"key dot {dot.tone}"),
        f"{dot.label} ",
        tag("b", percent(dot.value)),
        tag("small", f" {interval}, n {dot.n}"),
        class_="figure",
    )


def waterfall(phases: Sequence[Phase]) -> Html:
    """Phases one after the other along wall-clock time, each starting where the one before ended."""
    total = math.fsum(p.seconds for p in phases)
    axis = Axis(0.0, total or 1.0)
    height = 28 * len(phases)
    parts: list[Html] = []
    for value in axis.ticks(6):
        x = f"{100 * axis.at(value):.3f}%"
        parts.append(tag("line", class_="rule", x1=x, x2=x, y1="0", y2=height))
        parts.append(tag("text", f"{value:g}", class_="tick x", x=x, y=height, dy="1.5em"))
    parts.append(tag("text", "wall-clock time since the start, s", class_="title x", x="100%", y=height, dy="3em"))
    start = 0.0
    for i, phase in enumerate(phases):
        x, width = 100 * axis.at(start), max(0.25, 100 * (axis.at(start + phase.seconds) - axis.at(start)))
        share = percent(phase.seconds / total, 0) if total else percent(None)
        parts.append(
            tag(
                "rect",
                tag("title", f"{phase.label}: {seconds(phase.seconds)}, {share} of the run"),
                class_=f"phase p{i % 4}",
                x=f"{x:.3f}%",
                y=28 * i + 5,
                width=f"{width:.3f}%",
                height=18,
                rx=3,
            )
        )
        start += phase.seconds
    labels = [tag("div", tag("b", p.label), style="height:28px") for p in phases]
    numbers = [_numbers(p.label, [_spent(p, total)], 28) for p in phases]
    return tag(
        "div",
        tag("div", *labels, class_="labels"),
        tag(
            "div",
            tag("svg", tag("title", "Seconds per phase"), join(parts), class_="plot", role="img", width="100%", height=height),
            class_="frame",
        ),
        tag("div", *numbers, class_="numbers"),
        class_="dots time",
    )


def _spent(phase: Phase, total: float) -> Html:
    share = tag("small", f" {percent(phase.seconds / total, 0)}") if total else None
    return tag("span", seconds(phase.seconds), share)


def _numbers(label: str, figures: Sequence[Html], height: int) -> Html:
    """The figures beside a row; the label is shown where the column of labels is not."""
    return tag("div", tag("span", label, class_="row-name"), *figures, style=f"height:{height}px")
