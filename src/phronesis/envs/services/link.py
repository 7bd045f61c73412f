"""A connection to a service or a registrar: HTTP/1.1, kept open between calls, opened anew where it broke.

Lean on purpose: one episode makes dozens of small calls, and a thousand episodes are played at once. Every call of the
protocol may be sent twice, so one that breaks on a connection is sent again, once, on a fresh one.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit

from phronesis.envs.services.wire import refused_by
from phronesis.errors import ConfigError, ServiceFault, one_line

CONNECT_SECONDS = 10.0
"""Longest a connection may take to open."""
LARGEST = 256 * 2**20
"""Bytes of an answer; beyond, it is a fault."""


class Address(NamedTuple):
    """Where a server is."""

    url: str
    """As given."""
    host: str
    """Name or number."""
    port: int
    """Port."""
    tls: bool
    """Whether the connection is encrypted."""
    prefix: str
    """Path before those of the protocol."""


def address(url: str) -> Address:
    """The parts of an address.

    >>> address("http://b1:8500")
    Address(url='http://b1:8500', host='b1', port=8500, tls=False, prefix='')

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is no address: {error}; write it like 'http://127.0.0.1:8500'") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not all("!" <= c <= "~" for c in url):
        raise ConfigError(f"{url!r} is no address of a server; write it like 'http://127.0.0.1:8500'")
    tls = parts.scheme == "https"
    return Address(url, parts.hostname, port or (443 if tls else 80), tls, parts.path.rstrip("/"))


class Answered(NamedTuple):
    """What a server said."""

    content: bytes
    """The body."""
    kind: str
    """Its format."""


class Link:
    """One connection to one server; for one call at a time."""

    def __init__(self, url: str, token: str | None = None):
        """Nothing is opened yet.

        Args:
            url: of the server.
            token: secret it is shown.

        Raises:
            ConfigError: no address.
        """
        self.address = address(url)
        self._token = token
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Answered:
        """One call.

        Raises:
            ServiceFault: it cannot be reached, broke off, or is no HTTP server.
            Refused: it said no.
        """
        head = self._head(method, path, len(body), kind)
        for attempt in (1, 2):
            fresh = self._writer is None
            try:
                return await self._ask(head + body)
            except (OSError, EOFError) as error:
                self.close()
                if fresh or attempt == 2:
                    raise ServiceFault(f"{self.address.url} cannot be reached: {_said(error)}") from error
            except BaseException:
                self.close()  # an answer that still comes must not be taken for that of the next call
                raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Closes the connection; the next call opens another."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            with suppress(RuntimeError):  # its event loop has ended
                writer.close()

    def _head(self, method: str, path: str, length: int, kind: str) -> bytes:
        a = self.address
        host = f"[{a.host}]" if ":" in a.host else a.host
        token = f"authorization: Bearer {self._token}\r\n" if self._token else ""
        return (
            f"{method} {a.prefix}{path} HTTP/1.1\r\nhost: {host}:{a.port}\r\n{token}content-type: {kind}\r\n"
            f"content-length: {length}\r\n\r\n"
        ).encode("latin-1")

    async def _ask(self, request: bytes) -> Answered:
        if self._writer is None or self._reader is None:
            a = self.address
            async with asyncio.timeout(CONNECT_SECONDS):
                self._reader, self._writer = await asyncio.open_connection(a.host, a.port, ssl=_tls() if a.tls else None)
        reader, writer = self._reader, self._writer
        writer.write(request)
        await writer.drain()
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise ServiceFault(f"{self.address.url} is no HTTP server that can be understood: {one_line(error)}") from error
        status, headers = self._read_head(head)
        try:
            length = int(headers["content-length"])
            if not 0 <= length <= LARGEST:
                raise ValueError(f"{length} bytes")
        except (KeyError, ValueError) as error:
            raise ServiceFault(f"{self.address.url} answered without a length, or with {one_line(error)}") from error
        content = await reader.readexactly(length)
        if headers.get("connection", "").lower() == "close":
            self.close()
        if status >= 300:
            raise refused_by(status, content, headers.get("retry-after"))
        return Answered(content, headers.get("content-type", ""))

    def _read_head(self, head: bytes) -> tuple[int, dict[str, str]]:
        first, *lines = head.decode("latin-1").split("\r\n")
        try:
            status = int(first.split(" ")[1])
        except (IndexError, ValueError) as error:
            raise ServiceFault(f"{self.address.url} is no HTTP server: it said {first[:80]!r}") from error
        pairs = (line.partition(":") for line in lines if line)
        return status, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _said(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no connection within {CONNECT_SECONDS:g} s"
    return "it broke off" if isinstance(error, EOFError) else one_line(error)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
