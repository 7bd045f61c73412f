"""A clock that moves only when somebody waits, and every wait in the order of its end."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count


class FakeTime:
    """Seconds that pass only in `sleep` and `wait`; run coroutines with `run`."""

    def __init__(self):
        self.now = 0.0
        self.slept: list[float] = []
        self._due: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._due, (self.now + seconds, next(self._order), future))
        await future

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """As `phronesis.rollout.breaker.pause`."""
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self.sleep(seconds))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def run(self, work):
        """Runs `work`; whenever nothing else moves, time jumps to the end of the next wait."""

        async def all_of_it():
            task = asyncio.ensure_future(work)
            while not task.done():
                for _ in range(50):  # until everything that can move has moved
                    await asyncio.sleep(0)
                if task.done():
                    break
                while self._due and self._due[0][2].done():
                    heapq.heappop(self._due)
                if not self._due:
                    await asyncio.sleep(0.001)  # a thread or a real timer is at work
                    continue
                at, _, future = heapq.heappop(self._due)
                self.now = max(self.now, at)
                future.set_result(None)
            return await task

        return asyncio.run(all_of_it())
