"""Endpoints by name: ``FORMAT:MODEL@URL``, the one way commands name a policy that takes messages."""

from __future__ import annotations

from phronesis.engine.anthropic import AnthropicPolicy
from phronesis.engine.endpoint import Endpoint, EndpointConfig, EndpointFormat
from phronesis.engine.openai import OpenAIPolicy, ResponsesPolicy
from phronesis.errors import ConfigError
from phronesis.pictures import SHELF, Images

FORMATS: dict[EndpointFormat, type[Endpoint]] = {
    "openai": OpenAIPolicy,
    "responses": ResponsesPolicy,
    "anthropic": AnthropicPolicy,
}
"""Name of a wire format -> the policy that speaks it."""


def parse(text: str) -> EndpointConfig | None:
    """The endpoint a text names; None when it names none, since it does not begin with a format and a colon.

    >>> parse("openai:qwen3-4b@http://127.0.0.1:8000/v1").url
    'http://127.0.0.1:8000/v1'
    >>> parse("anthropic:claude-x").url, parse("runs/quickstart")
    ('', None)

    Raises:
        ConfigError: there is no model in it.
    """
    format: EndpointFormat | None = next((name for name in FORMATS if text.startswith(f"{name}:")), None)
    if format is None:
        return None
    rest = text.removeprefix(f"{format}:")
    model, at, url = rest.rpartition("@")
    if not at or "://" not in url:
        model, url = rest, ""
    if not model:
        raise ConfigError(f"{text!r} names no model; write it like '{format}:MODEL@http://127.0.0.1:8000/v1'")
    return EndpointConfig(format=format, model=model, url=url)


def connect(config: EndpointConfig, *, images: Images = SHELF) -> Endpoint:
    """The policy that asks an endpoint. Nothing is sent yet.

    Raises:
        ConfigError: impossible settings, or no key in the variable that was named.
    """
    return FORMATS[config.format](config, images=images)
