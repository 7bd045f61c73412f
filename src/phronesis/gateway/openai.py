"""OpenAI chat completions: ``POST /v1/chat/completions`` and ``GET /v1/models``, with and without an episode."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from phronesis.chat.wire import openai_chat
from phronesis.chat.wire.openai_stream import DONE, stream_answer
from phronesis.chat.wire.sse import ServerEvent
from phronesis.gateway.answers import Sampled, find_episode, sampled
from phronesis.gateway.book import Book
from phronesis.gateway.episode import Said
from phronesis.gateway.errors import bad_request
from phronesis.gateway.http import Told, answer, read_json, stream
from phronesis.records import Usage

MOST_CHOICES = 128
"""Most messages one request may want."""


async def models(book: Book, request: Request) -> Response:
    """The one model there is."""
    find_episode(book, request)
    context = book.limits.context
    entry = {"id": book.config.model, "object": "model", "created": 0, "owned_by": "phronesis", "max_model_len": context}
    return answer({"object": "list", "data": [entry]})


async def chat_completions(book: Book, request: Request) -> Response:
    """Chat completions; ``logprobs`` and ``return_token_ids`` add what was really sampled.

    Raises:
        WireError, GatewayError, TemplateError, PolicyFault, Gone.
    """
    asked = openai_chat.read_request(await read_json(request, book.config.body_bytes))
    if asked.n > MOST_CHOICES:
        raise bad_request(f"n must be at most {MOST_CHOICES}, got {asked.n}")
    if asked.stream and asked.n > 1:
        raise bad_request("n above 1 cannot be streamed; leave out stream, or ask once per message")
    refuse_formats(asked.rest)
    found = await sampled(book, request, asked)
    created = int(time.time())
    with_ids = bool(asked.rest.get("return_token_ids"))
    decode = partial(_token, book)
    if asked.stream:
        return stream(_events(found, book.config.model, created, with_ids, decode), found.delivered)
    choices, body, usage = list[dict[str, Any]](), dict[str, Any](), Usage()
    for i, one in enumerate(found.said):
        reply = found.answer(one, book.config.model)
        body = openai_chat.write_answer(reply, created=created)
        choice: dict[str, Any] = {**body["choices"][0], "index": i, **_extras(one, asked.logprobs, with_ids, decode)}
        choices.append(choice)
        usage = _add(usage, reply.usage)
    body |= {"choices": choices, "usage": openai_chat.write_usage(usage), "phronesis": found.place(found.said[0])}
    if with_ids:
        body["prompt_token_ids"] = list(found.said[0].point.prompt)
    return Told(body, found.delivered)


def refuse_formats(rest: dict[str, Any]) -> None:
    """Refuses answers in formats that nothing here can enforce."""
    wanted: object = rest.get("response_format")
    kind = cast(dict[str, object], wanted).get("type") if isinstance(wanted, dict) else None
    if kind not in (None, "text"):
        raise bad_request(
            f"response_format {kind!r} cannot be enforced here; leave it out and check the answer, or offer a tool"
        )


def _add(a: Usage, b: Usage) -> Usage:
    """Tokens of several choices to one prompt."""
    return Usage(
        input_tokens=b.input_tokens,
        output_tokens=a.output_tokens + b.output_tokens,
        cached_tokens=max(a.cached_tokens, b.cached_tokens),
        thought_tokens=a.thought_tokens + b.thought_tokens,
    )


def _token(book: Book, token: int) -> str:
    return book.text((token,))


def _extras(one: Said, logprobs: bool, with_ids: bool, decode: Callable[[int], str]) -> dict[str, Any]:
    """What a choice says of its tokens."""
    extras: dict[str, Any] = {}
    if with_ids:
        extras["token_ids"] = list(one.turn.completion)
    if logprobs:
        extras["logprobs"] = {"content": _content(one, decode), "refusal": None}
    return extras


def _content(one: Said, decode: Callable[[int], str]) -> list[dict[str, Any]]:
    return [
        {
            "token": (text := decode(token)),
            "bytes": list(text.encode()),
            "logprob": logprob if math.isfinite(logprob) else -9999.0,
            "top_logprobs": [],
            "token_id": token,
        }
        for token, logprob in zip(one.turn.completion, one.turn.logprobs, strict=True)
    ]


def _events(found: Sampled, model: str, created: int, with_ids: bool, decode: Callable[[int], str]) -> Iterator[ServerEvent]:
    """The answer in pieces. The first event says where it stands, the one with the reason to end what was sampled."""
    one, asked = found.said[0], found.request
    for i, event in enumerate(stream_answer(found.answer(one, model), created=created, usage=asked.stream_usage)):
        if event == DONE:
            yield event
            continue
        chunk = cast(dict[str, Any], msgspec.json.decode(event.data))
        if i == 0:
            chunk["phronesis"] = found.place(one)
            if with_ids:
                chunk["prompt_token_ids"] = list(one.point.prompt)
        if chunk["choices"] and chunk["choices"][0]["finish_reason"]:
            chunk["choices"][0] |= _extras(one, asked.logprobs, with_ids, decode)
        yield ServerEvent(msgspec.json.encode(chunk).decode(), event.name)
