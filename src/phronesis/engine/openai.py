"""Any OpenAI-compatible chat endpoint as a policy that takes messages: for agents whose weights stay as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx

from phronesis.chat.wire import openai_chat, openai_responses
from phronesis.chat.wire.exchange import ChatRequest
from phronesis.chat.wire.openai_stream import ChunkReader
from phronesis.chat.wire.responses_stream import ResponseReader
from phronesis.chat.wire.sse import ServerEvent
from phronesis.engine.endpoint import Endpoint
from phronesis.engine.events import BrokenReply
from phronesis.policy import Answer


class OpenAIPolicy(Endpoint):
    """Chat completions: OpenAI, vLLM, SGLang, llama.cpp, our gateway, and most providers.

    `temperature`, `top_p`, the turn's seed and the token limit are always sent; `top_k` and `min_p` only when set, so a
    server with defaults of its own (vLLM reads the model's ``generation_config.json``) applies those unless they are
    switched off in `EndpointConfig.body`.
    """

    provider = "https://api.openai.com/v1"
    usual_key = "OPENAI_API_KEY"

    def headers(self, key: str | None) -> dict[str, str]:
        """The key as a bearer token."""
        return {"authorization": f"Bearer {key}"} if key else {}

    def route(self) -> str:
        """``/chat/completions``."""
        return "/chat/completions"

    def write(self, request: ChatRequest) -> dict[str, Any]:
        """A request; the provider's own models want another name for the token limit."""
        own = httpx.URL(self.client.base_url).host == httpx.URL(self.provider).host
        limit = "max_completion_tokens" if own else "max_tokens"
        return openai_chat.write_request(request, images=self.images, limit_field=limit, thoughts=self.config.send_thoughts)

    def read(self, body: object, turn: int) -> Answer:
        """An answer."""
        return openai_chat.read_answer(body, turn)

    async def fold(self, events: AsyncIterator[ServerEvent], turn: int) -> Answer:
        """A streamed answer; one that stops before its reason to end came is asked for again."""
        reader = ChunkReader(turn)
        async for event in events:
            reader.read(event)
        if not reader.complete:
            raise BrokenReply("the stream ended before the answer did", "cut")
        return reader.answer()


class ResponsesPolicy(OpenAIPolicy):
    """Responses: OpenAI's newer format, also of vLLM. It has no stop texts and no seed; nothing is kept at the server."""

    def route(self) -> str:
        """``/responses``."""
        return "/responses"

    def write(self, request: ChatRequest) -> dict[str, Any]:
        """A request."""
        return openai_responses.write_request(request, images=self.images, thoughts=self.config.send_thoughts)

    def read(self, body: object, turn: int) -> Answer:
        """An answer."""
        return openai_responses.read_answer(body, turn)

    async def fold(self, events: AsyncIterator[ServerEvent], turn: int) -> Answer:
        """A streamed answer; one that stops before its last event is asked for again."""
        reader = ResponseReader(turn)
        async for event in events:
            reader.read(event)
        if not reader.complete:
            raise BrokenReply("the stream ended before the answer did", "cut")
        return reader.answer()
