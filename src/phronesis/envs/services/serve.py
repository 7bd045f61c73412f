"""A service from beginning to end: it listens, is known to a run, and at the end finishes what it plays."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from phronesis.env import EnvSpec
from phronesis.envs.services.announce import Announcer
from phronesis.envs.services.identity import Identity
from phronesis.envs.services.link import address
from phronesis.envs.services.service import Service, tidied
from phronesis.envs.services.sessions import Sessions
from phronesis.envs.services.wire import TOKEN, Registration
from phronesis.errors import ConfigError
from phronesis.serving import LOOPBACK, serving

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How a world is served."""

    register: str | None = None
    """Address of the run's registrar; None waits to be found at an address that a run was told."""
    host: str = "127.0.0.1"
    """Address to listen at; others than loopback need a token."""
    port: int = 0
    """Port to listen at; 0 takes a free one."""
    url: str | None = None
    """Where the run reaches the service; None finds it out."""
    capacity: int = 64
    """Episodes at once."""
    drain_seconds: float = 600.0
    """How long episodes that are played may take to end, once the service is told to."""

    def validate(self, token: str | None) -> None:
        """Refuses values that cannot work.

        Raises:
            ConfigError: names the option.
        """
        if self.capacity < 1 or self.drain_seconds < 0:
            raise ConfigError(f"capacity {self.capacity!r} must be at least 1, drain {self.drain_seconds!r} at least 0")
        if not 0 <= self.port < 2**16:
            raise ConfigError(f"port must be in 0..65535, got {self.port!r}")
        if self.host not in LOOPBACK and not token:
            raise ConfigError(f"{self.host!r} can be reached from other machines; set {TOKEN} to a secret that the run sends")
        for url in (self.register, self.url):
            if url is not None:
                address(url)


async def serve(
    spec: EnvSpec,
    identity: Identity,
    config: ServeConfig,
    stop: asyncio.Event,
    *,
    token: str | None = None,
    say: Callable[[str], None] = log.info,
    ready: Callable[[str], None] = lambda at: None,
) -> None:
    """Serves a world until `stop`; then takes no new episodes, finishes those it plays, and leaves.

    Args:
        spec: the world.
        identity: what exactly it is.
        config: how.
        stop: told to end.
        token: secret that the run and this service show one another.
        say: told what people should read.
        ready: told the address when it can be reached.

    Raises:
        ConfigError: settings that cannot work, a world that only agents outside can play, or one that the run does not play.
        UserError: the address is taken.
    """
    config.validate(token)
    if not spec.playable:
        raise ConfigError(f"{spec.name!r} is played by agents outside and cannot be served")
    sessions = Sessions(spec, capacity=config.capacity)
    service = Service(spec, identity, sessions, token)
    async with tidied(sessions), serving(service.application(), host=config.host, port=config.port, setting="--port") as at:
        ready(at)
        if config.register is None:
            await stop.wait()
        else:
            url = config.url or _reached_at(at, config.host, config.register)
            about = Registration(
                name=identity.env, url=url, capacity=config.capacity, identity=identity, abilities=service.abilities
            )
            loop = asyncio.get_running_loop()

            def disown(run: str) -> None:
                asyncio.run_coroutine_threadsafe(sessions.disown(run), loop)  # heartbeats go on meanwhile

            load = sessions.__len__
            announcer = Announcer(config.register, about, load=load, disown=disown, token=token, say=say)
            await _until(stop, announcer)
        sessions.draining = True
        if len(sessions):
            say(f"leaving when {len(sessions)} episodes are over")
            try:
                async with asyncio.timeout(config.drain_seconds):
                    await sessions.empty.wait()
            except TimeoutError:
                say(f"{len(sessions)} episodes were not over after {config.drain_seconds:g} s; they are ended")


async def _until(stop: asyncio.Event, announcer: Announcer) -> None:
    """Announces until told to stop, then takes leave."""

    async def tick() -> None:
        while True:
            announcer.ticked = time.monotonic()
            await asyncio.sleep(1.0)

    ticking, told = asyncio.create_task(tick()), asyncio.create_task(stop.wait())
    announcing = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(announcer.run())))
    try:
        await asyncio.wait({told, announcing}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        announcer.stop()
        await asyncio.wait([announcing])
        for task in (ticking, told):
            task.cancel()
        await asyncio.gather(ticking, told, return_exceptions=True)
    announcing.result()  # raises


def _reached_at(at: str, host: str, registrar: str) -> str:
    """Where a run reaches a service that listens on all addresses: by that from which this machine reaches the run.

    Raises:
        ConfigError: it cannot be found out, or the run is on another machine and the service listens for this one alone.
    """
    there = address(registrar)
    try:
        everywhere = ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    if not everywhere:
        if host in LOOPBACK and _elsewhere(there.host, there.port):
            raise ConfigError(
                f"the run at {registrar} is on another machine and does not reach {at}; listen with --host 0.0.0.0 (and set "
                f"{TOKEN} on both sides), or say with --url where it reaches this service"
            )
        return at
    port = at.rpartition(":")[2]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((there.host, there.port))
            own = probe.getsockname()[0]
    except OSError as error:
        raise ConfigError(
            f"cannot find out how the run reaches this machine ({error}); say it with --url http://HOST:PORT"
        ) from error
    return f"http://{f'[{own}]' if ':' in own else own}:{port}"


def _elsewhere(host: str, port: int) -> bool:
    """Whether an address is certainly not of this machine: nobody reaches himself from another address than that."""
    if host in LOOPBACK:
        return False
    try:
        family, kind, *_, there = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(there)  # sends nothing
            own, other = ip_address(probe.getsockname()[0]), ip_address(probe.getpeername()[0])
    except (OSError, ValueError):
        return False  # nobody knows; registering will say
    return own != other and not other.is_loopback
