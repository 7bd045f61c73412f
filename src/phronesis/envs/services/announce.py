"""How a service stays known to a run: registers, beats, registers again when the run came back, takes its leave."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from phronesis.envs.services.link import Link
from phronesis.envs.services.wire import PACKED, Load, Refused, Registered, Registration, decode, encode
from phronesis.errors import ConfigError, ServiceFault

log = logging.getLogger(__name__)

ASK_SECONDS = 10.0
"""Longest a run may take to answer."""
LONGEST = 5.0
"""Longest pause between attempts to reach a run, in seconds."""
STUCK = 120.0
"""A service whose event loop stands still for so many seconds does not count as alive any more."""
UNWANTED = 15.0
"""Pause after a run said that it does not want this service, where it wanted it before."""


class Announcer:
    """Keeps one service known to one run.

    It runs in a thread of its own, so that a world that computes for long, and keeps the event loop of its service from
    everything else, does not count as lost; until it has done so for `STUCK` seconds.

    Args:
        url: of the run's registrar.
        about: the service.
        load: how many episodes are played; called in that thread.
        disown: called, in that thread, with a run that is no more: its episodes are to be closed.
        token: secret the run is shown.
        say: told what people should read, once per change.
    """

    def __init__(
        self,
        url: str,
        about: Registration,
        *,
        load: Callable[[], int] = lambda: 0,
        disown: Callable[[str], object] = lambda run: None,
        token: str | None = None,
        say: Callable[[str], None] = log.info,
    ):
        self._link = Link(url, token)
        self._url, self._about, self._load, self._disown, self._say = url, about, load, disown, say
        self.known: Registered | None = None
        """What the run answered; None while it does not know this service."""
        self.ticked = time.monotonic()
        """When the service's event loop last said that it goes on."""
        self._run = ""
        self._failed = 0
        self._said = ""
        self._over = threading.Event()
        self._wake: Callable[[], object] = lambda: None

    async def run(self) -> None:
        """Registers and beats until `stop`, and then takes leave, if the run can be reached.

        Raises:
            ConfigError: the run refuses this service, and never wanted it.
        """
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(news.set)
        try:
            while not self._over.is_set():
                pause = await self._once()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await news.wait()
            if self.known is not None:
                with suppress(ServiceFault, Refused, TimeoutError):
                    await self._ask("DELETE", f"/services/{self.known.id}")
        finally:
            self._link.close()

    def stop(self) -> None:
        """Ends `run`; from any thread."""
        self._over.set()
        with suppress(RuntimeError):  # it has ended
            self._wake()

    async def _once(self) -> float:
        """Registers or beats; seconds until the next time."""
        still = time.monotonic() - self.ticked
        if still > STUCK:
            self._tell(f"nothing has moved in this service for {still:.0f} s; the run is not told that it lives")
            return 1.0
        try:
            known = self.known or await self._register()
            await self._ask("POST", f"/services/{known.id}/heartbeat", Load(open=self._load()))
        except (ServiceFault, TimeoutError) as error:
            self._failed += 1
            self._tell(f"waiting for the run at {self._url}: {str(error) or 'no answer'}")
            return min(LONGEST, 0.1 * 2.0 ** min(self._failed, 10))
        except Refused as refused:
            self.known = None
            if refused.code == "unknown_service":
                return 0.0
            if not self._run and refused.status < 500:
                raise ConfigError(f"the run at {self._url} refuses this service: {refused}") from refused
            self._tell(f"the run at {self._url} refuses this service: {refused}")
            return UNWANTED
        self._failed = 0
        return known.heartbeat

    async def _register(self) -> Registered:
        content, kind = await self._ask("POST", "/services", self._about)
        known = decode(content, kind, Registered)
        if self._run not in ("", known.run):
            self._disown(self._run)
        self._run, self.known = known.run, known
        self._tell(f"registered with the run at {self._url} as {known.id}")
        return known

    async def _ask(self, method: str, path: str, value: object = None) -> tuple[bytes, str]:
        body, kind = (b"", PACKED) if value is None else encode(value)
        async with asyncio.timeout(ASK_SECONDS):
            answered = await self._link.ask(method, path, body, kind)
        return answered.content, answered.kind

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._say(text)
