"""A gateway as a running server: until it is told to stop, or in the background of a program."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from phronesis.errors import UserError
from phronesis.gateway.app import application
from phronesis.gateway.book import Book

KEEP_ALIVE = 3600
"""Seconds a connection may be idle. While a run learns nothing is answered, and a connection that is closed afterwards, just
when its client uses it again, would cost that client a request."""


@asynccontextmanager
async def serving(book: Book, token: str | None = None) -> AsyncGenerator[str]:
    """Serves a book on the running event loop; gives the address, e.g. ``http://127.0.0.1:8300``.

    On leaving, open episodes are ended as cancelled and requests in flight are given a moment.

    Raises:
        ConfigError: settings that cannot work.
        UserError: the address is taken or cannot be listened at.
    """
    config = book.config
    config.validate(token)
    listening = _listen(config.host, config.port)
    port = listening.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(
            application(book, token),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            timeout_keep_alive=KEEP_ALIVE,
        )
    )
    serve = asyncio.create_task(_quietly(server, listening))
    sweep = asyncio.create_task(book.sweep_forever())
    try:
        while not server.started and not serve.done():
            await asyncio.sleep(0.005)
        host = f"[{config.host}]" if ":" in config.host else config.host
        yield f"http://{host}:{port}"
    finally:
        book.close()
        server.should_exit = True
        sweep.cancel()
        await asyncio.wait([serve, sweep])
        listening.close()


@contextmanager
def in_background(make: Callable[[], Book], token: str | None = None) -> Generator[tuple[str, Book]]:
    """Serves from a thread with an event loop of its own, so that the program can go on with blocking clients.

    Args:
        make: makes the book, in that thread.
        token: secret that requests must show.

    Raises:
        ConfigError, UserError: see `serving`.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="gateway", daemon=True)
    thread.start()
    over = asyncio.Event()

    async def run(ready: asyncio.Future[tuple[str, Book]]) -> None:
        try:
            book = make()
            async with serving(book, token) as address:
                ready.set_result((address, book))
                await over.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def begin() -> tuple[asyncio.Task[None], tuple[str, Book]]:
        ready: asyncio.Future[tuple[str, Book]] = loop.create_future()
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
        task, served = asyncio.run_coroutine_threadsafe(begin(), loop).result()
        try:
            yield served
        finally:
            asyncio.run_coroutine_threadsafe(end(task), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _quietly(server: uvicorn.Server, listening: socket.socket) -> None:
    """Serves without taking over the program's signal handlers."""
    await server._serve([listening])  # pyright: ignore[reportPrivateUsage] - `serve` would capture signals


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends small pieces at once; else head and body of an answer lie 40 ms apart.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise UserError(
            f"cannot listen at {host}:{port} ({error.strerror}); choose another gateway.port, or 0 for a free one"
        ) from error
    listening.setblocking(False)
    return listening
