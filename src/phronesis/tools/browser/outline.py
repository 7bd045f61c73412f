"""A page as text: what a reader sees, in order, with a number before everything that can be acted on.

Both ways of browsing, plain and through Chromium, hand over the same tree, so that they give the same text.

>>> tree = Node("body", {}, [Node("h1", {}, ["Shop"]), "Go ", Node("a", {"href": "/cart"}, ["to the cart"])])
>>> print("\\n".join(outline(tree).lines))
# Shop
Go [1 link] to the cart
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

Role = Literal["link", "button", "field", "checkbox", "radio", "select", "file", "item"]
"""What can be done: a link, a button and an item are clicked, a field is typed into, from a select an option is chosen."""

SKIPPED = frozenset(("head", "script", "style", "template", "noscript", "iframe", "object", "embed", "datalist", "option"))
BLOCKS = frozenset(
    ("address", "article", "aside", "blockquote", "body", "dd", "details", "dialog", "div", "dl", "dt", "fieldset", "figure",
     "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "legend", "li", "main", "nav", "ol", "p", "pre",
     "section", "summary", "svg", "table", "tbody", "tfoot", "thead", "tr", "ul")
)  # fmt: skip
SHAPES = frozenset(("circle", "ellipse", "line", "path", "polygon", "polyline", "rect", "text"))
CLICKED = frozenset(("button", "link", "tab", "menuitem", "option", "switch", "treeitem", "checkbox", "radio"))


class Node(Struct, array_like=True):
    """An element of a page as it stands: attributes hold what fields hold."""

    tag: str
    attrs: dict[str, str]
    """Of fields the current ``value``, ``checked`` and ``selected`` where they are."""
    kids: list[Node | str]
    index: int = -1
    """Number the browser knows it by."""


class Element(Struct, frozen=True, kw_only=True):
    """Something that can be acted on."""

    id: int
    """What the policy calls it, from 1 in the order of the page."""
    role: Role
    label: str
    """Text on it."""
    value: str
    """What a field holds or a select has chosen; ``on`` or ``off`` of boxes."""
    options: tuple[str, ...]
    """Of a select."""
    disabled: bool
    node: Node


class Outline(Struct, frozen=True, kw_only=True):
    """A page as lines of text and what can be acted on."""

    lines: tuple[str, ...]
    elements: tuple[Element, ...]

    def element(self, id: int) -> Element | None:
        """The one of this number."""
        return self.elements[id - 1] if 1 <= id <= len(self.elements) else None


def outline(tree: Node, *, every: bool = False) -> Outline:
    """Reads a page.

    Args:
        tree: its body.
        every: also number elements that merely hold text or are shapes of a drawing; for pages that listen to clicks anywhere.
    """
    writer = _Writer(every)
    writer.node(tree, inside=False)
    writer.end()
    return Outline(lines=tuple(writer.lines), elements=tuple(writer.elements))


def words(node: Node) -> str:
    """All text below an element, blanks made one.

    >>> words(Node("p", {}, ["a ", Node("b", {}, ["b\\n"]), " c"]))
    'a b c'
    """
    found: list[str] = []

    def walk(at: Node | str) -> None:
        if isinstance(at, str):
            found.append(at)
        elif at.tag not in SKIPPED or at.tag == "option":
            for kid in at.kids:
                walk(kid)

    walk(node)
    return blank("".join(found)).strip()


def blank(text: str) -> str:
    """Every run of blanks made one, as browsers show it."""
    return re.sub(r"[ \t\r\n\f]+", " ", text)


def options(node: Node) -> tuple[str, ...]:
    """Texts of a select's options."""
    return tuple(words(option) for option in _options(node))


def chosen(node: Node) -> list[Node]:
    """Options of a select that are chosen; the first one where none is said to be and only one can be."""
    found = _options(node)
    said = [option for option in found if "selected" in option.attrs]
    return said if said or "multiple" in node.attrs else found[:1]


def _options(node: Node) -> list[Node]:
    found: list[Node] = []
    for kid in node.kids:
        if isinstance(kid, Node):
            found += [kid] if kid.tag == "option" else _options(kid)
    return found


