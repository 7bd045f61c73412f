"""The episodes a service plays: one environment per session, one call of it at a time, none played twice.

Knows no HTTP. A call is named by its number; the answer to the last one is kept, so that a call that is sent again, because a
connection broke before its answer came, is answered and not done again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from phronesis.env import Env, EnvSpec, Expert, Legal, Snapshots
from phronesis.envs.guard import validate_reply
from phronesis.envs.services.wire import Call, Refused, encode
from phronesis.errors import SandboxFault, one_line

log = logging.getLogger(__name__)

UNCUT = 10**9
"""Characters of a message that a service leaves: the run cuts, by limits of its own."""


class Answer(NamedTuple):
    """What a call gave: a value, or a refusal."""

    content: bytes
    """The value; empty beside a refusal."""
    kind: str
    """Format of the value."""
    refused: Refused | None = None
    """Why there is no value."""


@dataclass(eq=False, kw_only=True)
class Session:
    """One episode."""

    env: Env
    """Its world."""
    run: str
    """Who opened it."""
    touched: float
    """When it was last asked something, on the clock of `Sessions`."""
    number: int = 0
    """Of the last call."""
    call: asyncio.Task[Answer] | None = field(default=None)
    """The last call."""


class Sessions:
    """All sessions of a service."""

    def __init__(
        self,
        spec: EnvSpec,
        *,
        capacity: int,
        idle_seconds: float = 1800.0,
        call_seconds: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Nothing is open.

        Args:
            spec: what is played.
            capacity: sessions at once.
            idle_seconds: a session nobody asked anything for so long is closed. A policy may think long, and a run learn long.
            call_seconds: longest one call may take.
            clock: seconds.
        """
        self.spec, self.capacity, self.idle_seconds, self.call_seconds = spec, capacity, idle_seconds, call_seconds
        self.clock = clock
        self.draining = False
        """Whether new sessions are refused, since the service is leaving."""
        self.empty = asyncio.Event()
        """Set while nothing is open."""
        self.empty.set()
        self.expired = 0
        """Sessions closed because nobody asked anything."""
        self._open: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, id: str, run: str) -> None:
        """Opens a session; the same one twice is one.

        Raises:
            Refused: all places are taken, or the service is leaving (503); the environment cannot be made (500).
        """
        if id in self._open:
            return
        if self.draining:
            raise Refused(503, "draining", "this service is leaving; play at another one", 60.0)
        if len(self._open) >= self.capacity:
            raise Refused(503, "full", f"all {self.capacity} places are taken", 1.0)
        try:
            env = self.spec.make()
        except Exception as error:  # the boundary to the world
            raise _world_failed("make", error) from error
        self._open[id] = Session(env=env, run=run, touched=self.clock())
        self.empty.clear()

    async def ask(self, id: str, method: str, call: Call) -> Answer:
        """One call of a session's environment.

        Raises:
            Refused: no such session (404), a call that is out of turn (409), or something that its environment cannot do (400).
        """
        session = self._open.get(id)
        if session is None:
            raise Refused(404, "unknown_session", "there is no such session; it ended, or nobody asked anything for long")
        session.touched = self.clock()
        if session.call is None or call.number != session.number:
            busy = session.call is not None and not session.call.done()
            if busy or call.number != session.number + 1:
                raise Refused(409, "out_of_turn", f"call {call.number} came while call {session.number} was the last one")
            session.number = call.number
            session.call = asyncio.create_task(self._run(session.env, method, call))
        try:
            return await asyncio.shield(session.call)
        except asyncio.CancelledError:
            if session.call.cancelled():
                raise Refused(404, "unknown_session", "the session was closed during this call") from None
            raise
        finally:
            session.touched = self.clock()

    async def close(self, id: str) -> None:
        """Closes a session, with whatever it is doing; no matter whether there is one."""
        session = self._open.get(id)
        if session is None:
            return
        if session.call is not None and not session.call.done():
            session.call.cancel()
            await asyncio.wait([session.call], timeout=self.call_seconds)  # a world may not let itself be cancelled
        if self._open.pop(id, None) is None:
            return
        try:
            async with asyncio.timeout(self.call_seconds):
                await session.env.close()
        except Exception as error:  # the boundary to the world
            log.warning("closing an episode of %s failed: %s: %s", self.spec.name, type(error).__name__, one_line(error))
        finally:
            if not self._open:
                self.empty.set()

    async def expire(self) -> None:
        """Closes sessions that nobody asks anything."""
        now = self.clock()
        for id, session in list(self._open.items()):
            busy = session.call is not None and not session.call.done()
            if not busy and now - session.touched >= self.idle_seconds:
                self.expired += 1
                await self.close(id)

    async def disown(self, run: str) -> None:
        """Closes sessions of a run that is no more."""
        await asyncio.gather(*(self.close(id) for id, s in list(self._open.items()) if s.run == run))

    async def close_all(self) -> None:
        """Closes everything."""
        await asyncio.gather(*(self.close(id) for id in list(self._open)))

    def _work(self, env: Env, method: str, call: Call) -> Awaitable[object]:
        if method == "reset":
            if call.task is None or call.seed is None:
                raise Refused(400, "invalid_request", "a reset needs a task and a seed")
            return env.reset(call.task, call.seed)
        if method == "step":
            if call.action is None:
                raise Refused(400, "invalid_request", "a step needs an action")
            return env.step(call.action)
        if method == "snapshot" and isinstance(env, Snapshots):
            return env.snapshot()
        if method == "restore" and isinstance(env, Snapshots):
            if call.state is None:
                raise Refused(400, "invalid_request", "a restore needs a state")
            return env.restore(call.state)
        if method == "legal" and isinstance(env, Legal):
            return env.legal()
        if method == "expert" and isinstance(env, Expert):
            return env.expert()
        raise Refused(400, "unable", f"episodes of {self.spec.name!r} cannot do {method!r}")

    async def _run(self, env: Env, method: str, call: Call) -> Answer:
        deadline = asyncio.timeout(self.call_seconds)
        try:
            async with deadline:
                value = await self._work(env, method, call)
            if method in ("reset", "step"):
                value = validate_reply(value, opening=method == "reset", max_chars=UNCUT)
            return Answer(*encode(value))
        except Refused as refused:
            return Answer(b"", "", refused)
        except Exception as error:  # the boundary to the world
            if isinstance(error, TimeoutError) and deadline.expired():
                refused = Refused(504, "world_hung", f"{method} gave no answer within {self.call_seconds:g} s")
                return Answer(b"", "", refused)
            return Answer(b"", "", _world_failed(method, error))

    def abilities(self) -> tuple[str, ...]:
        """Which of ``snapshot``, ``legal``, ``expert`` the environment can do."""
        env = self.spec.make()
        kinds: dict[str, type] = {"snapshot": Snapshots, "legal": Legal, "expert": Expert}
        return tuple(name for name, kind in kinds.items() if isinstance(env, kind))


def _world_failed(method: str, error: Exception) -> Refused:
    """What the world raised, for the run that plays it, which may know all that is hidden."""
    code = "sandbox_failed" if isinstance(error, SandboxFault) else "world_failed"
    with suppress(Exception):
        return Refused(500, code, f"{type(error).__name__}: {one_line(error, 2000)}")
    return Refused(500, code, f"{type(error).__name__} in {method}")
