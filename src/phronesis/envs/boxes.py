"""Boxes for worlds that run code: shared by all episodes of an event loop, a bounded number at a time, some always ready.

Each episode takes a fresh box, and gives it back when it closes; what a judge runs takes another. A box is used once, so
nothing of one episode reaches the next. A box that breaks raises `SandboxFault`, which ends the episode as a fault and
never as a reward.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec
from msgspec import Struct

from phronesis.errors import SandboxFault, SandboxUnavailable
from phronesis.sandbox import Box, BoxSpec, Pool, Ran, Sandbox, start

MOST = 32
"""Boxes out at once; further takers wait. An episode must give its own back before it takes one to be judged in."""
READY = 2
"""Boxes of each kind that wait to be taken, once one of the kind was."""


class Counts(Struct, frozen=True, kw_only=True):
    """What became of the boxes of this event loop."""

    out: int = 0
    """In use now."""
    made: int = 0
    """Made so far."""
    waited: int = 0
    """Takers that found none ready."""
    faults: int = 0
    """Boxes that could not be made."""


class Boxes:
    """The boxes of one event loop."""

    def __init__(self, sandbox: Sandbox, most: int = MOST, ready: int = READY):
        """Makes nothing yet.

        Args:
            sandbox: makes boxes; closed by `close`.
            most: see `MOST`.
            ready: see `READY`.
        """
        self.sandbox, self.most, self.ready = sandbox, most, ready
        self.places = asyncio.Semaphore(most)
        self.pools: dict[bytes, Pool] = {}
        self.out = self.faults = 0

    @contextlib.asynccontextmanager
    async def box(self, spec: BoxSpec) -> AsyncGenerator[Box]:
        """A fresh box; ended afterwards.

        Raises:
            SandboxFault: none could be made, nor by a sandbox started anew.
        """
        async with self.places, contextlib.AsyncExitStack() as held:
            try:
                taken = await held.enter_async_context(self._pool(spec).box())
            except SandboxFault:
                self.faults += 1
                await self._start_anew()
                taken = await held.enter_async_context(self._pool(spec).box())
            self.out += 1
            try:
                yield taken
            finally:
                self.out -= 1

    def counts(self) -> Counts:
        """What became of them."""
        pools = self.pools.values()
        return Counts(out=self.out, made=sum(p.made for p in pools), waited=sum(p.waited for p in pools), faults=self.faults)

    async def close(self) -> None:
        """Ends the boxes that nobody has, and the sandbox."""
        for pool in self.pools.values():
            await pool.close()
        self.sandbox.close()

    def _pool(self, spec: BoxSpec) -> Pool:
        kind = msgspec.json.encode(spec, order="sorted")
        if kind not in self.pools:
            self.pools[kind] = Pool(self.sandbox, spec, self.ready, self.most)
        return self.pools[kind]

    async def _start_anew(self) -> None:
        """Whatever makes boxes may have been killed: those that are out go on or fail by themselves."""
        self.sandbox.close()
        self.sandbox = await start()
        for pool in self.pools.values():
            pool.sandbox = self.sandbox


_shared: dict[asyncio.AbstractEventLoop, tuple[Boxes, AsyncGenerator[None]]] = {}
_starting: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}


async def shared() -> Boxes:
    """The boxes of the running event loop, made when first asked for and ended with the loop.

    Raises:
        SandboxUnavailable: this machine cannot isolate commands.
    """
    loop = asyncio.get_running_loop()
    for ended in [other for other in _shared if other.is_closed()]:
        _forget(ended)
    async with _starting.setdefault(loop, asyncio.Lock()):
        if loop not in _shared:
            boxes = Boxes(await start())
            keeper = _until_the_loop_ends(loop, boxes)
            await anext(keeper)
            _shared[loop] = boxes, keeper
    return _shared[loop][0]


class Held:
    """The box of an episode: taken by `open`, given back by `close`, which may be called any number of times."""

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._box: Box | None = None

    async def open(self, spec: BoxSpec) -> Box:
        """A fresh box in place of the one held before.

        Raises:
            SandboxFault: none could be made.
        """
        await self.close()
        self._box = await self._stack.enter_async_context((await shared()).box(spec))
        return self._box

    @property
    def box(self) -> Box:
        """The box.

        Raises:
            RuntimeError: there is none; the environment was not reset, or its episode is over.
        """
        if self._box is None:
            raise RuntimeError("reset or restore the environment before using it; an episode that is over has no box")
        return self._box

    @property
    def held(self) -> bool:
        """Whether there is one."""
        return self._box is not None

    async def close(self) -> None:
        """Gives it back."""
        self._box = None
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def fresh(spec: BoxSpec) -> AsyncGenerator[Box]:
    """A box for one thing, e.g. for a test of what an episode left.

    Raises:
        SandboxFault: none could be made.
    """
    async with (await shared()).box(spec) as box:
        yield box


async def tried(spec: BoxSpec, use: Callable[[Box], Awaitable[Ran]]) -> Ran:
    """What came of a command in a fresh box; where the box died under it, of the same in a second one. What kills two boxes
    is what ran in them, not the machine.

    Args:
        spec: of the boxes.
        use: fills a box and runs the command.

    Raises:
        SandboxFault: a box broke before or after the command.
    """
    async with fresh(spec) as box:
        ran = await use(box)
    if ran.stopped == "died":
        async with fresh(spec) as box:
            ran = await use(box)
    return ran


@functools.cache
def require() -> None:
    """Makes sure, once per process, that boxes can be made here, so that a world refuses at once and not in every episode.

    Raises:
        SandboxUnavailable: they cannot; says why.
    """
    problems: list[SandboxUnavailable] = []

    async def attempt() -> None:
        try:
            (await start()).close()
        except SandboxUnavailable as error:
            problems.append(error)

    trial = threading.Thread(target=lambda: asyncio.run(attempt()), name="phronesis-boxes")  # a loop may be running here
    trial.start()
    trial.join()
    if problems:
        raise problems[0]


async def _until_the_loop_ends(loop: asyncio.AbstractEventLoop, boxes: Boxes) -> AsyncGenerator[None]:
    """Suspended until the event loop shuts its generators down, which is the last moment at which boxes can be ended."""
    try:
        yield
    finally:
        _shared.pop(loop, None)
        _starting.pop(loop, None)
        await boxes.close()


def _forget(loop: asyncio.AbstractEventLoop) -> None:
    """Ends what a loop left that was closed without being shut down."""
    boxes, _ = _shared.pop(loop)
    _starting.pop(loop, None)
    boxes.sandbox.close()
