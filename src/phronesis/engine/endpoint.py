"""What all endpoints that take messages share: settings, prices, the account, and how one answer is asked for.

The rule this module keeps: the key is read from the environment when a policy is made and is nowhere else; settings hold
the variable's name, and no message shows the key.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
from msgspec import Struct
from msgspec.structs import replace

from phronesis.chat.wire.exchange import ChatRequest
from phronesis.chat.wire.sse import ServerEvent
from phronesis.engine.events import BrokenReply, folded
from phronesis.engine.http import HttpClient, HttpLimits
from phronesis.engine.pace import Pace, Pass
from phronesis.errors import ConfigError, PolicyFault, WireError
from phronesis.pictures import SHELF, Images
from phronesis.policy import Answer, SamplingParams
from phronesis.records import Finish, Message, ToolSpec, Usage, total

_CHARS_PER_TOKEN = 3
"""For the estimate a rate limit needs before a request is sent; put right by the answer."""


EndpointFormat = Literal["openai", "responses", "anthropic"]
"""Wire formats that can be spoken."""


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a million tokens cost, in any one currency.

    >>> Price(input=1.0, output=4.0, cached=0.5).of(Usage(input_tokens=1_000_000, cached_tokens=400_000, output_tokens=500_000))
    2.8
    """

    input: float
    """Prompt tokens that no cache held."""
    output: float
    """Answer tokens, thoughts included."""
    cached: float | None = None
    """Prompt tokens read from a cache; None means as `input`."""
    written: float | None = None
    """Prompt tokens written to a cache; None means as `input`."""

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached", "written"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"price {name} must be at least 0, got {value!r}")

    def of(self, usage: Usage) -> float:
        """What an answer cost."""
        fresh = usage.input_tokens - usage.cached_tokens - usage.written_tokens
        cached = self.input if self.cached is None else self.cached
        written = self.input if self.written is None else self.written
        spent = fresh * self.input + usage.cached_tokens * cached + usage.written_tokens * written
        return (spent + usage.output_tokens * self.output) / 1e6


class EndpointConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint that takes messages. Nothing here is secret: write the key into an environment variable."""

    format: EndpointFormat = "openai"
    """Wire format it speaks."""
    model: str = ""
    """Name of the model, as the endpoint knows it."""
    url: str = ""
    """Address up to and without the route, e.g. ``http://127.0.0.1:8000/v1``; empty means the format's own provider."""
    key_env: str | None = None
    """Environment variable that holds the key. None sends the provider its usual one, and everybody else none."""
    prices: dict[str, Price] = {}
    """Model -> price; ``any`` stands for every other model. Looked up by the name the endpoint answers with, then by `model`;
    without one, costs are unknown."""
    requests_per_minute: float | None = None
    """Most requests in any minute, retries included; None means no limit."""
    tokens_per_minute: float | None = None
    """Most tokens in any minute, prompts and answers; None means no limit."""
    http: HttpLimits = HttpLimits()
    """Deadlines, retries, concurrency."""
    stream: bool = False
    """Whether answers come in pieces, which keeps proxies from closing long ones."""
    send_thoughts: bool = False
    """Whether past thoughts are sent back. Thoughts an endpoint has signed always are."""
    send_seed: bool = True
    """Whether each request carries the turn's seed, where the format has a place for it."""
    effort: str | None = None
    """How much to think, in the endpoint's own words; None leaves it to the endpoint."""
    body: dict[str, Any] = {}
    """Sent with every request beside the rest, e.g. ``top_k = -1`` or a table ``chat_template_kwargs``."""
    omit: tuple[str, ...] = ()
    """Fields never sent, for an endpoint that refuses them, e.g. ``["temperature"]``."""
    headers: dict[str, str] = {}
    """Sent with every request. Not for keys: these are written down with the settings."""

    def validate(self, where: str = "endpoint") -> None:
        """Raises ConfigError for values that cannot work."""
        if not self.model:
            raise ConfigError(f"{where}.model is empty; name the model as the endpoint knows it")
        for name in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ConfigError(f"{where}.{name} must be at least 1 or absent, got {value!r}")
        for name in self.headers:
            if name.lower() in ("authorization", "x-api-key", "api-key"):
                raise ConfigError(
                    f"{where}.headers holds {name!r}; put the key into an environment variable and name it in key_env"
                )
        self.http.validate(f"{where}.http")


@dataclass
class Account:
    """What a policy has used since it was made. Answers to episodes that were given up are in it too."""

    answers: int = 0
    """Answers received."""
    usage: Usage = field(default_factory=lambda: Usage(cost=0.0))
    """Tokens and cost of all of them; the cost is None as soon as one has no price."""

    def add(self, usage: Usage) -> None:
        """Counts one answer."""
        self.answers += 1
        self.usage = total((self.usage, usage)) or usage


