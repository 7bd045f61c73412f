"""Browsing without a browser: pages are read as trees, forms are sent as browsers send them. For sites without scripts."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import urldefrag, urljoin

import msgspec

from phronesis.errors import ToolError
from phronesis.tools.browser.markup import read
from phronesis.tools.browser.outline import Element, Node, chosen, outline, words
from phronesis.tools.browser.site import Site, ask, encoded
from phronesis.tools.browser.view import View


class PlainView(View):
    """A window on a site without scripts. All of it is a JSON value, so it can be kept and put back."""

    def __init__(self, site: Site, host: str) -> None:
        """Opens nothing yet.

        Args:
            site: answers requests.
            host: its name.
        """
        super().__init__(host)
        self.site = site
        self.tree = Node("body", {}, [])

    async def fetch(self, url: str) -> None:
        """Asks for a page."""
        self._load("GET", url, "")

    async def press(self, element: Element) -> bool:
        """Follows a link, sends a form, turns a box; anything else does nothing."""
        node = element.node
        if element.role == "link":
            return self._follow(node.attrs.get("href", ""))
        if element.role == "checkbox":
            if "checked" in node.attrs:
                del node.attrs["checked"]
            else:
                node.attrs["checked"] = ""
        elif element.role == "radio":
            for other in _all(_form_of(self.tree, node) or self.tree, "input"):
                if other.attrs.get("type") == "radio" and other.attrs.get("name") == node.attrs.get("name"):
                    other.attrs.pop("checked", None)
            node.attrs["checked"] = ""
        elif element.role == "button" and node.attrs.get("type", "submit").lower() == "submit":
            form = _form_of(self.tree, node)
            if form is not None:
                return self._send(form, node)
        self._read()
        return False

    async def fill(self, element: Element, text: str) -> None:
        """Sets a field."""
        element.node.attrs["value"] = text
        self._read()

    async def choose(self, element: Element, option: str) -> None:
        """Sets a select."""
        for node in _all(element.node, "option"):
            node.attrs.pop("selected", None)
        next(node for node in _all(element.node, "option") if words(node) == option).attrs["selected"] = ""
        self._read()

    def state(self) -> dict[str, Any]:
        """All that changes."""
        return {
            "url": self.url, "title": self.title, "top": self.top, "got": self.got, "history": list(self.history),
            "notes": list(self.notes), "tree": msgspec.to_builtins(self.tree),
        }  # fmt: skip

    def put(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        self.url, self.title, self.top, self.got = state["url"], state["title"], state["top"], state["got"]
        self.history, self.notes = list(state["history"]), list(state["notes"])
        self.tree = msgspec.convert(state["tree"], Node)
        self._read()

    def _follow(self, href: str) -> bool:
        """Follows a link, unless it leads out of the site."""
        try:
            url = self.resolve(href)
        except ToolError:
            self.note(f"blocked: {urljoin(self.url, href)[:200]} is outside of this site")
            self._read()
            return False
        if "#" in url and urldefrag(url).url == urldefrag(self.url).url:  # a place on this page
            self.url = url
            return True
        return self._load("GET", url, "")

    def _send(self, form: Node, button: Node) -> bool:
        fields = _fields(form, button)
        action = urljoin(self.url, form.attrs.get("action", "") or self.url)
        try:
            url = self.resolve(action)
        except ToolError:
            self.note(f"blocked: {action[:200]} is outside of this site")
            self._read()
            return False
        if form.attrs.get("method", "get").lower() == "post":
            return self._load("POST", url, encoded(fields))
        page, _, place = url.partition("#")
        return self._load("GET", f"{page.partition('?')[0]}?{encoded(fields)}{'#' if place else ''}{place}", "")

    def _load(self, method: str, url: str, body: str) -> bool:
        response = ask(self.site, self.host, method, url, body)
        if response is None:
            self.note(f"blocked: {url[:200]} is outside of this site")
            self._read()
            return False
        text = response.body if isinstance(response.body, str) else response.body.decode("utf-8", "replace")
        self.title, self.tree = read(text)
        self.url, self.got = url, method == "GET"
        self._read()
        return True

    def _read(self) -> None:
        self.outline = outline(self.tree)


def _all(node: Node, tag: str) -> list[Node]:
    """Elements of a tag below a node, in order."""
    found: list[Node] = []
    for kid in node.kids:
        if isinstance(kid, Node):
            found += [kid] if kid.tag == tag else []
            found += _all(kid, tag)
    return found


def _form_of(tree: Node, node: Node) -> Node | None:
    """The form an element belongs to."""
    return next((form for form in _all(tree, "form") if any(kid is node for kid in _all(form, node.tag))), None)


def _controls(node: Node) -> list[Node]:
    found: list[Node] = []
    for kid in node.kids:
        if isinstance(kid, Node):
            inner = kid.tag in ("input", "select", "textarea", "button")
            found += [kid] if inner else _controls(kid)
    return found


def _fields(form: Node, button: Node) -> list[tuple[str, str]]:
    """What a form sends, in order: fields with a name that are not disabled, boxes that are on, and the button pressed."""
    found: list[tuple[str, str]] = []
    for node in _controls(form):
        name, kind = node.attrs.get("name", ""), node.attrs.get("type", "").lower()
        if not name or "disabled" in node.attrs:
            continue
        if node.tag == "button" or kind in ("submit", "image", "button", "reset"):
            if node is button:
                found.append((name, node.attrs.get("value", "")))
        elif node.tag == "select":
            found += [(name, option.attrs.get("value", words(option))) for option in chosen(node)]
        elif node.tag == "textarea":
            held = node.attrs.get("value", "".join(cast("list[str]", node.kids)))
            found.append((name, held.replace("\n", "\r\n")))
        elif kind in ("checkbox", "radio"):
            if "checked" in node.attrs:
                found.append((name, node.attrs.get("value", "on")))
        elif kind != "file":
            found.append((name, node.attrs.get("value", "")))
    return found
