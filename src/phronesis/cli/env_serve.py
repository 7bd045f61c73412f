"""`phronesis env serve`: one world, for runs that it registers with or for OpenEnv's clients, until told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping

from phronesis.cli.output import say, say_json
from phronesis.env import EnvSpec
from phronesis.envs import registry
from phronesis.envs.adapters.openenv.server import serving
from phronesis.envs.services.config import token
from phronesis.envs.services.identity import identify
from phronesis.envs.services.serve import ServeConfig, serve


async def as_openenv(spec: EnvSpec, port: int, capacity: int, as_json: bool) -> None:
    """Serves in OpenEnv's protocol until told to stop."""
    stop = _stop()
    async with serving(spec, port=port, most=capacity) as address:
        if as_json:
            say_json({"address": address, "env": spec.name})
        else:
            say(f"serving {spec.name} at {address}; an OpenEnv client connects to it. Ctrl-C stops.")
        await stop.wait()


async def as_service(name: str, args: Mapping[str, object], config: ServeConfig, as_json: bool) -> None:
    """Serves runs until told to stop, and finishes what is played; told twice, it ends at once."""
    stop, spec = _stop(), registry.get(name, args)

    def ready(at: str) -> None:
        if as_json:
            say_json({"address": at, "env": name, "capacity": config.capacity})
        else:
            say(f"serving {name} at {at}, {config.capacity} episodes at once. Ctrl-C finishes what is played, twice stops.")

    def told(text: str) -> None:
        if not as_json:
            say(text)

    await serve(spec, identify(name, args, spec), config, stop, token=token(), say=told, ready=ready)


def _stop() -> asyncio.Event:
    """Set by the first signal to end; the second one ends the process."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def asked() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    return stop
