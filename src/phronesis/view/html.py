"""HTML that cannot be injected: text is escaped unless it is already `Html`, and only this file makes `Html`."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"meta", "br", "hr", "input", "line", "path", "circle"})


class Html(str):
    """Markup that is safe to place in a page as it is."""

    __slots__ = ()


Child = str | None
"""What may stand inside an element: `Html` as it is, other text escaped, None nothing."""


def render(child: Child) -> Html:
    """Escapes text, leaves `Html` alone.

    >>> render("<b>"), render(Html("<b>"))
    ('&lt;b&gt;', '<b>')
    """
    if child is None:
        return Html("")
    return child if isinstance(child, Html) else Html(escape(child, quote=True))


def join(children: Iterable[Child], separator: str = "") -> Html:
    """All children one after the other."""
    return Html(separator.join(render(c) for c in children))


def tag(element: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """One element. A trailing underscore of an attribute is dropped, other underscores become hyphens.

    >>> tag("p", "a < b", class_="note", data_n=3, hidden=False)
    '<p class="note" data-n="3">a &lt; b</p>'

    Args:
        element: its name, a literal of this package and never input.
        children: content.
        attributes: None and False leave the attribute out, True writes it without a value.
    """
    opened = [element]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            opened.append(attribute)
        elif value is not None and value is not False:
            opened.append(f'{attribute}="{escape(str(value), quote=True)}"')
    if element in _VOID:
        return Html(f"<{' '.join(opened)}/>")
    return Html(f"<{' '.join(opened)}>{join(children)}</{element}>")


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], caption: str | None = None) -> Html:
    """A table inside a box that scrolls sideways on narrow screens; the first column names the row."""
    body = [tag("tr", *(tag("th", c, scope="row") if i == 0 else tag("td", c) for i, c in enumerate(row))) for row in rows]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption) if caption else None,
            tag("thead", tag("tr", *(tag("th", c, scope="col") for c in head))),
            tag("tbody", *body),
        ),
        class_="scroll",
        tabindex="0",
    )
