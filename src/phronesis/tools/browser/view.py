"""A window on a site: what can be done in it, the same for every way of browsing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from urllib.parse import urldefrag, urljoin, urlsplit

from phronesis.errors import ToolError
from phronesis.tools.browser.outline import Element, Outline
from phronesis.tools.browser.site import address

HEIGHT = 60
"""Lines of a page shown at once."""
MAX_LINE = 400
"""Characters of a line that are shown."""
MAX_NOTES = 20
"""Notes that are told at once."""
MAX_TYPED = 5000
"""Characters typed at once."""


class View(ABC):
    """One window of one episode. Subclasses open pages and act on them; checks, history and the text are here."""

    def __init__(self, host: str) -> None:
        """Opens nothing yet.

        Args:
            host: the site's name; no other can be reached.
        """
        self.host = host
        self.url, self.title = "", ""
        self.outline = Outline(lines=(), elements=())
        self.top = 0
        """First line shown."""
        self.got = True
        """Whether the page was asked for by GET and can be asked for again."""
        self.history: list[str] = []
        """Addresses of the pages before, the last one last."""
        self.notes: list[str] = []
        """What happened beside: dialogs, windows, blocked addresses. Told once, with the next text."""

    @abstractmethod
    async def fetch(self, url: str) -> None:
        """Goes to an address of the site and reads the page."""

    @abstractmethod
    async def press(self, element: Element) -> bool:
        """Clicks; True when another page came."""

    @abstractmethod
    async def fill(self, element: Element, text: str) -> None:
        """Puts a text into a field instead of what it holds."""

    @abstractmethod
    async def choose(self, element: Element, option: str) -> None:
        """Chooses one of the options of a select."""

    async def wheel(self, lines: int) -> None:
        """Moves the page itself, where it can be moved."""
        return

    async def screenshot(self) -> bytes:
        """A picture of the page, as PNG.

        Raises:
            ToolError: there is nothing to take a picture of.
        """
        raise ToolError("this browser shows text only; there is no screen", "no_screen")

    async def close(self) -> None:
        """Closes the window."""
        return

    # ------------------------------------------------------------------------------------------ actions

    def resolve(self, url: str) -> str:
        """An address of the site, completed.

        Raises:
            ToolError: it is somewhere else, or no address.
        """
        try:
            whole = urljoin(self.url or f"http://{self.host}/", url.strip())
            parts = urlsplit(whole)
            fine = parts.scheme == "http" and parts.netloc == self.host and whole.isprintable() and "\\" not in whole
        except ValueError:
            fine, whole = False, ""
        if not fine:
            raise ToolError(f"only pages of http://{self.host}/ can be opened; got {url[:200]!r}", "blocked")
        return address(whole)

    async def goto(self, url: str) -> None:
        """Opens an address, anew if it is open already."""
        whole = urldefrag(self.resolve(url)).url
        self._leave()
        await self.fetch(whole)

    async def click(self, id: int) -> None:
        """Clicks an element."""
        element = self.find(id)
        if element.role == "file":
            raise ToolError("files cannot be uploaded here", "bad_element")
        if element.role == "select":
            raise ToolError(f"element {id} is a select; use select with one of its options", "bad_element")
        before, got = self.url, self.got
        if await self.press(element):
            self.top = 0
            if got and before:
                self.history.append(before)

    async def type(self, id: int, text: str) -> None:
        """Types into a field."""
        element = self.find(id)
        if element.role != "field":
            raise ToolError(f"element {id} is a {element.role}, not a field", "bad_element")
        if len(text) > MAX_TYPED:
            raise ToolError(f"the text has {len(text)} characters; at most {MAX_TYPED} can be typed", "bad_argument")
        if element.node.tag == "input":
            text = text.replace("\r", "").replace("\n", "")
        if "readonly" in element.node.attrs:
            raise ToolError(f"element {id} cannot be changed", "disabled")
        await self.fill(element, text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", ""))

    async def select(self, id: int, option: str) -> None:
        """Chooses an option."""
        element = self.find(id)
        if element.role != "select":
            raise ToolError(f"element {id} is a {element.role}, not a select", "bad_element")
        if option not in element.options:
            raise ToolError(f"no option {option[:80]!r}; the options are: {', '.join(element.options)[:1000]}", "bad_argument")
        await self.choose(element, option)

    async def scroll(self, down: bool) -> None:
        """Shows other lines of a long page."""
        last = max(0, len(self.outline.lines) - HEIGHT)
        step = HEIGHT - 5
        self.top = min(self.top + step, last) if down else max(self.top - step, 0)
        await self.wheel(1 if down else -1)

    async def back(self) -> None:
        """Opens the page before, anew."""
        if not self.history:
            raise ToolError("there is no page before this one", "no_history")
        url = self.history.pop()
        self.top = 0
        await self.fetch(url)

    def find(self, id: int) -> Element:
        """The element of a number.

        Raises:
            ToolError: there is none, or it is disabled.
        """
        element = self.outline.element(id)
        if element is None:
            count = len(self.outline.elements)
            raise ToolError(f"there is no element {id}; this page has {f'1 to {count}' if count else 'none'}", "bad_element")
        if element.disabled:
            raise ToolError(f"element {id} is disabled", "disabled")
        return element

    def text(self) -> str:
        """The page as the policy reads it, after notes about what happened beside."""
        lines = self.outline.lines
        shown = [line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…" for line in lines[self.top : self.top + HEIGHT]]
        notes = [f"({note})" for note in self.notes]
        self.notes = []
        above, below = self.top, len(lines) - self.top - len(shown)
        head = f"Page: {self.title or 'untitled'} ({self.url.removeprefix(f'http://{self.host}')})"
        more = [f"({above} lines above)"] if above else []
        rest = [f"({below} lines below: scroll)"] if below > 0 else []
        return "\n".join([*notes, head, *more, *(shown or ["(nothing to read)"]), *rest])

    def note(self, what: str) -> None:
        """Tells, with the next text, what happened beside; of very many things only the first ones."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(what)
        elif len(self.notes) == MAX_NOTES:
            self.notes.append("more of this happened")

    def _leave(self) -> None:
        if self.got and self.url:
            self.history.append(self.url)
        self.top = 0
