"""The Chromium of this process: one, started when first needed, in a thread of its own, shared by all episodes.

An episode gets a window in a context of its own: cookies, storage and cache are nobody else's. A used Chromium is replaced
after so many windows, or once it holds too much memory, as soon as no window is open.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import os
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from phronesis.errors import ConfigError, EnvFault, SandboxUnavailable
from phronesis.tools.browser import chromium

if TYPE_CHECKING:
    from playwright.async_api import (
        Browser,
        BrowserContext,
        CDPSession,
        Dialog,
        Download,
        Frame,
        Page,
        Playwright,
        Route,
        WebSocketRoute,
    )

T = TypeVar("T")

WINDOWS = 200
"""Windows after which Chromium is replaced."""
PARKED = 6
"""Windows that are kept while nobody uses them, each with the page it was parked on."""
USES = 50
"""Episodes that may use a window one after the other."""
MEMORY = 1 << 30
"""Bytes after which it is replaced."""
START = 60.0
"""Seconds it may take to start."""
CALL = 60.0
"""Seconds one call may take before the episode is ended as a fault of the world."""
PULSE = 5.0
"""Seconds Chromium has to show that it is alive after such a call, or to end when it is told to; then it is killed."""


class Guest(Protocol):
    """What an episode's view does for the slot it uses, in the browser's thread."""

    host: str
    """Name of its site."""

    async def answer(self, route: Route) -> None:
        """Answers or refuses a request."""
        ...

    def happened(self, what: str, about: Dialog | Download | Page | Frame | WebSocketRoute) -> None:
        """Hears of a dialog, a download, another window, a move of a frame, or a socket."""
        ...


class Slot:
    """A context and its window, used by one episode after the other; all traces are cleared in between."""

    def __init__(self, context: BrowserContext, page: Page, key: tuple[bool, tuple[int, int]]) -> None:
        self.context, self.page, self.key = context, page, key
        self.uses = 0
        self.parked = ""
        """Address of the page that is kept open."""
        self.session: CDPSession | None = None
        self.view: Guest | None = None
        """The episode's view; None while nobody uses the slot."""

    async def answer(self, route: Route) -> None:
        """Hands a request to the episode."""
        if self.view is None:
            await route.abort("blockedbyclient")
        else:
            await self.view.answer(route)

    def happened(self, what: str, about: Dialog | Download | Page | Frame | WebSocketRoute) -> None:
        """Hands an event to the episode."""
        if self.view is not None:
            self.view.happened(what, about)

    async def clean(self, park: bool) -> None:
        """Forgets cookies, storage, history, and the page, unless it is parked for an episode that begins with it.

        Raises:
            RuntimeError: the page has left the site, so that what it stored there cannot be cleared.
        """
        used, self.view = self.view, None
        await self.page.mouse.move(-9, -9)  # or the next page would lie under the hand
        self.session = session = self.session or await self.context.new_cdp_session(self.page)
        if self.key[0]:  # without scripts a page can leave nothing but cookies
            origin = await self.page.evaluate("() => { window.name = ''; return location.origin; }")
            if used is None or origin != f"http://{used.host}":
                raise RuntimeError(f"the page was left at {origin!r}")
            told = {"origin": origin, "storageTypes": "all"}
            await session.send("Storage.clearDataForOrigin", told)  # pyright: ignore[reportUnknownMemberType]
        await self.context.clear_cookies()
        self.parked = self.page.url if park else ""
        if not park:
            await self.page.goto("about:blank")
        await session.send("Page.resetNavigationHistory")  # pyright: ignore[reportUnknownMemberType]


