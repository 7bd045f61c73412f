"""Anthropic messages: ``POST /v1/messages`` and ``POST /v1/messages/count_tokens``, with and without an episode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from phronesis.chat.wire import anthropic_messages
from phronesis.chat.wire.anthropic_stream import stream_answer
from phronesis.chat.wire.sse import ServerEvent
from phronesis.gateway.answers import Sampled, find_episode, sampled
from phronesis.gateway.book import Book
from phronesis.gateway.errors import bad_request
from phronesis.gateway.http import Told, answer, read_json, stream


async def messages(book: Book, request: Request) -> Response:
    """Messages; every answer says under ``phronesis`` where it stands in its episode.

    Raises:
        WireError, GatewayError, TemplateError, PolicyFault, Gone.
    """
    body = await read_json(request, book.config.body_bytes)
    found = await sampled(book, request, anthropic_messages.read_request(body))
    if found.request.stream:
        return stream(_events(found, book.config.model), found.delivered)
    one = found.said[0]
    reply = anthropic_messages.write_answer(found.answer(one, book.config.model))
    return Told(reply | {"phronesis": found.place(one)}, found.delivered)


async def count_tokens(book: Book, request: Request) -> Response:
    """How many ids a conversation opens with; nothing is sampled."""
    body = await read_json(request, book.config.body_bytes)
    if not isinstance(body, dict):
        raise bad_request("the body is not a JSON object")
    find_episode(book, request)
    asked = anthropic_messages.read_request({"max_tokens": 1, **cast(dict[str, object], body)})
    return answer({"input_tokens": len(book.chat.open(asked.messages, asked.tools))})


def _events(found: Sampled, model: str) -> Iterator[ServerEvent]:
    """The answer in pieces; the first event says where it stands."""
    for i, event in enumerate(stream_answer(found.answer(found.said[0], model))):
        if i:
            yield event
            continue
        first: dict[str, object] = msgspec.json.decode(event.data, type=dict[str, object])
        told = first | {"phronesis": found.place(found.said[0])}
        yield ServerEvent(msgspec.json.encode(told).decode(), event.name)
