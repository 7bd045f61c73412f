"""What the APIs share: the episode a request belongs to, what was sampled for it, and how that is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from phronesis.chat.wire.exchange import ChatRequest
from phronesis.gateway.book import Book
from phronesis.gateway.episode import LiveEpisode, Said
from phronesis.gateway.errors import GatewayError
from phronesis.gateway.http import unless_gone
from phronesis.policy import Answer
from phronesis.records import Usage

EPISODE_HEADER = "x-phronesis-episode"
"""Names the episode where the address does not."""


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
