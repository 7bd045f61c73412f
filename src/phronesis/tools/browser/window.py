"""A window of a real Chromium on a site of this process. Every request is answered by the site or refused; nothing leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from phronesis.errors import EnvFault, ToolError
from phronesis.tools.browser.outline import Element, Node, outline
from phronesis.tools.browser.site import Site, ask
from phronesis.tools.browser.view import View
from phronesis.tools.browser.walk import WALK
from phronesis.tools.browser.worker import Slot, Worker, shared

if TYPE_CHECKING:
    from playwright.async_api import Dialog, Download, Frame, JSHandle, Page, Route, WebSocketRoute
    from playwright.async_api import Request as Asked

PATIENCE = 3000.0
"""Milliseconds an element may take to become ready to be clicked."""
ARRIVAL = 20.0
"""Seconds a page may take to come."""
QUIET = 0.03
"""Seconds a page with scripts is given after an action before it is read."""
MAYBE = 0.3
"""Seconds a click that should lead to another page is waited for where scripts may have caught it."""

POINT = """
e => {
  e.scrollIntoView({block: "nearest", inline: "nearest", behavior: "instant"});
  const order = [0.5, 0.25, 0.75, 0.1, 0.9];
  for (const box of e.getClientRects())
    for (const v of order)
      for (const u of order) {
        const x = box.left + u * box.width, y = box.top + v * box.height;
        const hit = document.elementFromPoint(x, y);
        if (hit && (hit === e || e.contains(hit))) return [x, y];
      }
  return null;
}
"""
"""A point of an element that a hand can reach: the middle, if nothing lies above it."""


class ChromiumView(View):
    """A window of its own context. Its methods are called from any event loop; the work is done in the browser's thread."""

    def __init__(
        self,
        site: Site,
        host: str,
        *,
        scripts: bool = False,
        every: bool = False,
        root: str = "body",
        size: tuple[int, int] = (800, 600),
    ) -> None:
        """Opens nothing yet.

        Args:
            site: answers requests.
            host: its name.
            scripts: whether pages may run scripts.
            every: number everything with text; see `outline`.
            root: selector of the part of a page that is read.
            size: of the window, in pixels.
        """
        super().__init__(host)
        self.site, self.scripts, self.every, self.root, self.size = site, scripts, every, root, size
        self.worker: Worker = shared()
        self.slot: Slot | None = None
        self._seen: JSHandle | None = None
        self.park = False
        """Whether the page is left open for the next episode that begins with it: only for pages that can begin anew."""
        self.blocked = 0
        """Requests that were refused."""
        self.popups = 0
        """Windows that were opened by pages, and closed."""
        self.came = asyncio.Event()
        """Set when another page came, or its address was refused."""
        self.pages = 0
        """Pages that came."""
        self.busy = 0
        """Requests being answered."""
        self.fault: Exception | None = None
        """What the site raised."""
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def page(self) -> Page:
        """The page in the window; RuntimeError before it was opened."""
        if self.slot is None:
            raise RuntimeError("open a page before using the window")
        return self.slot.page

    @property
    def seen(self) -> JSHandle:
        """What was read last, in the browser; RuntimeError before."""
        if self._seen is None:
            raise RuntimeError("open a page before using the window")
        return self._seen

    # ------------------------------------------------------------------------------------------ View

    async def fetch(self, url: str) -> None:
        """Goes to an address."""
        await self.worker.call(self._goto(url))

    async def press(self, element: Element) -> bool:
        """Clicks, as a hand would: where the element is, if nothing lies above it."""
        return await self.worker.call(self._press(element))

    async def fill(self, element: Element, text: str) -> None:
        """Fills a field."""
        await self.worker.call(self._act(element, "fill", text))

    async def choose(self, element: Element, option: str) -> None:
        """Chooses an option."""
        await self.worker.call(self._act(element, "choose", element.options.index(option)))

    async def wheel(self, lines: int) -> None:
        """Turns the wheel."""
        await self.worker.call(self._wheel(lines))

    async def screenshot(self) -> bytes:
        """What can be seen, as PNG."""
        return await self.worker.call(self._screenshot())

    async def evaluate(self, script: str, given: object = None) -> object:
        """Runs a script in the page. For the world's own use; no tool leads here."""
        return await self.worker.call(self._evaluate(script, given))

    async def read(self) -> None:
        """Reads the page anew."""
        await self.worker.call(self._read())

    async def close(self) -> None:
        """Closes the window."""
        if self.slot is not None:
            slot, self.slot = self.slot, None
            await self.worker.call(self.worker.give(slot, self.park))

    # ------------------------------------------------------------------------------------------ in the browser's thread

    async def _open(self, url: str) -> None:
        if self.slot is None:
            self.slot = await self.worker.take(self, scripts=self.scripts, size=self.size, url=url)
            self.slot.page.set_default_timeout(ARRIVAL * 1000)

    async def answer(self, route: Route) -> None:
        """Answers a request, or refuses it."""
        await self._answer(route)

    def happened(self, what: str, about: Dialog | Download | Page | Frame | WebSocketRoute) -> None:
        """Refuses sockets, windows and downloads, closes dialogs, and counts pages that came."""
        match what:
            case "socket":
                self.blocked += 1
                self._later(cast("WebSocketRoute", about).close())
            case "window" if self.slot is None or about != self.slot.page:
                self.popups += 1
                self.note("a window was opened, and closed")
                self._later(cast("Page", about).close())
            case "dialog":
                dialog = cast("Dialog", about)
                self.note(f"a dialog said {dialog.message[:200]!r} and was closed")
                self._later(dialog.dismiss())
            case "download":
                self.note("a download was refused")
                self.came.set()
                self._later(cast("Download", about).cancel())
            case "moved" if about == self.page.main_frame:
                self.pages += 1
                self.came.set()
            case _:
                pass

    async def _answer(self, route: Route) -> None:
        asked = route.request
        where = self._where(asked) if asked.is_navigation_request() else "part"
        self.busy += 1
        try:
            if where == "window":  # an empty page comes, so that the window is known and can be closed
                self.blocked += 1
                await route.fulfill(status=403, content_type="text/html", body="")
                return
            try:
                sent = (asked.post_data_buffer or b"").decode("utf-8", "replace")
                found = ask(self.site, self.host, asked.method, asked.url, sent)
            except Exception as error:  # raised where the page is waited for; here nobody would hear of it
                self.fault = self.fault or error
                self.came.set()
                await route.abort("aborted")
                return
            if found is None:
                self._blocked(asked.url, where == "main")
                await route.abort("aborted" if where == "main" else "blockedbyclient")
                return
            if where == "main":
                self.got = asked.method == "GET"
            headers = {**{name.lower(): value for name, value in found.headers.items()}, "cache-control": "no-store"}
            status = found.status if not 300 <= found.status < 400 else 502  # Chromium would follow it past all routing
            await route.fulfill(status=status, content_type=found.media_type, headers=headers, body=found.body or " ")
        finally:
            self.busy -= 1

    def _where(self, asked: Asked) -> Literal["main", "frame", "window"]:
        """Whether a page is to come into the window itself, into a frame of it, or into a new window."""
        from playwright.async_api import Error

        try:
            frame = asked.frame
        except Error:  # a new window's frame is not known yet
            return "window"
        return "main" if frame == self.page.main_frame else "frame" if frame.page == self.page else "window"

    def _blocked(self, url: str, main: bool) -> None:
        self.blocked += 1
        if main:
            self.note(f"blocked: {url[:200]} is outside of this site")
            self.came.set()

    def _later(self, work: Awaitable[None]) -> None:
        async def quietly() -> None:
            with contextlib.suppress(Exception):  # what it is about may be gone already
                await work

        self.tasks.add(task := asyncio.ensure_future(quietly()))
        task.add_done_callback(self.tasks.discard)

    async def _goto(self, url: str) -> None:
        from playwright.async_api import Error

        await self._open(url)
        if self.slot is not None and self.slot.parked == url == self.page.url:
            self.slot.parked = ""
            await self._read()
            return
        try:
            await self.page.goto(url, wait_until="load")
        except Error as error:
            if "ERR_ABORTED" not in str(error) and "Download is starting" not in str(error):
                raise
        await self._settled()
        await self._read()

    async def _press(self, element: Element) -> bool:
        leads = _leads(element.node) or await self._sends(element)
        pages = self.pages
        self.came.clear()
        await self._do(element, "click", "")
        if leads:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.came.wait(), MAYBE if self.scripts else ARRIVAL)
        await self._settled()
        await self._read()
        return self.pages != pages

    async def _act(self, element: Element, what: str, given: str | int) -> None:
        await self._do(element, what, given)
        await self._settled()
        await self._read()

    async def _do(self, element: Element, what: str, given: str | int) -> None:
        from playwright.async_api import Error

        handle = (await self.seen.evaluate_handle("(o, i) => o.nodes[i]", element.node.index)).as_element()
        if handle is None:
            raise ToolError(f"element {element.id} is gone", "bad_element")
        try:
            if what == "click":
                point = await handle.evaluate(POINT)
                if point is None:
                    raise ToolError(
                        f"element {element.id} cannot be reached: it cannot be seen, or something lies above it", "covered"
                    )
                await self.page.mouse.click(point[0], point[1])
            elif what == "fill":
                await handle.fill(str(given), timeout=PATIENCE)
                if self.scripts:
                    await handle.dispatch_event("keyup", {"bubbles": True})
            else:
                await handle.select_option(index=int(given), timeout=PATIENCE)
        except Error as error:
            await self._settled()
            await self._read()
            raise ToolError(f"element {element.id} could not be used: {_reason(str(error))}", "bad_element") from error

    async def _sends(self, element: Element) -> bool:
        """Whether a click sends a form."""
        if element.role != "button":
            return False
        test = "(o, i) => { const e = o.nodes[i]; return !!e.form && e.type === 'submit'; }"
        return bool(await self.seen.evaluate(test, element.node.index))

    async def _settled(self) -> None:
        """Waits until pages have come and requests are answered; EnvFault when the site failed."""
        from playwright.async_api import Error

        if self.scripts:
            await asyncio.sleep(QUIET)
        try:
            await self.page.wait_for_load_state("load", timeout=ARRIVAL * 1000)
        except Error as error:
            raise ToolError("the page did not finish loading", "page_hangs") from error
        for _ in range(100):
            if not self.busy:
                break
            await asyncio.sleep(0.02)
        if self.fault is not None:
            raise EnvFault(f"the site {self.host!r} failed: {type(self.fault).__name__}: {self.fault}") from self.fault

    async def _read(self) -> None:
        from playwright.async_api import Error

        left = 5
        while True:
            try:
                seen = await self.page.evaluate_handle(WALK, [self.root, self.every])
                title, tree = await seen.evaluate("o => o.page")
                break
            except Error:  # another page came meanwhile
                left -= 1
                if not left:
                    raise
                await self._settled()
                await asyncio.sleep(0.05)
        before, self._seen = self._seen, seen
        if before is not None:
            self._later(before.dispose())
        self.url, self.title = self.page.url, str(title).strip()
        self.outline = outline(msgspec.convert(cast("object", tree), Node), every=self.every)

    async def _wheel(self, lines: int) -> None:
        width, height = self.size
        await self.page.mouse.move(width / 2, height / 2)
        await self.page.mouse.wheel(0, lines * height * 0.8)
        await self._settled()
        await self._read()

    async def _screenshot(self) -> bytes:
        return bytes(await self.page.screenshot())

    async def _evaluate(self, script: str, given: object) -> object:
        return await self.page.evaluate(script, given)


def _leads(node: Node) -> bool:
    """Whether a link leads to another page."""
    href = node.attrs.get("href", "")
    return node.tag == "a" and bool(href) and not href.startswith(("#", "javascript:"))


def _reason(text: str) -> str:
    """The part of Playwright's message that a policy can use."""
    for found, said in (
        ("intercepts pointer events", "something else lies above it"),
        ("not visible", "it cannot be seen"),
        ("outside of the viewport", "it lies outside of the window"),
        ("not attached", "it is gone"),
        ("Malformed value", "this is no value for such a field"),
        ("Cannot type text", "this is no value for such a field"),
    ):
        if found in text:
            return said
    return text.splitlines()[0][:200]
