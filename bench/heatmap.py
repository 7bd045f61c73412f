"""Heat maps as one SVG file without anything from outside: numbers in the cells, and colours that survive colour blindness.

The scale is cividis (Nuñez, Anderton and Renslow 2018), made to look alike with and without red-green blindness: its lightness
rises from end to end, so it also survives a print in grey. The text of a cell is black or white, whichever stands out more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

SCALE = ("#00224e", "#414d6b", "#7c7b78", "#bcae6c", "#fee838")
"""Cividis at 0, 1/4, 1/2, 3/4 and 1."""
MISSING = "#ffffff"
"""Of a cell without a value."""
CELL, LINE, LEFT, TOP, GAP = (58, 40), 16, 96, 92, 18
"""Width and height of a cell; height of a line of text; room for row names and for titles; between panels. Pixels."""


@dataclass(frozen=True)
class Tile:
    """One cell."""

    value: float | None
    """Decides the colour; None leaves it white."""
    lines: tuple[str, ...]
    """One or two short texts."""


@dataclass(frozen=True)
class Panel:
    """One grid; all panels of a picture have the same rows and columns."""

    title: str
    """Above it."""
    tiles: Sequence[Sequence[Tile]]
    """By row, then by column."""


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A picture of grids side by side."""

    title: str
    """What is shown; first line."""
    note: str
    """How to read it; second line."""
    rows: Sequence[str]
    """Names from top to bottom."""
    columns: Sequence[str]
    """Names from left to right."""
    columns_title: str
    """What the columns are."""
    panels: Sequence[Panel]
    """From left to right."""
    low: float = 0.0
    """Value of the darkest colour."""
    high: float = 1.0
    """Value of the lightest colour; above `low`."""
    marks: Sequence[tuple[float, str]] = ()
    """Values named on the scale."""


def colour(share: float) -> str:
    """The colour of a share of the scale, in [0, 1]; beyond it the ends.

    >>> colour(0.0), colour(0.125), colour(2.0)
    ('#00224e', '#20385c', '#fee838')
    """
    place = min(1.0, max(0.0, share)) * (len(SCALE) - 1)
    below = min(int(place), len(SCALE) - 2)
    pairs = zip(_channels(SCALE[below]), _channels(SCALE[below + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - below)):02x}" for a, b in pairs)


def luminance(colour_: str) -> float:
    """Relative luminance of a colour, 0 black to 1 white, as WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _channels(colour_))]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    """Contrast of two colours, 1 to 21, as WCAG 2 defines it."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def ink(background: str) -> str:
    """Black or white, whichever stands out more."""
    return max(("#000000", "#ffffff"), key=lambda text: contrast(text, background))


def draw(picture: Heatmap) -> str:
    """The SVG."""
    width, height = CELL
    panel_width = width * len(picture.columns)
    total = LEFT + len(picture.panels) * (panel_width + GAP)
    bottom = TOP + height * len(picture.rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {bottom + 62}" width="{total}" height="{bottom + 62}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(picture.title)}</title>",
        f"<desc>{escape(picture.note)}</desc>",
        f'<rect width="{total}" height="{bottom + 62}" fill="#ffffff"/>',
        _text(12, 24, picture.title, size=16, weight="bold", anchor="start"),
        _text(12, 44, picture.note, anchor="start"),
    ]
    for r, name in enumerate(picture.rows):
        parts.append(_text(LEFT - 8, TOP + height * r + height / 2 + 5, name, anchor="end"))
    for p, panel in enumerate(picture.panels):
        left = LEFT + p * (panel_width + GAP)
        parts.append(_text(left + panel_width / 2, TOP - 24, panel.title, weight="bold"))
        for c, name in enumerate(picture.columns):
            parts.append(_text(left + width * c + width / 2, TOP - 7, name))
        for r, row in enumerate(panel.tiles):
            for c, tile in enumerate(row):
                parts += _tile(picture, tile, left + width * c, TOP + height * r)
    parts += [_text(LEFT - 8, TOP - 7, picture.columns_title, anchor="end"), *_legend(picture, bottom + 18), "</svg>"]
    return "\n".join(parts) + "\n"


def _tile(picture: Heatmap, tile: Tile, x: float, y: float) -> list[str]:
    width, height = CELL
    fill = MISSING if tile.value is None else colour((tile.value - picture.low) / (picture.high - picture.low))
    parts = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}" stroke="#ffffff"/>']
    first = y + height / 2 + 5 - LINE / 2 * (len(tile.lines) - 1)
    parts += [_text(x + width / 2, first + LINE * n, line, fill=ink(fill)) for n, line in enumerate(tile.lines)]
    return parts


def _legend(picture: Heatmap, y: float) -> list[str]:
    """The scale in 50 steps, with its named values."""
    length, steps = 300, 50
    parts = [
        f'<rect x="{LEFT + length / steps * i:g}" y="{y}" width="{length / steps + 0.5:g}" height="12" '
        f'fill="{colour(i / (steps - 1))}"/>'
        for i in range(steps)
    ]
    for value, name in picture.marks:
        x = LEFT + length * (value - picture.low) / (picture.high - picture.low)
        parts.append(f'<line x1="{x:g}" y1="{y}" x2="{x:g}" y2="{y + 17}" stroke="#000000"/>')
        parts.append(_text(x, y + 31, name))
    return parts


def _text(
    x: float, y: float, text: str, *, size: int = 13, weight: str = "normal", anchor: str = "middle", fill: str = "#000000"
) -> str:
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" font-weight="{weight}" fill="{fill}">{escape(text)}</text>'


def _channels(colour_: str) -> tuple[int, int, int]:
    return int(colour_[1:3], 16), int(colour_[3:5], 16), int(colour_[5:7], 16)
