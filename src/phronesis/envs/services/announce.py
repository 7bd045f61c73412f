"""How a service stays known to a run: registers, beats, registers again when the run came back, takes its leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from phronesis.envs.services.link import Link
from phronesis.envs.services.sessions import Sessions
from phronesis.envs.services.wire import PACKED, Load, Refused, Registered, Registration, decode, encode
from phronesis.errors import ConfigError, ServiceFault

log = logging.getLogger(__name__)

ASK_SECONDS = 10.0
"""Longest a run may take to answer."""
LONGEST = 5.0
"""Longest pause between attempts to reach a run, in seconds."""
UNWANTED = 15.0
"""Pause after a run said that it does not want this service, where it wanted it before."""


class Announcer:
    """Keeps one service known to one run.

    Args:
        url: of the run's registrar.
        about: the service.
        sessions: its episodes; those of a run that is no more are closed.
        token: secret the run is shown.
        say: told what people should read, once per change.
        sleep: waits.
    """

    def __init__(
        self,
        url: str,
        about: Registration,
        sessions: Sessions,
        *,
        token: str | None = None,
        say: Callable[[str], None] = log.info,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ):
        self._link = Link(url, token)
        self._url, self._about, self._sessions, self._say, self._sleep = url, about, sessions, say, sleep
        self.known: Registered | None = None
        """What the run answered; None while it does not know this service."""
        self._run = ""
        self._failed = 0
        self._said = ""

    async def run(self) -> None:
        """Registers and beats until cancelled.

        Raises:
            ConfigError: the run refuses this service, and never wanted it.
        """
        try:
            while True:
                await self._sleep(await self._once())
        finally:
            self._link.close()

    async def leave(self) -> None:
        """Tells the run, if it can be reached, to send no new episodes."""
        known, self.known = self.known, None
        if known is not None:
            with suppress(ServiceFault, Refused, TimeoutError):
                await self._ask("DELETE", f"/services/{known.id}")
        self._link.close()

    async def _once(self) -> float:
        """Registers or beats; seconds until the next time."""
        try:
            known = self.known or await self._register()
            await self._ask("POST", f"/services/{known.id}/heartbeat", Load(open=len(self._sessions)))
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
            await self._sessions.disown(self._run)
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
