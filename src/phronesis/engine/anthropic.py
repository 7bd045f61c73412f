"""Any Anthropic-compatible messages endpoint as a policy that takes messages: for agents whose weights stay as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from phronesis.chat.wire import anthropic_messages
from phronesis.chat.wire.anthropic_stream import MessageReader
from phronesis.chat.wire.exchange import ChatRequest
from phronesis.chat.wire.sse import ServerEvent
from phronesis.engine.endpoint import Endpoint, EndpointConfig
from phronesis.engine.events import BrokenReply
from phronesis.engine.http import HttpClient
from phronesis.engine.pace import Pace
from phronesis.pictures import SHELF, Images
from phronesis.policy import Answer
from phronesis.records import Message

VERSION = "2023-06-01"
"""Version of the format, sent with every request."""

_KEPT = 4096
"""Most messages whose signed thoughts are kept; the oldest go first."""

Blocks = Sequence[Mapping[str, object]]


class AnthropicPolicy(Endpoint):
    """Messages: Anthropic, our gateway, and servers that copy the format.

    The endpoint's signed thoughts are kept beside the conversation and sent back word for word with the message they came
    with. `top_p` is sent only when it is below 1, since some models refuse it beside `temperature`. The format has no seed.
    """

    provider = "https://api.anthropic.com/v1"
    usual_key = "ANTHROPIC_API_KEY"

    def __init__(
        self,
        config: EndpointConfig,
        *,
        images: Images = SHELF,
        client: HttpClient | None = None,
        pace: Pace | None = None,
    ):
        super().__init__(config, images=images, client=client, pace=pace)
        self._sealed: dict[bytes, Blocks] = {}

    def headers(self, key: str | None) -> dict[str, str]:
        """The key and the format's version."""
        return {"anthropic-version": VERSION} | ({"x-api-key": key} if key else {})

    def route(self) -> str:
        """``/messages``."""
        return "/messages"

    def write(self, request: ChatRequest) -> dict[str, Any]:
        """A request, with the signed thoughts of past answers."""
        chosen = replace(request, top_p=None if request.top_p == 1 else request.top_p)
        return anthropic_messages.write_request(
            chosen, images=self.images, thoughts=self.config.send_thoughts, sealed=lambda m: self._sealed.get(_key(m))
        )

    def read(self, body: object, turn: int) -> Answer:
        """An answer; its signed thoughts are kept."""
        answer = anthropic_messages.read_answer(body, turn)
        self._keep(answer.message, anthropic_messages.thinking_blocks(body))
        return answer

    async def fold(self, events: AsyncIterator[ServerEvent], turn: int) -> Answer:
        """A streamed answer; one that stops before its end is asked for again."""
        reader = MessageReader(turn)
        async for event in events:
            reader.read(event)
        if not reader.complete:
            raise BrokenReply("the stream ended before the answer did", "cut")
        answer = reader.answer()
        self._keep(answer.message, reader.blocks)
        return answer

    def _keep(self, message: Message, blocks: Blocks) -> None:
        if any(block.get("signature") or block.get("type") == "redacted_thinking" for block in blocks):
            while len(self._sealed) >= _KEPT:
                del self._sealed[next(iter(self._sealed))]
            self._sealed[_key(message)] = blocks


def _key(message: Message) -> bytes:
    """What makes a message the one an endpoint wrote; the ids of its calls may have been changed since."""
    calls = [(call.name, call.arguments, call.raw) for call in message.tool_calls]
    return msgspec.json.encode((message.role, message.text, message.thought, calls))