class Endpoint(ABC):
    """A policy that takes messages; implements `phronesis.policy.Chats`. The formats are its subclasses."""

    provider: str
    """Address of the format's own provider."""
    usual_key: str
    """Environment variable the provider's users keep their key in."""

    def __init__(
        self, config: EndpointConfig, *, images: Images = SHELF, client: HttpClient | None = None, pace: Pace | None = None
    ):
        """Nothing is sent yet.

        Args:
            config: which model, where, how.
            images: holds the pictures of conversations.
            client: sends the requests; made from the settings when None.
            pace: the rate limits; made from the settings when None.

        Raises:
            ConfigError: impossible settings, or no key in the variable that was named.
        """
        config.validate()
        url = config.url or self.provider
        key = self._key(config, url)
        self.config, self.images = config, images
        self.account = Account()
        self.client = client or HttpClient(
            url, headers=self.headers(key) | config.headers, secrets=(key,) if key else (), limits=config.http
        )
        self.pace = pace or Pace(requests=config.requests_per_minute, tokens=config.tokens_per_minute)

    @property
    def name(self) -> str:
        """Model and address, for people."""
        return f"{self.config.model}@{self.client.base_url}"

    @abstractmethod
    def headers(self, key: str | None) -> dict[str, str]:
        """What every request carries."""

    @abstractmethod
    def route(self) -> str:
        """Where requests go."""

    @abstractmethod
    def write(self, request: ChatRequest) -> dict[str, Any]:
        """A request in the endpoint's format."""

    @abstractmethod
    def read(self, body: object, turn: int) -> Answer:
        """An answer in the endpoint's format."""

    @abstractmethod
    async def fold(self, events: AsyncIterator[ServerEvent], turn: int) -> Answer:
        """A streamed answer in the endpoint's format."""

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], params: SamplingParams, turn: int = 0
    ) -> Answer:
        """Asks for one answer; see `phronesis.policy.Chats`.

        Raises:
            EndpointFault: there is none, all retries included.
            WireError: the conversation cannot be said in the endpoint's format.
        """
        body = self.write(self._request(messages, tools, params)) | self.config.body
        body = {name: value for name, value in body.items() if name not in self.config.omit}
        expected = sum(len(m.text) + len(m.thought or "") for m in messages) // _CHARS_PER_TOKEN + params.max_tokens
        passes: list[Pass] = []

        async def before() -> None:
            passes.append(await self.pace.enter(expected))

        async def fold(events: AsyncIterator[ServerEvent]) -> Answer:
            try:
                return await self.fold(events, turn)
            except WireError as error:
                if error.field != "error":
                    raise
                raise BrokenReply(str(error), "stream_error") from error

        async def whole(response: httpx.Response) -> Answer:
            return self.read(await self.client.read_json(response), turn)

        read = whole if not self.config.stream else folded(fold)
        answer = await self.client.call("POST", self.route(), body, read=read, before=before)
        answer = replace(answer, usage=replace(answer.usage, cost=self._cost(answer)))
        self.pace.settle(passes[-1], answer.usage.input_tokens + answer.usage.output_tokens)
        self.account.add(answer.usage)
        if answer.finish is Finish.cancelled:
            raise PolicyFault(f"{self.name} withdrew its answer {answer.id!r} before it was whole; ask again")
        return answer

    async def close(self) -> None:
        """Closes the connections."""
        await self.client.close()

    def _request(self, messages: Sequence[Message], tools: Sequence[ToolSpec], params: SamplingParams) -> ChatRequest:
        config = self.config
        return ChatRequest(
            model=config.model,
            messages=tuple(messages),
            tools=tuple(tools),
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k or None,
            min_p=params.min_p or None,
            stop=params.stop_strings,
            seed=params.seed % 2**31 if config.send_seed else None,
            stream=config.stream,
            stream_usage=config.stream,
            effort=config.effort,
        )

    def _cost(self, answer: Answer) -> float | None:
        prices = self.config.prices
        price = next((prices[name] for name in (answer.model, self.config.model, "any") if name in prices), None)
        return None if price is None else price.of(answer.usage)

    def _key(self, config: EndpointConfig, url: str) -> str | None:
        name = config.key_env
        if name is None:
            if httpx.URL(url).host != httpx.URL(self.provider).host:
                return None
            name = self.usual_key
        key = os.environ.get(name, "").strip()
        if not key:
            raise ConfigError(f"no key in the environment variable {name!r}; export it, or name another in 'key_env'")
        return key
