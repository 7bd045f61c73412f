"""Where services register with a run: HTTP over its directory, answered in a thread of its own, also while the run learns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from phronesis.envs.services.config import ServicesConfig
from phronesis.envs.services.directory import Directory
from phronesis.envs.services.link import address
from phronesis.envs.services.wire import Load, Refused, Registered, Registration, guarded, lost, read, told
from phronesis.errors import ConfigError, UserError
from phronesis.serving import in_thread, serving

log = logging.getLogger(__name__)

SMALL = 1 << 20
"""Largest body, in bytes."""


def application(directory: Directory, token: str | None = None) -> Starlette:
    """All routes over a directory.

    Args:
        directory: who is there.
        token: secret that every request but ``/health`` must show; None asks for none.
    """

    async def register(request: Request) -> Response:
        about = await read(request, Registration, SMALL)
        try:
            address(about.url)
        except ConfigError as error:
            raise Refused(400, "invalid_request", str(error)) from error
        service = directory.register(about)
        return told(Registered(id=service.id, run=directory.run, heartbeat=directory.config.heartbeat_seconds), request, 201)

    async def heartbeat(request: Request) -> Response:
        load = await read(request, Load, SMALL)
        service = directory.heartbeat(request.path_params["id"], load.open)
        return told({"state": str(service.state)}, request)

    async def deregister(request: Request) -> Response:
        service = directory.deregister(request.path_params["id"])
        return told({"state": str(service.state), "placed": service.placed}, request)

    async def report(request: Request) -> Response:
        if "text/plain" in request.headers.get("accept", ""):
            rows = [f"{row['id']} ({row['name']}): {row['words']}" for row in directory.report()]
            return PlainTextResponse("\n".join([*rows, ""]))
        return told(directory.report(), request)

    async def health(request: Request) -> Response:
        return told({"status": "ok", "run": directory.run}, request)

    return Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            Route("/services", guarded(register, token), methods=["POST"]),
            Route("/services", guarded(report, token), methods=["GET"]),
            Route("/services/{id}/heartbeat", guarded(heartbeat, token), methods=["POST"]),
            Route("/services/{id}", guarded(deregister, token), methods=["DELETE"]),
        ],
        exception_handlers={404: lost, 405: lost},
    )


@asynccontextmanager
async def _listening(directory: Directory, token: str | None, port: int) -> AsyncGenerator[str]:
    config = directory.config

    async def sweep() -> None:
        while True:
            await asyncio.sleep(config.heartbeat_seconds / 2)
            directory.sweep()

    sweeping = asyncio.create_task(sweep())
    try:
        async with serving(application(directory, token), host=config.host, port=port, setting="services.port") as at:
            yield at
    finally:
        sweeping.cancel()
        await asyncio.wait([sweeping])


@contextmanager
def listening(directory: Directory, token: str | None = None, prefer: int | None = None) -> Generator[str]:
    """Answers services while it lasts; gives the address.

    Args:
        directory: who is there, and by which settings.
        token: secret that services must show.
        prefer: port to try first, where the settings ask for a free one: that of the run before it was interrupted.

    Raises:
        ConfigError: settings that cannot work.
        UserError: the address is taken.
    """
    config: ServicesConfig = directory.config
    config.validate(token)
    if prefer and not config.port:
        try:
            with in_thread(lambda: _listening(directory, token, prefer), "phronesis-services") as at:
                yield at
            return
        except UserError as error:
            log.warning("services will have to be told another address: %s", error)
    with in_thread(lambda: _listening(directory, token, config.port), "phronesis-services") as at:
        yield at
