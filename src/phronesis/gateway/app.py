"""The HTTP application: which address leads to what. `gateway/openai.py` and its neighbours say what each API answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from phronesis.gateway import anthropic, episodes, openai, responses, tokens
from phronesis.gateway.book import Book
from phronesis.gateway.errors import GatewayError
from phronesis.gateway.http import ErrorWriter, Gone, answer, anthropic_error, as_refusal, check_token, openai_error, refuse
from phronesis.policy import Versioned

Handler = Callable[[Book, Request], Awaitable[Response]]
"""What answers a request; may raise anything."""


def application(book: Book, token: str | None = None) -> Starlette:
    """All routes over a book of episodes.

    Args:
        book: episodes and policy.
        token: secret that every request but ``/health`` must show; None asks for none.
    """

    def guarded(handler: Handler, write: ErrorWriter = openai_error) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            try:
                check_token(request, token)
                return await handler(book, request)
            except Gone:
                return Response(status_code=499)  # nobody is there to read it
            except Exception as error:
                return refuse(as_refusal(error), write)

        return serve

    def both(path: str, handler: Handler, methods: list[str], write: ErrorWriter = openai_error) -> list[Route]:
        """A route of an API, at its own place and under the address of each episode."""
        return [Route(p, guarded(handler, write), methods=methods) for p in (path, f"/episodes/{{episode}}{path}")]

    routes = [
        Route("/health", _health(book), methods=["GET"]),
        Route("/version", guarded(_version), methods=["GET"]),
        Route("/episodes", guarded(episodes.create), methods=["POST"]),
        Route("/episodes", guarded(episodes.overview), methods=["GET"]),
        Route("/episodes/{episode}", guarded(episodes.show), methods=["GET"]),
        Route("/episodes/{episode}/reward", guarded(episodes.reward), methods=["POST"]),
        Route("/episodes/{episode}/finish", guarded(episodes.finish), methods=["POST"]),
        *both("/v1/models", openai.models, ["GET"]),
        *both("/v1/chat/completions", openai.chat_completions, ["POST"]),
        *both("/v1/responses", responses.responses, ["POST"]),
        *both("/v1/messages", anthropic.messages, ["POST"], anthropic_error),
        *both("/v1/messages/count_tokens", anthropic.count_tokens, ["POST"], anthropic_error),
        Route("/inference/v1/generate", guarded(tokens.generate), methods=["POST"]),
    ]

    async def lost(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        known = sorted({route.path for route in routes})
        why = f"nothing answers {request.method} {request.url.path}; the addresses are {', '.join(known)}"
        return refuse(GatewayError(status, "unknown_address", why), openai_error)

    return Starlette(routes=routes, exception_handlers={404: lost, 405: lost})


def _health(book: Book) -> Callable[[Request], Awaitable[Response]]:
    async def health(request: Request) -> Response:
        return answer({"status": "stopping" if book.stopping else "ok", "open": len(book.open), "in_flight": book.in_flight})

    return health


async def _version(book: Book, request: Request) -> Response:
    weights = book.policy.version if isinstance(book.policy, Versioned) else None
    return answer({"version": version("phronesis"), "model": book.config.model, "weights": weights})
