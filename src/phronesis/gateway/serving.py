"""A gateway as a running server: until it is told to stop, or in the background of a program."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

from phronesis import serving as web
from phronesis.gateway.app import application
from phronesis.gateway.book import Book


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
    app = application(book, token)
    sweep: asyncio.Task[None] | None = None
    try:
        async with web.serving(app, host=config.host, port=config.port, setting="gateway.port") as address:
            sweep = asyncio.create_task(book.sweep_forever())
            try:
                yield address
            finally:
                book.close()
    finally:
        if sweep is not None:
            sweep.cancel()
            await asyncio.wait([sweep])


@contextmanager
def in_background(make: Callable[[], Book], token: str | None = None) -> Generator[tuple[str, Book]]:
    """Serves from a thread with an event loop of its own, so that the program can go on with blocking clients.

    Args:
        make: makes the book, in that thread.
        token: secret that requests must show.

    Raises:
        ConfigError, UserError: see `serving`.
    """

    @asynccontextmanager
    async def served() -> AsyncGenerator[tuple[str, Book]]:
        book = make()
        async with serving(book, token) as address:
            yield address, book

    with web.in_thread(served, "gateway") as entered:
        yield entered
