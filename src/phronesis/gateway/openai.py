"""OpenAI chat completions: ``POST /v1/chat/completions`` and ``GET /v1/models``, with and without an episode."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from phronesis.chat.wire import openai_chat
from phronesis.chat.wire.exchange import ChatRequest
from phronesis.chat.wire.openai_stream import DONE, stream_answer
from phronesis.chat.wire.sse import ServerEvent
from phronesis.gateway.book import Book
from phronesis.gateway.episode import LiveEpisode, Said
from phronesis.gateway.errors import GatewayError, bad_request
from phronesis.gateway.http import Told, answer, read_json, stream, unless_gone
from phronesis.policy import Answer
from phronesis.records import Usage

EPISODE_HEADER = "x-phronesis-episode"
"""Names the episode where the address does not."""
MOST_CHOICES = 128


@dataclass(frozen=True)
class Sampled:
    """What was sampled for one request of any API."""

    live: LiveEpisode
    """The episode."""
    request: ChatRequest
    """What was asked."""
    said: Sequence[Said]
    """One per message wanted."""

    def delivered(self) -> None:
        """The client has got all of it."""
        for one in self.said:
            one.point.delivered = True

    def answer(self, one: Said, model: str) -> Answer:
        """A message as the wire formats take it."""
        thought = sum(s.end - s.start for s in one.turn.spans if s.kind == "think")
        usage = Usage(
            input_tokens=len(one.point.prompt),
            output_tokens=len(one.turn.completion),
            cached_tokens=one.turn.cached_tokens,
            thought_tokens=thought,
        )
        id = f"{self.live.id}.{one.point.turn}"
        return Answer(message=one.point.sent, finish=one.turn.finish, usage=usage, model=model, id=id)

    def place(self, one: Said) -> dict[str, object]:
        """Where a message stands in the episode, under ``phronesis`` in every answer."""
        return {
            "episode": self.live.id,
            "turn": one.point.turn,
            "kind": one.place.kind,
            "repairs": list(one.place.repairs),
            "version": list(one.turn.version),
        }


def find_episode(book: Book, request: Request) -> LiveEpisode | None:
    """The episode a request belongs to; None when it names none.

    Raises:
        GatewayError: it names one that is unknown or over.
    """
    id: str | None = request.path_params.get("episode") or request.headers.get(EPISODE_HEADER)
    return None if id is None else book.get(id)


async def sampled(book: Book, request: Request, asked: ChatRequest) -> Sampled:
    """Samples for a request of any API. One that names no episode gets one of its own, which is not recorded.

    Raises:
        GatewayError: see `LiveEpisode.ask`, `Book.admitted`.
        Gone: the client went away.
    """
    if asked.model != book.config.model and not book.config.any_model:
        raise GatewayError(404, "model_not_found", f"no model {asked.model!r} here; the model is {book.config.model!r}")
    live = find_episode(book, request)
    async with book.admitted():
        if live is None:
            live = book.stray()
            try:
                said = await unless_gone(request, live.ask(asked))
            finally:
                book.drop(live)
        else:
            said = await unless_gone(request, live.ask(asked))
    return Sampled(live, asked, said)


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
