"""The Chromium of this process: one, started when first needed, in a thread of its own, shared by all episodes.

An episode gets a window in a context of its own: cookies, storage and cache are nobody else's. A used Chromium is replaced
after so many windows, or once it holds too much memory, as soon as no window is open.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import importlib
import os
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from phronesis.errors import ConfigError, EnvFault, SandboxUnavailable
from phronesis.tools.browser import chromium

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Playwright

T = TypeVar("T")

WINDOWS = 200
"""Windows after which Chromium is replaced."""
MEMORY = 1 << 30
"""Bytes after which it is replaced."""
START = 60.0
"""Seconds it may take to start."""
CALL = 60.0
"""Seconds one call may take before the episode is ended as a fault of the world."""


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

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits something in the browser's thread.

        Raises:
            EnvFault: it took far too long.
        """
        found = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, CALL), self.loop)
        try:
            return await asyncio.wrap_future(found)
        except (TimeoutError, concurrent.futures.TimeoutError) as error:
            raise EnvFault(f"the browser gave no answer within {CALL:g} s") from error

    async def context(self, *, scripts: bool, size: tuple[int, int]) -> BrowserContext:
        """A new context, in the browser's thread. `left` is to be called when it was closed."""
        async with self.turn:
            tired = self.opened >= WINDOWS or (self.program is not None and self.program.memory() > MEMORY)
            if self.browser is not None and (not self.browser.is_connected() or (self.open == 0 and tired)):
                await self._stop()
            if self.browser is None:
                await self._start()
            browser = self.browser
            assert browser is not None
            self.opened, self.open = self.opened + 1, self.open + 1
        try:
            return await browser.new_context(
                service_workers="block",
                accept_downloads=False,
                java_script_enabled=scripts,
                viewport={"width": size[0], "height": size[1]},
                locale="en-GB",
                timezone_id="UTC",
            )
        except BaseException:
            self.left()
            raise

    def left(self) -> None:
        """A window was closed."""
        self.open -= 1

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
        browser, driver, program = self.browser, self.driver, self.program
        self.browser = self.driver = self.program = None
        for ended in (browser and browser.close(), driver and driver.stop()):
            if ended:
                with contextlib.suppress(Exception):  # it may have died already
                    await ended
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
