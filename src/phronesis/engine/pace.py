"""Rate limits of an account: so many requests and tokens in any minute, in the order they were asked for."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

WINDOW = 60.0
"""Seconds any limit is counted over."""

_GRAIN = 1e-6
"""Seconds below which two times are the same: a wait that rounding leaves over would otherwise never end."""


class Pace:
    """Lets requests through so that no window of a minute holds more than allowed.

    >>> pace = Pace(requests=None, tokens=None)
    >>> asyncio.run(pace.enter(10_000)).tokens   # no limits: nobody waits
    10000

    What a request will take is estimated when it enters and put right by `settle`. A request that alone takes more than a
    minute's tokens goes through an empty window.
    """

    def __init__(
        self,
        *,
        requests: float | None,
        tokens: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        """None means no limit.

        Args:
            requests: per minute.
            tokens: per minute, of prompts and answers.
            clock: seconds, growing.
            sleep: waits.
        """
        self.requests, self.tokens = requests, tokens
        self.waited = 0.0
        """Seconds waited so far, over all requests."""
        self._clock, self._sleep = clock, sleep
        self._passed: deque[Pass] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn = asyncio.Lock()

    async def enter(self, tokens: int) -> Pass:
        """Waits until a request of about `tokens` tokens may go."""
        if self.requests is None and self.tokens is None:
            return Pass(self._clock(), tokens)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._turn = loop, asyncio.Lock()
        async with self._turn:
            while (wait := self._wait(tokens)) > 0:
                self.waited += wait
                await self._sleep(wait)
            passed = Pass(self._clock(), tokens)
            self._passed.append(passed)
            return passed

    def settle(self, passed: Pass, tokens: int) -> None:
        """What the request really took."""
        passed.tokens = tokens

    def _wait(self, tokens: int) -> float:
        """Seconds until the oldest request leaves the window; 0 when there is room."""
        now = self._clock()
        while self._passed and now - self._passed[0].at > WINDOW - _GRAIN:
            self._passed.popleft()
        if not self._passed:
            return 0.0
        crowded = self.requests is not None and len(self._passed) + 1 > self.requests
        spent = self.tokens is not None and sum(p.tokens for p in self._passed) + tokens > self.tokens
        return WINDOW - (now - self._passed[0].at) if crowded or spent else 0.0


class Pass:
    """One request that went through: when, and what it takes."""

    def __init__(self, at: float, tokens: int):
        self.at, self.tokens = at, tokens
