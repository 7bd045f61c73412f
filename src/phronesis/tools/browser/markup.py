"""HTML as a tree, for browsing without a browser. Scripts are not run and styles are not read.

>>> read("<title>Shop</title><p>Tea &amp; co<br>now").tree.kids[0]
Node(tag='p', attrs={}, kids=['Tea & co', Node(tag='br', attrs={}, kids=[], index=-1), 'now'], index=-1)
"""

from __future__ import annotations

from html.parser import HTMLParser
from typing import NamedTuple

from phronesis.tools.browser.outline import Node, blank

VOID = frozenset(("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"))
CLOSES: dict[str, frozenset[str]] = {
    "li": frozenset(("li",)),
    "option": frozenset(("option",)),
    "tr": frozenset(("tr", "td", "th")),
    "td": frozenset(("td", "th")),
    "th": frozenset(("td", "th")),
    "p": frozenset(("p",)),
}
"""What an opening tag ends that was left open."""
MAX_DEPTH = 200


class Markup(NamedTuple):
    """A page that was read."""

    title: str
    tree: Node
    """The body."""


def read(html: str) -> Markup:
    """Reads a page. Never fails: what cannot be understood is left out, as in a browser."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return Markup(blank(reader.title).strip(), reader.root)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("body", {}, [])
        self.open = [self.root]
        self.title = ""
        self.in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("html", "body", "meta", "head", "link"):
            return
        if tag == "title":
            self.in_title = True
            return
        while len(self.open) > 1 and self.open[-1].tag in CLOSES.get(tag, ()):
            self.open.pop()
        node = Node(tag, {name: value or "" for name, value in attrs}, [])
        self.open[-1].kids.append(node)
        if tag not in VOID and len(self.open) < MAX_DEPTH:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self.in_title = False
        for depth in range(len(self.open) - 1, 0, -1):
            if self.open[depth].tag == tag:
                del self.open[depth:]
                return

    def handle_data(self, data: str) -> None:
        if self.in_title:
            self.title += data
            return
        kids = self.open[-1].kids
        if kids and isinstance(kids[-1], str):
            kids[-1] += data
        else:
            kids.append(data)