class Worker:
    """Chromium and the thread that speaks with it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="phronesis-browser", daemon=True)
        self.thread.start()
        self.turn = asyncio.Lock()
        self.driver: Playwright | None = None
        self.browser: Browser | None = None
        self.program: chromium.Program | None = None
        self.opened, self.open = 0, 0
        """Windows since the start, and those open now."""
        self.starts = 0
        self.doubted = False
        """Whether a call took too long since Chromium last showed that it is alive."""
        self.starting: asyncio.Task[None] | None = None
        self.idle: list[Slot] = []
        """Cleaned, for the next episode of their kind."""

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits something in the browser's thread.

        Raises:
            EnvFault: it took far too long, or the browser failed.
        """

        async def bounded() -> T | Exception:
            try:
                return await asyncio.wait_for(work, CALL)
            except Exception as error:  # handed over, so that none is lost when nobody waits any more
                return error

        found = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(bounded(), self.loop))
        if isinstance(found, TimeoutError):
            self.doubted = True
            raise EnvFault(f"the browser gave no answer within {CALL:g} s") from found
        if isinstance(found, Exception):
            if type(found).__module__.startswith("playwright."):
                raise EnvFault(f"the browser failed: {str(found).splitlines()[0][:300]}") from found
            raise found
        return found

    def ready(self) -> None:
        """Blocks until Chromium runs, so that no episode has to wait for it.

        Raises:
            ConfigError: there is no Chromium.
            SandboxUnavailable: it cannot be confined here.
            EnvFault: it did not start.
        """
        asyncio.run_coroutine_threadsafe(self._running(), self.loop).result(START + CALL)

    async def _running(self) -> Browser:
        """Chromium, started when it is not there or worn out. Who waits for it may be cancelled; its start is not."""
        async with self.turn:
            tired = self.opened >= WINDOWS or (
                self.opened % 20 == 19 and self.program is not None and self.program.memory() > MEMORY
            )
            if self.browser is not None and (not await self._alive(self.browser) or (self.open == 0 and tired)):
                await self._stop()
            if self.browser is None:
                self.starting = self.starting or asyncio.ensure_future(self._start())
                try:
                    await asyncio.shield(self.starting)
                finally:
                    if self.starting.done():
                        self.starting = None
            assert self.browser is not None
            return self.browser

    async def _alive(self, browser: Browser) -> bool:
        """Whether Chromium answers; asked only after a call that took too long."""
        if self.doubted and browser.is_connected():
            try:
                context = await asyncio.wait_for(browser.new_context(), PULSE)
                await asyncio.wait_for(context.close(), PULSE)
            except Exception:  # whatever it says, it is not well
                return False
            self.doubted = False
        return browser.is_connected()

    async def take(self, view: Guest, *, scripts: bool, size: tuple[int, int], url: str = "") -> Slot:
        """A window for an episode, if there is one with its page parked; in the browser's thread. `give` takes it back."""
        key = (scripts, size)
        browser = await self._running()
        self.opened, self.open = self.opened + 1, self.open + 1
        fit = [slot for slot in self.idle if slot.key == key]
        kept = fit[0] if fit and (not fit[0].parked or len(self.idle) >= PARKED) else None
        found = next((slot for slot in fit if slot.parked == url), kept)
        if found is not None:
            self.idle.remove(found)
        try:
            slot = found or await self._slot(browser, key)
        except BaseException:
            self.open -= 1
            raise
        slot.view = view
        return slot

    async def give(self, slot: Slot, park: bool = False) -> None:
        """Takes a window back, in the browser's thread."""
        self.open -= 1
        slot.uses += 1
        try:
            if slot.uses < USES:
                await asyncio.wait_for(slot.clean(park), 10)
                self.idle.append(slot)
                if len(self.idle) <= PARKED:
                    return
                slot = self.idle.pop(0)
        except Exception:  # whatever cannot be cleaned is thrown away
            slot.view = None
        with contextlib.suppress(Exception):
            await asyncio.wait_for(slot.context.close(), PULSE)

    async def _slot(self, browser: Browser, key: tuple[bool, tuple[int, int]]) -> Slot:
        scripts, (width, height) = key
        context = await browser.new_context(
            service_workers="block", accept_downloads=False, java_script_enabled=scripts,
            viewport={"width": width, "height": height}, locale="en-GB", timezone_id="UTC",
        )  # fmt: skip
        slot = Slot(context, await context.new_page(), key)
        await context.route("**/*", slot.answer)
        await context.route_web_socket("**/*", lambda socket: slot.happened("socket", socket))
        context.on("page", lambda page: slot.happened("window", page))
        slot.page.on("dialog", lambda dialog: slot.happened("dialog", dialog))
        slot.page.on("download", lambda download: slot.happened("download", download))
        slot.page.on("framenavigated", lambda frame: slot.happened("moved", frame))
        return slot

    @property
    def isolation(self) -> str:
        """What holds Chromium: ``namespaces``, or ``routing`` alone."""
        return "namespaces" if self.program is None or self.program.box is not None else "routing"

    async def _start(self) -> None:
        from playwright.async_api import Error, async_playwright

        self.driver = driver = await async_playwright().start()
        unsafe = os.environ.get(chromium.UNSAFE) == "1"
        found = chromium.find() or driver.chromium.executable_path
        if not os.path.exists(found):
            await driver.stop()
            raise ConfigError(
                f"there is no Chromium: {found!r} does not exist; install the package chromium, "
                f"or name its executable in {chromium.VARIABLE}"
            )
        self.program = chromium.program(found, confine=not unsafe)
        try:
            self.browser = await driver.chromium.launch(
                executable_path=self.program.path, args=list(self.program.flags), headless=True, env={"HOME": "/tmp"},
                chromium_sandbox=self.program.own_sandbox, timeout=START * 1000,
            )  # fmt: skip
        except Error as error:
            self.program.close()
            await driver.stop()
            said = [line for line in str(error).splitlines() if "phronesis:" in line]
            if said and not unsafe:
                raise SandboxUnavailable(
                    f"Chromium cannot be kept from network and files here ({said[0].partition('phronesis: ')[2]}); "
                    f"{chromium.UNSAFE}=1 starts it all the same, held by the routing of its requests alone"
                ) from error
            raise EnvFault(f"Chromium did not start: {str(error)[:600]}") from error
        self.opened, self.starts = 0, self.starts + 1

    async def _stop(self) -> None:
        self.idle.clear()
        browser, driver, program = self.browser, self.driver, self.program
        self.browser = self.driver = self.program = None
        self.doubted = False
        if browser is not None:
            with contextlib.suppress(Exception):  # it may have died already, or hang
                await asyncio.wait_for(browser.close(), PULSE)
        if program is not None:
            program.kill()
        if driver is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(driver.stop(), PULSE)
        if program is not None:
            program.close()

    def close(self) -> None:
        """Ends Chromium and the thread."""
        if self.pid != os.getpid() or not self.thread.is_alive():
            return
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        if not self.thread.is_alive():
            self.loop.close()


_workers: dict[int, Worker] = {}


def shared() -> Worker:
    """The worker of this process.

    Raises:
        ConfigError: Playwright is not installed.
    """
    check()
    found = _workers.get(os.getpid())
    if found is None or not found.thread.is_alive():
        found = _workers[os.getpid()] = Worker()
        atexit.register(found.close)
    return found


def check() -> None:
    """Raises ConfigError when Playwright is not installed."""
    try:
        importlib.import_module("playwright")
    except ModuleNotFoundError as error:
        raise ConfigError("the browser needs Playwright: pip install 'phronesis[browser]', and the program chromium") from error
