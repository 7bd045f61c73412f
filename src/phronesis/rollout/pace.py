"""Keeps the event loop awake: work that cannot be interrupted takes turns, so that a thousand answers at once do not stop it.

A loop runs everything that is ready before it looks at its clock again. When a thousand episodes become ready at once, each of
which reads an answer or encodes a prompt, nothing else happens until all have done so. Here they ask first: as long as the
loop's present pass is young they go on at once, afterwards they wait for a later pass, first come, first served.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque

MOST = 0.004
"""Seconds of one pass after which work is put off."""
FIRST = 4
"""How many of those put off go on in the first pass after; then as many more or fewer as the passes have time for."""


class Pace:
    """Turns of one event loop. `Pace.of_loop()` gives the running one's."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        """Nobody waits."""
        self._loop = weakref.ref(loop)
        self._queue: deque[asyncio.Future[None]] = deque()
        self._began: float | None = None
        self._at_once = FIRST

    @staticmethod
    def of_loop() -> Pace:
        """That of the running event loop."""
        loop = asyncio.get_running_loop()
        found = _PACES.get(loop)
        if found is None:
            found = _PACES[loop] = Pace(loop)
        return found

    async def turn(self) -> None:
        """Returns when a piece of work of a few milliseconds at most may be done, which is nearly always at once."""
        now, loop = time.perf_counter(), asyncio.get_running_loop()
        if self._began is None:
            self._began = now
            loop.call_soon(self._next)
        if not self._queue and now - self._began < MOST:
            return
        turn = loop.create_future()
        self._queue.append(turn)
        await turn

    def _next(self) -> None:
        """Begins a pass: lets as many of those who wait go on as the last passes had time for."""
        now = time.perf_counter()
        loop = self._loop()
        if loop is None:
            return
        if not self._queue:
            self._began, self._at_once = None, FIRST
            return
        spent = 0.0 if self._began is None else now - self._began
        if spent < MOST / 2:
            self._at_once *= 2
        elif spent > MOST:
            self._at_once = max(1, self._at_once // 2)
        self._began = now
        going = 0
        while self._queue and going < self._at_once:
            turn = self._queue.popleft()
            if not turn.done():  # given up otherwise, which takes nobody's place
                turn.set_result(None)
                going += 1
        loop.call_soon(self._next)


_PACES: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pace] = weakref.WeakKeyDictionary()
