"""What all routes share: bodies, credentials, clients that go away, errors in the format of each API."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar, cast
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from phronesis.chat.wire.sse import ServerEvent, encode
from phronesis.errors import PolicyFault, UserError, WireError, one_line
from phronesis.gateway.errors import LOOPBACK, GatewayError, bad_request

log = logging.getLogger(__name__)

T = TypeVar("T")
Json = dict[str, object]
ErrorWriter = Callable[[GatewayError], Json]
"""An error as the body an API's clients expect."""

NO_RETRY = {"x-should-retry": "false"}
"""Header that the SDKs of OpenAI and Anthropic obey; without it they repeat a 409."""


class Gone(Exception):
    """The client went away before it got an answer."""


async def read_json(request: Request, most: int) -> object:
    """The request's body.

    Raises:
        GatewayError: it is too large (413) or no JSON (400).
        Gone: the client broke off.
    """
    pieces, size = list[bytes](), 0
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise GatewayError(413, "too_large", f"the body is larger than gateway.body_bytes = {most}")
    try:
        return cast(object, msgspec.json.decode(b"".join(pieces) or b"{}"))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise bad_request(f"the body is not JSON: {one_line(error)}") from error


def check_token(request: Request, token: str | None) -> None:
    """Refuses requests without the secret. Where there is none, refuses those that a web page made a browser send.

    Raises:
        GatewayError: 401, or 403.
    """
    if token is None:
        origin = request.headers.get("origin")
        hosts = [request.url.hostname, *([] if origin is None else [urlsplit(origin).hostname])]
        if any(host not in LOOPBACK for host in hosts):
            raise GatewayError(
                403, "foreign_origin", "without a token only programs on this machine are served, by a loopback address"
            )
        return
    given = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise GatewayError(
            401, "unauthorized", "send the gateway's token as 'Authorization: Bearer TOKEN' or 'x-api-key: TOKEN'"
        )


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Awaits something for a client, and cancels it when the client goes away first.

    Raises:
        Gone: it did.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        for waiting in (task, gone):
            if not waiting.done():
                waiting.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def as_refusal(error: Exception) -> GatewayError:
    """Any error as one that a client may be told. What is not foreseen is logged, and told without details."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, WireError | UserError):  # ConfigError, TemplateError: the request asks for something impossible
        return bad_request(str(error))
    if isinstance(error, PolicyFault):
        return GatewayError(503, "policy_fault", f"the policy failed: {error}", 1.0)
    log.error("a request failed", exc_info=error)
    return GatewayError(500, "internal", f"the gateway failed ({type(error).__name__}); its log says more")


def refuse(error: GatewayError, write: ErrorWriter) -> Response:
    """The response for an error."""
    headers = {} if error.retry_after is None else {"retry-after": f"{error.retry_after:g}"}
    if error.retry_after is None:
        headers |= NO_RETRY
    return answer(write(error), error.status, headers)


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


class Told(Response):
    """A JSON response that reports when it has been handed to the connection."""

    def __init__(self, body: object, done: Callable[[], None]):
        super().__init__(msgspec.json.encode(body), media_type="application/json")
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it, then reports."""
        await super().__call__(scope, receive, send)
        self._done()


def stream(events: Iterable[ServerEvent], done: Callable[[], None]) -> StreamingResponse:
    """A response of events; `done` is called when the last one has been handed to the connection."""

    async def pieces() -> AsyncIterator[bytes]:
        for event in events:
            yield encode(event)
            await asyncio.sleep(0)  # lets a cancellation by the client come through
        done()

    return StreamingResponse(pieces(), media_type="text/event-stream", headers={"cache-control": "no-cache"})


def openai_error(error: GatewayError) -> Json:
    """As OpenAI's API and the gateway's own routes write errors."""
    kinds = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        409: "conflict_error",
        429: "rate_limit_error",
    }
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": None, "code": error.code}}


def anthropic_error(error: GatewayError) -> Json:
    """As Anthropic's API writes errors."""
    kinds = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(error), "code": error.code}}
