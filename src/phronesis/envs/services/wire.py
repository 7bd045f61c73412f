"""What runs and services say to one another: values, as MessagePack or JSON, and refusals with a status and a stable code.

A call names its session and its number within the session. One that is sent again, because a connection broke, is answered
as the first time, so that no action is ever done twice.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from phronesis.envs.services.identity import Identity
from phronesis.errors import PhronesisError, one_line
from phronesis.records import EpisodeGroup, Message, Task
from phronesis.serving import LOOPBACK

log = logging.getLogger(__name__)
T = TypeVar("T")

PACKED, JSON = "application/msgpack", "application/json"
TOKEN = "PHRONESIS_SERVICES_TOKEN"
"""Environment variable with the secret that runs and services show one another."""
STALLED = 60.0
"""Longest pause within a body, in seconds: who sends no more keeps neither the connection nor what came."""
MOST = 64 * 2**20
"""Largest body of a call, in bytes; snapshots may be large."""
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Number = Annotated[int, Meta(ge=1, le=2**40)]


class Registration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A service tells a run about itself."""

    name: Name
    """Environment it plays."""
    url: Annotated[str, Meta(max_length=1000)]
    """Where the run reaches it."""
    capacity: Annotated[int, Meta(ge=1, le=1_000_000)]
    """Episodes at once."""
    identity: Identity
    """What exactly it plays."""
    abilities: tuple[Name, ...] = ()
    """Which of ``snapshot``, ``legal``, ``expert`` its environment can do."""


class Registered(Struct, frozen=True, kw_only=True):
    """A run's answer."""

    id: str
    """Under which the service beats."""
    run: str
    """This registrar; another one after a restart."""
    heartbeat: float
    """Seconds between heartbeats."""


class Load(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A heartbeat."""

    open: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Episodes the service plays."""


class Begin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Opens a session; the same id twice is one session."""

    digest: str
    """Of the identity the run expects."""
    run: str = ""
    """Registrar that it belongs to; sessions of one that is no more are closed when the service hears of the next."""


class Call(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call of an environment."""

    number: Number
    """1 for the first call of a session, then one more each."""
    task: Task | None = None
    """Of a reset."""
    seed: int | None = None
    """Of a reset."""
    action: Message | None = None
    """Of a step."""
    state: bytes | None = None
    """Of a restore."""


class Judge(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for rewards."""

    digest: str
    """Of the identity the run expects."""
    group: EpisodeGroup
    """Finished episodes."""


class Refused(PhronesisError):
    """A request that is not served; its text says what to do.

    Args:
        status: HTTP status.
        code: stable word for programs, e.g. ``full``.
        message: for people.
        retry_after: seconds after which the same request may succeed; None where it will not by itself.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after

    def __reduce__(self) -> tuple[type[Refused], tuple[int, str, str, float | None]]:
        return type(self), (self.status, self.code, str(self), self.retry_after)


def encode(value: object) -> tuple[bytes, str]:
    """A value as bytes, and their kind. JSON only where MessagePack cannot: whole numbers of more than 64 bits.

    Raises:
        TypeError, ValueError: the value holds something else than plain data.
    """
    try:
        return msgspec.msgpack.encode(value), PACKED
    except OverflowError:
        return msgspec.json.encode(value), JSON


def decode(content: bytes, kind: str, type: type[T]) -> T:
    """The value of bytes.

    Raises:
        msgspec.DecodeError, UnicodeError, RecursionError, OverflowError: they are something else.
    """
    if kind.partition(";")[0].strip() == PACKED:
        return msgspec.msgpack.decode(content, type=type)
    return msgspec.json.decode(content, type=type)


async def read(request: Request, type: type[T], most: int = MOST) -> T:
    """The body of a request.

    Raises:
        Refused: it is too large (413), stops coming (408) or is something else (400).
    """
    pieces, size = list[bytes](), 0
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(STALLED) as deadline:
            async for piece in request.stream():
                deadline.reschedule(loop.time() + STALLED)
                pieces.append(piece)
                size += len(piece)
                if size > most:
                    raise Refused(413, "too_large", f"the body is larger than {most} bytes")
    except TimeoutError as error:
        raise Refused(408, "stalled", f"the body stopped coming for {STALLED:g} s after {size} bytes") from error
    try:
        return decode(b"".join(pieces) or b"{}", request.headers.get("content-type", JSON), type)
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as error:
        raise Refused(400, "invalid_request", f"the body is not what is expected here: {one_line(error)}") from error


def check_token(request: Request, token: str | None) -> None:
    """Refuses requests without the secret. Where there is none, refuses those that a web page made a browser send.

    Raises:
        Refused: 401, or 403.
    """
    if token is None:
        origin = request.headers.get("origin")
        try:
            hosts = [request.url.hostname, *([] if origin is None else [urlsplit(origin).hostname])]
        except ValueError:  # no address
            hosts = [None]
        if any(host not in LOOPBACK for host in hosts):
            raise Refused(403, "foreign_origin", f"without {TOKEN} only programs on this machine are served, by loopback")
        return
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise Refused(401, "unauthorized", f"send 'Authorization: Bearer TOKEN'; both sides read it from {TOKEN}")


Endpoint = Callable[[Request], Awaitable[Response]]


def guarded(endpoint: Endpoint, token: str | None) -> Endpoint:
    """The endpoint behind the token; whatever goes wrong in it is answered in JSON."""

    async def serve(request: Request) -> Response:
        try:
            check_token(request, token)
            return await endpoint(request)
        except Refused as refused:
            return refusal(refused)
        except Exception as error:  # a fault of ours: the client gets an answer, and we the trace
            log.error("a request failed", exc_info=error)
            return refusal(Refused(500, "internal", f"the request failed with {type(error).__name__}; the log says more"))

    return serve


async def lost(request: Request, error: Exception) -> Response:
    """Answers addresses that lead nowhere."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    return refusal(Refused(status, "unknown_address", f"nothing answers {request.method} {request.url.path}"))


def refusal(refused: Refused) -> Response:
    """A refusal as JSON."""
    headers = {} if refused.retry_after is None else {"retry-after": f"{refused.retry_after:g}"}
    body = {"error": {"code": refused.code, "message": str(refused)}}
    return Response(msgspec.json.encode(body), refused.status, headers, media_type=JSON)


def told(value: object, request: Request, status: int = 200) -> Response:
    """A value in the format the request came in."""
    packed = request.headers.get("content-type", "").partition(";")[0].strip() == PACKED
    content, kind = encode(value) if packed else (msgspec.json.encode(value), JSON)
    return Response(content, status, media_type=kind)


def refused_by(status: int, content: bytes, after: str | None) -> Refused:
    """What a server said no with."""
    try:
        said = cast("dict[str, Any]", msgspec.json.decode(content, type=dict[str, Any]).get("error") or {})
        code, message = str(said["code"]), str(said["message"])
    except (msgspec.DecodeError, KeyError, AttributeError, TypeError):
        code, message = "unknown", one_line(ValueError(content[:400].decode("utf-8", "replace")))
    try:
        wait = None if after is None else max(float(after), 0.0)
    except ValueError:
        wait = None
    return Refused(status, code, message, wait)
