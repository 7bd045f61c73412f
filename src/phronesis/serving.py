"""An HTTP application as a running server, for one block of a program: no signal handler, thread or task stays behind."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TypeVar

import uvicorn
from starlette.types import ASGIApp

from phronesis.errors import UserError

T = TypeVar("T")

KEEP_ALIVE = 3600
"""Seconds a connection may be idle. While a run learns little is asked, and a connection that is closed afterwards, just when
its client uses it again, would cost that client a request."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Names by which only this machine reaches itself."""


@asynccontextmanager
async def serving(app: ASGIApp, *, host: str, port: int, setting: str, grace: int = 2) -> AsyncGenerator[str]:
    """Serves an application on the running event loop; gives the address, e.g. ``http://127.0.0.1:8300``.

    Args:
        app: what answers.
        host: address to listen at.
        port: 0 takes a free one.
        setting: what chooses the port, for the message where it is taken, e.g. ``gateway.port``.
        grace: seconds that requests in flight are given at the end.

    Raises:
        UserError: the address is taken or cannot be listened at.
    """
    listening = listen(host, port, setting)
    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=grace,
        timeout_keep_alive=KEEP_ALIVE,
    )  # fmt: skip
    server = uvicorn.Server(settings)
    serve = asyncio.create_task(server._serve([listening]))  # pyright: ignore[reportPrivateUsage] - `serve` captures signals
    try:
        while not server.started and not serve.done():
            await asyncio.sleep(0.005)
        yield f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.wait([serve])
        listening.close()


@contextmanager
def in_thread(make: Callable[[], AbstractAsyncContextManager[T]], name: str) -> Generator[T]:
    """Enters an asynchronous context in a thread with an event loop of its own, which goes on whatever the program does.

    Args:
        make: called in that loop.
        name: of the thread.

    Raises:
        Exception: what entering raised.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
    thread.start()
    over = asyncio.Event()

    async def run(ready: asyncio.Future[T]) -> None:
        try:
            async with make() as entered:
                ready.set_result(entered)
                await over.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def begin() -> tuple[asyncio.Task[None], T]:
        ready: asyncio.Future[T] = loop.create_future()
        task = asyncio.create_task(run(ready))
        return task, await ready

    async def end(task: asyncio.Task[None]) -> None:
        over.set()
        await task
        left = asyncio.all_tasks() - {asyncio.current_task()}  # e.g. what watches the servers of a policy
        for other in left:
            other.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    try:
        task, entered = asyncio.run_coroutine_threadsafe(begin(), loop).result()
        try:
            yield entered
        finally:
            asyncio.run_coroutine_threadsafe(end(task), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: the address is taken or cannot be listened at.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends small pieces at once; else head and body of an answer lie 40 ms apart.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)
    except (OSError, OverflowError) as error:
        listening.close()
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"cannot listen at {host}:{port} ({said}); choose another {setting}, or 0 for a free one") from error
    listening.setblocking(False)
    return listening
