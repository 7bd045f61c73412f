"""Weights over HTTP: the learner's process sends a packed bucket, one that samples receives it and loads it when it likes.

``PUT /weights`` carries one bucket (see `phronesis.engine.weights.bucket`), written while it arrives into memory that was set
aside for it. Whatever is wrong with it, what was received before stays. ``GET /weights`` tells the version that is there.
Both want ``Authorization: Bearer TOKEN``.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncGenerator

import httpx
import torch
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from torch import nn

from phronesis.engine.weights.bucket import Bucket, Layout, Memory, Named, load_into, unpack
from phronesis.errors import ConfigError, WeightsError

PATH = "/weights"
STALLED = 60.0
"""Longest pause within an upload, in seconds: a sender whose machine died says nothing, and would keep all others out."""
PIECE = 1 << 20
"""Bytes given to the socket at once."""


class Receiver:
    """Takes the weights of one model; `app` answers over HTTP, `load_into` uses what came last.

    Two buckets fit: the one that came last, and the one that is coming. Only one may come at a time.
    """

    def __init__(self, named: Named, token: str, *, dtype: torch.dtype | None = None):
        """Nothing has come yet.

        Args:
            named: the tensors that are expected, e.g. ``model.named_parameters()``; nothing else is accepted.
            token: what senders must know; at least 16 characters.
            dtype: floating-point tensors come as this; None keeps theirs.

        Raises:
            ConfigError: too short a token, or tensors that a bucket cannot hold.
        """
        if len(token) < 16 or not token.isascii():
            raise ConfigError("the token of a weights receiver needs at least 16 ASCII characters; see secrets.token_urlsafe()")
        self.layout = Layout(named, dtype)
        self._token = token
        self._rooms = [_room(self.layout.nbytes) for _ in range(2)]
        self._bucket: Bucket | None = None
        self._coming = False
        self._news = asyncio.Event()
        self.refused = 0
        """Uploads that were refused or broke off."""
        self.app = Starlette(routes=[Route(PATH, self._put, methods=["PUT"]), Route(PATH, self._get, methods=["GET"])])
        """The application, for `phronesis.serving.serving`."""

    @property
    def version(self) -> int | None:
        """Of the weights that came last; None before the first."""
        return None if self._bucket is None else self._bucket.version

    async def wait(self, newer_than: int | None = None) -> int:
        """Waits for weights, of a version above `newer_than` where it is given; their version."""
        while (found := self.version) is None or (newer_than is not None and found <= newer_than):
            self._news.clear()
            await self._news.wait()
        return found

    def load_into(self, model: nn.Module) -> int:
        """Copies the weights that came last into a model; their version. Call it on the event loop's thread.

        Raises:
            WeightsError: none have come yet, or they are another model's.
        """
        if self._bucket is None:
            raise WeightsError("no weights have come yet; wait() for them")
        return load_into(model, self._bucket)

    async def _get(self, request: Request) -> Response:
        refusal = self._unauthorised(request)
        return refusal or JSONResponse({"version": self.version, "bytes": self.layout.nbytes})

    async def _put(self, request: Request) -> Response:
        refusal = self._unauthorised(request) or self._unfit(request)
        if refusal is None:
            self._coming = True
            try:
                refusal = await self._take(request)
            finally:
                self._coming = False
        self.refused += refusal is not None
        return refusal or JSONResponse({"version": self.version})

    async def _take(self, request: Request) -> Response | None:
        """Reads the body into the room that is free; None when it has become what `load_into` uses."""
        room, at = self._rooms[0], 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(STALLED) as deadline:
                async for piece in request.stream():
                    deadline.reschedule(loop.time() + STALLED)
                    if at + len(piece) > len(room):
                        return _refusal(413, f"more than the {len(room)} bytes that were expected")
                    room[at : at + len(piece)] = piece
                    at += len(piece)
        except ClientDisconnect:
            return _refusal(400, "the sender went away")
        except TimeoutError:
            return _refusal(408, f"nothing came for {STALLED:g} s after {at} bytes")
        if at != len(room):
            return _refusal(400, f"{at} bytes came, {len(room)} were expected")
        try:
            bucket = await asyncio.to_thread(unpack, room)
        except WeightsError as error:
            return _refusal(422, str(error))
        found = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in bucket.tensors.items()]
        if found != list(self.layout.rows):
            return _refusal(422, "the bucket holds other tensors than were expected; is it the same model and dtype?")
        if self.version is not None and bucket.version < self.version:
            return _refusal(409, f"version {bucket.version} is older than version {self.version}, which is here")
        self._rooms.reverse()
        self._bucket = bucket
        self._news.set()
        return None

    def _unauthorised(self, request: Request) -> Response | None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode()):
            return None
        return _refusal(401, "send the receiver's token as 'Authorization: Bearer TOKEN'")

    def _unfit(self, request: Request) -> Response | None:
        size = request.headers.get("content-length", "")
        if size and size != str(self.layout.nbytes):
            return _refusal(
                413, f"{size} bytes are announced, {self.layout.nbytes} are expected; is it the same model and dtype?"
            )
        return _refusal(409, "another upload is under way") if self._coming else None


async def send(client: httpx.AsyncClient, url: str, token: str, bucket: Memory) -> int:
    """Sends a bucket to a receiver; the version that it has now.

    Args:
        client: keeps the connection between pushes; its time-outs hold for each piece.
        url: of the receiver, e.g. ``http://10.0.0.7:8300``.
        token: its token.
        bucket: of `phronesis.engine.weights.bucket.pack`.

    Raises:
        WeightsError: there was no answer, or the receiver refused; says why.
    """
    view = memoryview(bucket)

    async def pieces() -> AsyncGenerator[bytes]:
        for at in range(0, view.nbytes, PIECE):
            yield bytes(view[at : at + PIECE])

    head = {"authorization": f"Bearer {token}", "content-length": str(view.nbytes)}
    try:
        answer = await client.put(f"{url.rstrip('/')}{PATH}", content=pieces(), headers=head)
    except httpx.HTTPError as error:
        raise WeightsError(
            f"no answer from {url!r} to a push of {view.nbytes} bytes: {type(error).__name__} {error}"
        ) from error
    if answer.status_code != 200:
        raise WeightsError(f"{url!r} refused the weights ({answer.status_code}): {_said(answer)}")
    return int(answer.json()["version"])


def _room(size: int) -> memoryview:
    return torch.empty(size, dtype=torch.uint8).numpy().data


def _refusal(status: int, said: str) -> Response:
    return JSONResponse({"error": said}, status, headers={"connection": "close"})


def _said(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return answer.text[:200]
