"""One asynchronous JSON client for every engine that answers over HTTP: deadlines, retries with jitter, typed faults.

The rule this module keeps: a call either returns what its reader made of one whole, well-formed answer, or raises an
`EndpointFault` that names the address, the status, what the server said and what to do. What was retried is counted.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import TypeVar
from weakref import WeakKeyDictionary

import httpx
import msgspec
from msgspec import Struct

from phronesis.chat.wire.sse import ServerEvent
from phronesis.engine.events import BrokenReply, folded
from phronesis.engine.refusals import RETRIED, advice, retry_after
from phronesis.errors import ConfigError, EndpointFault, WireError, one_line

T = TypeVar("T")

MALFORMED = 2
"""Attempts at an answer that arrives whole but says nothing that can be read; the same request tends to fail alike."""
_EXCERPT = 400

Reader = Callable[[httpx.Response], Awaitable[T]]
"""Makes a value of an answer whose status is 2xx. The body has not been read yet."""


class HttpLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long and how often an endpoint is asked."""

    seconds: float = 540.0
    """Seconds one call may take, all attempts and waits included."""
    attempt_seconds: float = 300.0
    """Seconds one attempt may take."""
    connect_seconds: float = 10.0
    """Seconds a connection may take to open."""
    attempts: int = 6
    """Requests sent per call, at least 1."""
    first_wait: float = 0.5
    """Seconds; the wait before attempt n + 1 is drawn evenly from [0, min(longest_wait, first_wait * 2^(n-1))]."""
    longest_wait: float = 30.0
    """Longest such wait, in seconds. A server that names a wait itself (Retry-After) is obeyed beyond it."""
    concurrency: int = 64
    """Requests in flight at once; the others wait their turn."""

    def validate(self, where: str = "http") -> None:
        """Raises ConfigError for values that could never let a call succeed."""
        for name in ("seconds", "attempt_seconds", "connect_seconds", "attempts", "concurrency"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{where}.{name} must be positive, got {getattr(self, name)!r}")
        for name in ("first_wait", "longest_wait"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{where}.{name} must be at least 0, got {getattr(self, name)!r}")


@dataclass
class HttpCounts:
    """What a client has done so far."""

    calls: int = 0
    """Calls begun."""
    attempts: int = 0
    """Requests sent."""
    failures: int = 0
    """Calls given up."""
    waited: float = 0.0
    """Seconds slept before retries, over all calls."""
    retries: Counter[str] = field(default_factory=Counter[str])
    """Retries by reason, e.g. ``429``, ``503``, ``ReadError`` or ``malformed``."""


@dataclass(frozen=True)
class _Miss:
    """Why one attempt failed."""

    reason: str
    problem: str
    advice: str
    status: int | None = None
    retry: bool = True
    after: float | None = None
    cause: BaseException | None = None
    most: int | None = None


class HttpClient:
    """Talks JSON to one server.

    >>> client = HttpClient("http://127.0.0.1:8000/v1", limits=HttpLimits(attempts=3))
    >>> client.address("/models")
    'http://127.0.0.1:8000/v1/models'

    It may be used from several event loops, one after another: connections belong to the loop that opened them, and are
    closed when `asyncio.run` ends or by `close`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
        limits: HttpLimits | None = None,
        jitter: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        """Nothing is sent yet.

        Args:
            base_url: scheme, host and path prefix.
            headers: sent with every request.
            secrets: texts that must never show in a message; they are replaced by ``***``.
            limits: deadlines, retries, concurrency.
            jitter: draws the waits; seeded from the operating system when None.
            sleep: waits; tests replace it.
        """
        try:
            parsed = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{base_url!r} is no address: {error}; write it like 'http://127.0.0.1:8000/v1'") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(f"{base_url!r} is no address of a server; write it like 'http://127.0.0.1:8000/v1'")
        self.base_url, self.limits = base_url.rstrip("/"), limits or HttpLimits()
        self.limits.validate()
        self.counts = HttpCounts()
        self._headers, self._secrets = dict(headers or {}), tuple(s for s in secrets if s)
        self._local = parsed.host in ("localhost", "127.0.0.1", "::1")
        self._jitter, self._sleep = jitter or Random(), sleep
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx.AsyncClient | None = None
        self._keeper: AsyncGenerator[None, None] | None = None
        self._gate = asyncio.Semaphore(self.limits.concurrency)

    async def get(self, path: str, *, seconds: float | None = None, retry: bool = True) -> object:
        """The JSON value at `path`; see `call`."""
        return await self.call("GET", path, read=self.read_json, seconds=seconds, retry=retry)

    async def post(
        self,
        path: str,
        body: object = None,
        *,
        seconds: float | None = None,
        retry: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> object:
        """The JSON value answered to `body`; None for an empty answer. See `call`."""
        return await self.call("POST", path, body, read=self.read_json, seconds=seconds, retry=retry, headers=headers)

    async def post_stream(
        self,
        path: str,
        body: object,
        fold: Callable[[AsyncIterator[ServerEvent]], Awaitable[T]],
        *,
        seconds: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """What `fold` makes of the server-sent events answered to `body`.

        A stream that breaks off is asked for again from its start, with a fresh iterator, so `fold` must keep nothing
        between calls. It raises `BrokenReply` where the events end too early or hold an error.
        """
        return await self.call("POST", path, body, read=folded(fold), seconds=seconds, headers=headers)

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        read: Reader[T],
        seconds: float | None = None,
        retry: bool = True,
        headers: Mapping[str, str] | None = None,
        before: Callable[[], Awaitable[object]] | None = None,
    ) -> T:
        """What `read` makes of the answer, tried until it works or the limits are used up.

        Args:
            method: ``GET``, ``POST``, ...
            path: appended to the base URL; an absolute address is used as it is.
            body: anything msgspec can write as JSON; None sends no body.
            read: makes the value; may raise `BrokenReply` or `WireError`.
            seconds: deadline of the whole call; None takes the limits' own.
            retry: False for requests that must not be sent twice.
            headers: sent besides the client's own.
            before: awaited before every attempt, to keep to a rate limit; the deadline does not run meanwhile.

        Raises:
            EndpointFault: it did not work, or the body is nothing JSON can carry.
        """
        allowed = self.limits.seconds if seconds is None else seconds
        ends = time.monotonic() + allowed
        content = None if body is None else _encoded(body)
        self.counts.calls += 1
        attempt = 0
        while True:
            attempt += 1
            if before is not None:
                began = time.monotonic()
                await before()
                ends += time.monotonic() - began
            self.counts.attempts += 1
            outcome = await self._attempt(method, self.address(path), content, headers, read, ends)
            if not isinstance(outcome, _Miss):
                return outcome[0]
            most = min(self.limits.attempts, outcome.most or self.limits.attempts)
            wait = self._wait(outcome, attempt)
            if not (retry and outcome.retry) or attempt >= most or time.monotonic() + wait >= ends:
                self.counts.failures += 1
                asked = f"; the server asks to wait {wait:.0f} s, the call may take {allowed:g} s" if outcome.after else ""
                raise self._fault(method, self.address(path), outcome, attempt, asked) from outcome.cause
            self.counts.retries[outcome.reason] += 1
            self.counts.waited += wait
            await self._sleep(wait)

    async def read_json(self, response: httpx.Response) -> object:
        """The whole body as a strict JSON value (NaN and Infinity are none); None when it is empty."""
        content = await response.aread()
        if not content.strip():
            return None
        try:
            return msgspec.json.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WireError("", f"not JSON ({error}): {self._shown(content)}") from error

    def address(self, path: str) -> str:
        """The full address of a path."""
        return path if "://" in path else f"{self.base_url}/{path.lstrip('/')}"

    async def close(self) -> None:
        """Closes the connections of this event loop. The client can be used again."""
        keeper, self._keeper = self._keeper, None
        self._client = None
        loop = asyncio.get_running_loop()
        if keeper is not None and self._loop is loop:
            _KEEPERS[loop].discard(keeper)
            await keeper.aclose()

    async def _connected(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._keeper is None or self._loop is not loop:
            n = self.limits.concurrency
            self._loop, self._gate = loop, asyncio.Semaphore(n)
            self._client = httpx.AsyncClient(
                headers=self._headers,
                limits=httpx.Limits(max_connections=n, max_keepalive_connections=n),
                follow_redirects=False,  # a redirect would carry the key elsewhere
                verify=_tls(),
                trust_env=not self._local,  # no proxy between this machine and itself
            )
            self._keeper = _keep(self._client)
            _KEEPERS.setdefault(loop, set()).add(self._keeper)
            await anext(self._keeper)
        return self._client

    async def _attempt(
        self, method: str, url: str, content: bytes | None, headers: Mapping[str, str] | None, read: Reader[T], ends: float
    ) -> tuple[T] | _Miss:
        client = await self._connected()
        limits = self.limits
        try:
            async with asyncio.timeout(max(ends - time.monotonic(), 0.0)), self._gate:
                async with asyncio.timeout(limits.attempt_seconds):
                    timeout = httpx.Timeout(limits.attempt_seconds, connect=limits.connect_seconds)
                    sent = {"content-type": "application/json"} if content is not None else {}
                    sent |= dict(headers or {})
                    async with client.stream(method, url, content=content, headers=sent, timeout=timeout) as response:
                        if not response.is_success:
                            return await self._refused(response)
                        return (await read(response),)
        except BrokenReply as error:
            return _Miss(error.reason, one_line(error), "the answer broke off; look at the server's log", None, error.retry)
        except WireError as error:
            advice = "check that the address speaks the format that is expected of it"
            return _Miss(
                "malformed", f"the answer cannot be read: {one_line(error, _EXCERPT)}", advice, cause=error, most=MALFORMED
            )
        except (TimeoutError, httpx.TimeoutException) as error:
            kind = "timeout" if isinstance(error, TimeoutError) else type(error).__name__
            advice = "raise the limit, ask for fewer tokens, or lower the concurrency"
            return _Miss(kind, f"no whole answer within {limits.attempt_seconds:g} s ({kind})", advice, cause=error)
        except httpx.TransportError as error:
            advice = "check that the server runs and the address is right"
            return _Miss(type(error).__name__, f"{type(error).__name__}: {one_line(error)}", advice, cause=error)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _Miss(type(error).__name__, f"{type(error).__name__}: {one_line(error)}", "check the address", retry=False)

    async def _refused(self, response: httpx.Response) -> _Miss:
        try:
            content = await response.aread()
        except httpx.HTTPError:
            content = b""
        said, status = self._shown(content), response.status_code
        problem = f"{status} {response.reason_phrase}".strip() + (f": {said}" if said else "")
        retry = status in RETRIED and b"insufficient_quota" not in content
        told = response.headers.get("x-should-retry")
        if told in ("true", "false"):
            retry = told == "true"
        return _Miss(str(status), problem, advice(status), status, retry, retry_after(response.headers))

    def _wait(self, miss: _Miss, attempt: int) -> float:
        """Full jitter; on top of what the server asked for, where it did."""
        limits = self.limits
        drawn = self._jitter.uniform(0.0, min(limits.longest_wait, limits.first_wait * 2.0 ** (attempt - 1)))
        return drawn if miss.after is None else miss.after + min(drawn, limits.first_wait)

    def _shown(self, content: bytes) -> str:
        text = " ".join(content.decode("utf-8", "replace").split())
        text = text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 1]}…"
        return self._redacted(text)

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _fault(self, method: str, url: str, miss: _Miss, attempts: int, asked: str) -> EndpointFault:
        shown = self._redacted(str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None)))
        times = "once" if attempts == 1 else f"{attempts} times"
        message = self._redacted(f"{method} {shown} failed ({times}): {miss.problem}{asked}; {miss.advice}")
        return EndpointFault(message, url=shown, status=miss.status, reason=miss.reason, attempts=attempts)


_KEEPERS: WeakKeyDictionary[asyncio.AbstractEventLoop, set[AsyncGenerator[None, None]]] = WeakKeyDictionary()
"""Those of each loop: one that nobody held would be finished by a task of its own, which the end of the loop cuts short."""


async def _keep(client: httpx.AsyncClient) -> AsyncGenerator[None, None]:
    """Closes the client with the event loop: `asyncio.run` finishes the generators that were begun in it."""
    try:
        yield
    finally:
        await client.aclose()


def _encoded(body: object) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, RecursionError) as error:  # a lone surrogate, say
        message = f"the request cannot be sent, it is no JSON: {one_line(error)}; look at the messages and arguments in it"
        raise EndpointFault(message, reason="unsendable", attempts=0) from error


@cache
def _tls() -> ssl.SSLContext:
    """Whom to trust; read from the disk once, since that takes longer than most requests."""
    return httpx.create_ssl_context()
