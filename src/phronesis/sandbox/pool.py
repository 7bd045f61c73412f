"""Boxes made ahead of time, so that an episode does not wait for one. A box is used once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator

from phronesis.errors import SandboxFault
from phronesis.sandbox.box import Box
from phronesis.sandbox.ladder import Sandbox
from phronesis.sandbox.spec import BoxSpec


class Pool:
    """Keeps some boxes of one kind ready."""

    def __init__(self, sandbox: Sandbox, spec: BoxSpec, ready: int = 4, most: int = 64):
        """Makes nothing yet; see `fill`.

        Args:
            sandbox: what makes boxes.
            spec: of all of them.
            ready: how many wait to be taken.
            most: how many may be out at once; further takers wait.
        """
        self.sandbox, self.spec, self.ready = sandbox, spec, ready
        self.idle: deque[Box] = deque()
        self.places = asyncio.Semaphore(most)
        self.filling: asyncio.Task[None] | None = None
        self.made = self.waited = 0
        """Boxes made; takers that found none ready."""

    async def fill(self) -> None:
        """Makes boxes until enough are ready."""
        while len(self.idle) < self.ready:
            self.idle.append(await self.sandbox.open(self.spec))
            self.made += 1

    @contextlib.asynccontextmanager
    async def box(self) -> AsyncGenerator[Box]:
        """A fresh box; it is ended afterwards, and another is made in its place."""
        async with self.places:
            taken = await self._taken()
            try:
                yield taken
            finally:
                await taken.close()
                if self.filling is None or self.filling.done():
                    self.filling = asyncio.create_task(self._refill())

    async def close(self) -> None:
        """Ends the boxes that nobody took."""
        if self.filling is not None:
            self.filling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.filling
        while self.idle:
            await self.idle.popleft().close()

    async def _taken(self) -> Box:
        while self.idle:
            box = self.idle.popleft()
            if not box.channel.closed:
                return box
            await box.close()  # it died while it waited
        self.waited += 1
        self.made += 1
        return await self.sandbox.open(self.spec)

    async def _refill(self) -> None:
        with contextlib.suppress(SandboxFault):  # whoever needs the next box is told
            await self.fill()
