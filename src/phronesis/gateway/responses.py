"""OpenAI Responses: ``POST /v1/responses``, with and without an episode. The whole conversation comes with every request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from phronesis.chat.wire import openai_responses
from phronesis.chat.wire.responses_stream import stream_answer
from phronesis.chat.wire.sse import ServerEvent
from phronesis.gateway.answers import Sampled, sampled
from phronesis.gateway.book import Book
from phronesis.gateway.errors import bad_request
from phronesis.gateway.http import Told, read_json, stream


async def responses(book: Book, request: Request) -> Response:
    """Responses; every answer says under ``phronesis`` where it stands in its episode.

    Raises:
        WireError, GatewayError, TemplateError, PolicyFault, Gone.
    """
    asked = openai_responses.read_request(await read_json(request, book.config.body_bytes))
    _refuse_formats(asked.rest)
    found = await sampled(book, request, asked)
    created = int(time.time())
    if asked.stream:
        return stream(_events(found, book.config.model, created), found.delivered)
    one = found.said[0]
    body = openai_responses.write_answer(found.answer(one, book.config.model), created=created)
    return Told(body | {"phronesis": found.place(one)}, found.delivered)


def _refuse_formats(rest: dict[str, Any]) -> None:
    """Refuses answers in formats that nothing here can enforce."""
    text: object = rest.get("text")
    wanted: object = cast(dict[str, object], text).get("format") if isinstance(text, dict) else None
    kind = cast(dict[str, object], wanted).get("type") if isinstance(wanted, dict) else None
    if kind not in (None, "text"):
        raise bad_request(f"text.format {kind!r} cannot be enforced here; leave it out and check the answer, or offer a tool")


def _events(found: Sampled, model: str, created: int) -> Iterator[ServerEvent]:
    """The answer in pieces; the first event says where it stands."""
    for i, event in enumerate(stream_answer(found.answer(found.said[0], model), created=created)):
        if i:
            yield event
            continue
        first: dict[str, object] = msgspec.json.decode(event.data, type=dict[str, object])
        told = first | {"phronesis": found.place(found.said[0])}
        yield ServerEvent(msgspec.json.encode(told).decode(), event.name)
