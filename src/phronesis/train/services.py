"""A run whose environments are played by services: the registrar beside it, from its first phase to its last."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Generator
from contextlib import AbstractContextManager as Context
from contextlib import contextmanager, nullcontext, suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

from phronesis.env import EnvSpec
from phronesis.envs.services.config import token
from phronesis.envs.services.directory import Directory, using
from phronesis.envs.services.known import Service
from phronesis.envs.services.registrar import listening
from phronesis.envs.services.served import served_in
from phronesis.errors import ConfigError
from phronesis.store.run import RunWriter
from phronesis.train.config import RunConfig

log = logging.getLogger(__name__)

KIND = "services"
"""Of the events that say where services register, and how they are doing."""


def check_services(config: RunConfig, spec: EnvSpec) -> None:
    """Refuses a registrar that nobody needs, or that is missing.

    Raises:
        ConfigError: says what to change.
    """
    served = served_in(spec)
    if config.services is None:
        if any(not s.fixed for s in served):
            raise ConfigError(
                f"{served[0].name!r} is played by services, and nothing lets them register; set services.port, e.g. to 0"
            )
        return
    config.services.validate(token())
    if not served:
        raise ConfigError('services wait for nothing: no environment of this run is "served"; leave services out')
    if config.cluster is not None:
        raise ConfigError("workers of a cluster do not reach the services of a run; leave out cluster, or services")


@contextmanager
def registrar(config: RunConfig, spec: EnvSpec, writer: RunWriter) -> Generator[Directory | None]:
    """Lets services register while it lasts; None where the run has none.

    Raises:
        UserError: the address is taken.
    """
    if config.services is None:
        yield None
        return
    directory, loop = Directory(config.services), asyncio.get_running_loop()

    def note(kind: str, service: Service) -> None:
        """Called in the registrar's thread."""
        said = f"service {service.id} {kind}: {directory.words(service)}"
        (log.warning if kind in ("suspected", "gone") else log.info)("%s", said)
        with suppress(RuntimeError):  # the run has just ended
            loop.call_soon_threadsafe(lambda: writer.event(KIND, said, service=service.id, change=kind))

    directory.on_event = note
    for served in served_in(spec):
        served.expected(directory)
    with listening(directory, token(), prefer=_port_before(writer)) as address:
        served = served_in(spec)
        names = ", ".join(sorted({s.name for s in served}))
        there = _named(address)
        said = f"services of {names} register at {there}: phronesis env serve {served[0].identity.words} --register {there}"
        log.info("%s", said)
        writer.event(KIND, said, address=address)
        try:
            yield directory
        finally:
            directory.on_event = lambda kind, service: None


def played_by(directory: Directory | None) -> Context[None]:
    """Episodes begun in this context are played by the services of a directory; here, where there is none."""
    return nullcontext() if directory is None else using(directory)


def _port_before(writer: RunWriter) -> int | None:
    """The port that services know, in a run that is resumed."""
    known = [str(e.fields["address"]) for e in writer.events() if e.kind == KIND and "address" in e.fields]
    return int(known[-1].rpartition(":")[2]) if known else None


def _named(address: str) -> str:
    """An address as others can use it: one that stands for all of this machine's says its name.

    >>> _named("http://127.0.0.1:8600")
    'http://127.0.0.1:8600'
    """
    parts = urlsplit(address)
    with suppress(ValueError):
        if ip_address(parts.hostname or "").is_unspecified:
            return f"http://{socket.gethostname()}:{parts.port}"
    return address