def role_of(node: Node, every: bool) -> Role | None:
    """What can be done with an element; None for mere text."""
    attrs, kind = node.attrs, node.attrs.get("type", "").lower()
    if node.tag == "input":
        if kind in ("submit", "button", "image", "reset"):
            return "button"
        if kind in ("checkbox", "radio"):
            return "checkbox" if kind == "checkbox" else "radio"
        return "file" if kind == "file" else "field"
    if node.tag == "a" and ("href" in attrs or every):
        return "link"
    if node.tag in ("button", "select"):
        return "button" if node.tag == "button" else "select"
    if node.tag == "textarea" or attrs.get("contenteditable", "false") not in ("false", "inherit"):
        return "field"
    if "onclick" in attrs or "pointer" in attrs or "tabindex" in attrs or attrs.get("role") in CLICKED:
        return "item"
    if every and node.tag not in BLOCKS - {"div", "li", "p", "h1", "h2", "h3", "h4"} | {"br", "label"}:
        own = any(isinstance(kid, str) and kid.strip() for kid in node.kids)
        leaf = not any(isinstance(kid, Node) for kid in node.kids)
        return "item" if own or (leaf and node.tag not in ("body", "option")) else None
    return None


class _Writer:
    def __init__(self, every: bool) -> None:
        self.every = every
        self.lines: list[str] = []
        self.elements: list[Element] = []
        self.line = ""

    def end(self) -> None:
        """Ends the line, if there is one."""
        text = blank(self.line).strip().removesuffix(" |")
        self.line = ""
        if text:
            self.lines.append(text)

    def node(self, node: Node, *, inside: bool) -> None:
        """Writes an element. `inside` one that is clicked as a whole, nothing is numbered but what is filled in."""
        if node.tag in SKIPPED or "hidden" in node.attrs or (node.tag == "input" and node.attrs.get("type") == "hidden"):
            return
        block = node.tag in BLOCKS
        if block or node.tag == "br":
            self.end()
        if node.tag == "hr":
            self.lines.append("---")
        elif node.tag == "img":
            self.line += f" (image: {node.attrs.get('alt', '')}) "
        elif len(node.tag) == 2 and node.tag[0] == "h" and node.tag[1].isdigit():
            self.line += "#" * int(node.tag[1]) + " "
        elif node.tag == "li":
            self.line += "* "
        role = role_of(node, self.every)
        if role is not None and not (inside and role == "item"):
            self.element(node, role)
        if node.tag not in ("input", "select", "textarea"):
            for kid in node.kids:
                if isinstance(kid, str):
                    self.line += kid
                else:
                    self.node(kid, inside=inside or role in ("link", "button"))
        if block:
            self.end()
        elif node.tag in ("td", "th"):
            self.line += " | "

    def element(self, node: Node, role: Role) -> None:
        """Numbers an element and writes its mark."""
        attrs = node.attrs
        given, value, label = (), "", ""
        if role == "field":
            value = attrs.get("value", "") if node.tag == "input" else _held(node)
        elif role in ("checkbox", "radio"):
            value = "on" if "checked" in attrs else "off"
        elif role == "select":
            given = options(node)
            value = ", ".join(words(option) for option in chosen(node))
        elif node.tag == "input":
            label = attrs.get("value", {"submit": "Submit", "reset": "Reset"}.get(attrs.get("type", ""), ""))
        else:
            label = words(node) or attrs.get("aria-label", "") or attrs.get("title", "")
        found = Element(
            id=len(self.elements) + 1,
            role=role,
            label=label,
            value=value,
            options=given,
            disabled="disabled" in attrs,
            node=node,
        )
        self.elements.append(found)
        self.line += f" {self.mark(found)} "

    def mark(self, element: Element) -> str:
        """What stands before (or for) an element."""
        attrs, off = element.node.attrs, ", disabled" if element.disabled else ""
        match element.role:
            case "field":
                hint = f" ({blank(attrs['placeholder'])})" if attrs.get("placeholder") and not element.value else ""
                return f'[{element.id} field{off} "{blank(element.value)}"{hint}]'
            case "checkbox" | "radio":
                return f"[{element.id} {element.role}{off} {element.value}]"
            case "select":
                among = " | ".join(element.options)
                return f'[{element.id} select{off} "{element.value}" of {among}]'
            case "item":
                return f"[{element.id}{off}]{_shape(element.node)}"
            case _:
                label = "" if element.node.tag != "input" and words(element.node) else f" {element.label}"
                return f"[{element.id} {element.role}{off}]{label}"


def _held(node: Node) -> str:
    """What a text area holds."""
    return node.attrs.get("value", "".join(kid for kid in node.kids if isinstance(kid, str)))


def _shape(node: Node) -> str:
    """How a shape of a drawing, or an element without text, looks."""
    if node.tag not in SHAPES and words(node):
        return ""
    named = ("class", "fill", "stroke", "r", "width", "height", "style-color", "x", "y", "cx", "cy")
    told = [f"{name}={blank(node.attrs[name])}" for name in named if node.attrs.get(name)]
    return f"({' '.join([node.tag, *told])})"
