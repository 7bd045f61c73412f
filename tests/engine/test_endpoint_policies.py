"""What a policy behind an endpoint sends, keeps and counts.

Pinned: the request of each format; keys come from the environment, go to nobody they are not meant for and never show;
prices; rate limits in any minute; signed thoughts go back word for word.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Said, events, serving

from phronesis.chat.wire.exchange import ChatRequest
from phronesis.engine.anthropic import AnthropicPolicy
from phronesis.engine.endpoint import EndpointConfig, Price
from phronesis.engine.endpoints import connect, parse
from phronesis.engine.http import HttpLimits
from phronesis.engine.openai import OpenAIPolicy
from phronesis.engine.pace import WINDOW, Pace
from phronesis.errors import ConfigError, EndpointFault, PolicyFault
from phronesis.policy import Chats, Policy, SamplingParams
from phronesis.records import Finish, Message, TextPart, ToolCall, ToolSpec, Usage, say

ASK = (say("user", "2+3?"),)
ADD = ToolSpec(name="add", description="Adds.", parameters={"type": "object", "properties": {}})
PARAMS = SamplingParams(max_tokens=9, temperature=0.5, seed=2**62 + 5)
ONCE = HttpLimits(attempts=1)
OPENAI: dict[str, Any] = {
    "id": "c", "model": "m-2", "choices": [{"message": {"content": "5"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 1},
}  # fmt: skip
SIGNED = [{"type": "thinking", "thinking": "sum", "signature": "sig"}, {"type": "redacted_thinking", "data": "opaque"}]
TOOL_USE = {"type": "tool_use", "id": "t1", "name": "add", "input": {}}
ANTHROPIC: dict[str, Any] = {
    "id": "m", "model": "m-2", "type": "message", "role": "assistant", "stop_reason": "tool_use",
    "content": [*SIGNED, {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 2}}],
    "usage": {"input_tokens": 8, "output_tokens": 1},
}  # fmt: skip


async def test_what_an_openai_endpoint_is_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEY", " sk-1 ")
    async with serving([Said(body=OPENAI)]) as server:
        body = {"top_k": -1, "chat_template_kwargs": {"enable_thinking": False}}
        config = EndpointConfig(
            model="m", url=server.url, key_env="KEY", body=body, omit=("top_p",), headers={"x-org": "o"}, effort="low"
        )
        policy = OpenAIPolicy(config)
        answer = await policy.chat(ASK, (ADD,), PARAMS)
    heard = server.heard[0]
    assert (heard.path, heard.headers["authorization"], heard.headers["x-org"]) == ("/v1/chat/completions", "Bearer sk-1", "o")
    assert heard.body == {
        "model": "m", "messages": [{"role": "user", "content": "2+3?"}], "max_tokens": 9, "temperature": 0.5, "seed": 5,
        "reasoning_effort": "low", "top_k": -1, "chat_template_kwargs": {"enable_thinking": False},
        "tools": [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": ADD.parameters}}],
    }  # fmt: skip
    assert (answer.message, answer.finish, answer.model) == (say("assistant", "5"), Finish.stop, "m-2")
    assert isinstance(policy, Chats) and not isinstance(policy, Policy)


async def test_past_thoughts_are_sent_only_when_asked_for():
    past = (*ASK, Message(role="assistant", thought="sum", content=(TextPart(text="5"),)), say("user", "sure?"))
    async with serving([Said(body=OPENAI)]) as server:
        for send in (False, True):
            await OpenAIPolicy(EndpointConfig(model="m", url=server.url, send_thoughts=send)).chat(past, (), PARAMS)
    assert [h.body["messages"][1].get("reasoning_content") for h in server.heard] == [None, "sum"]


@pytest.mark.parametrize("stream", [False, True])
async def test_signed_thoughts_go_back_word_for_word_even_when_call_ids_change(stream: bool):
    sse = events(
        {"type": "message_start", "message": {"id": "m", "model": "m-2", "usage": {"input_tokens": 8, "output_tokens": 0}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "sum"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "sig"}},
        {"type": "content_block_start", "index": 1, "content_block": SIGNED[1]},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "t1", "name": "add", "input": {}},
        },
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a": 2}'}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    )
    async with serving([sse if stream else Said(body=ANTHROPIC)]) as server:
        policy = AnthropicPolicy(EndpointConfig(format="anthropic", model="m", url=server.url, stream=stream))
        answer = await policy.chat(ASK, (ADD,), PARAMS)
        renamed = Message(
            role="assistant", thought=answer.message.thought, tool_calls=(ToolCall(id="mine", name="add", arguments={"a": 2}),)
        )
        result = Message(role="tool", content=(TextPart(text="5"),), tool_call_id="mine", name="add")
        await policy.chat((*ASK, renamed, result), (ADD,), PARAMS)
    first, second = (h.body for h in server.heard)
    assert server.heard[0].path == "/v1/messages" and server.heard[0].headers["anthropic-version"] == "2023-06-01"
    assert "top_p" not in first and "seed" not in first and first["max_tokens"] == 9
    assert second["messages"][1]["content"] == [*SIGNED, {"type": "tool_use", "id": "mine", "name": "add", "input": {"a": 2}}]
    assert answer.usage == Usage(input_tokens=8, output_tokens=1)


def test_keys_go_only_where_they_are_meant_to_go(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-own")
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)

    def headers(**settings: str) -> dict[str, str]:
        policy = OpenAIPolicy(EndpointConfig(model="m", **settings))  # type: ignore[arg-type]
        return policy.client._headers  # pyright: ignore[reportPrivateUsage]

    assert headers() == {"authorization": "Bearer sk-own"}
    assert headers(url="https://example.org/v1") == {}
    assert headers(url="https://example.org/v1", key_env="OPENAI_API_KEY") == {"authorization": "Bearer sk-own"}
    with pytest.raises(ConfigError, match="no key in the environment variable 'ANTHROPIC_API_KEY'"):
        AnthropicPolicy(EndpointConfig(format="anthropic", model="m"))


async def test_a_key_an_endpoint_repeats_never_shows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEY", "sk-hidden")
    async with serving([Said(401, {"error": "Incorrect API key provided: sk-hidden"})]) as server:
        policy = OpenAIPolicy(EndpointConfig(model="m", url=server.url, key_env="KEY"))
        with pytest.raises(EndpointFault, match=r"Incorrect API key provided: \*\*\*.*check the API key") as caught:
            await policy.chat(ASK, (), PARAMS)
    assert "sk-hidden" not in repr(caught.value) + repr(policy.config)


@pytest.mark.parametrize(
    ("prices", "cost"),
    [
        ({"m-2": Price(input=2.0, output=10.0)}, 26e-6),
        ({"m": Price(input=2.0, output=10.0)}, 26e-6),
        ({"any": Price(input=1.0, output=0.0), "m-2": Price(input=2.0, output=10.0)}, 26e-6),
        ({"other": Price(input=2.0, output=10.0)}, None),
    ],
)
async def test_the_price_is_that_of_the_model_that_answered(prices: dict[str, Price], cost: float | None):
    async with serving([Said(body=OPENAI)]) as server:
        policy = OpenAIPolicy(EndpointConfig(model="m", url=server.url, prices=prices))
        spent = [(await policy.chat(ASK, (), PARAMS)).usage.cost for _ in range(2)]
    assert spent == [pytest.approx(cost)] * 2
    assert policy.account.answers == 2 and policy.account.usage.cost == (None if cost is None else pytest.approx(2 * cost))


def test_cached_and_written_tokens_have_prices_of_their_own():
    usage = Usage(input_tokens=1000, cached_tokens=600, written_tokens=100, output_tokens=50)
    assert Price(input=3.0, output=15.0, cached=0.3, written=3.75).of(usage) == pytest.approx(
        (300 * 3.0 + 600 * 0.3 + 100 * 3.75 + 50 * 15.0) / 1e6
    )
    assert Price(input=3.0, output=15.0).of(usage) == pytest.approx((1000 * 3.0 + 50 * 15.0) / 1e6)
    with pytest.raises(ConfigError, match="price output must be at least 0"):
        Price(input=1.0, output=-1.0)


class Clock:
    """Time that passes by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@given(
    st.lists(st.tuples(st.floats(0, 40), st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=30),
    st.none() | st.integers(1, 5),
    st.none() | st.integers(50, 500),
)
def test_no_minute_holds_more_than_allowed(asked: list[tuple[float, int, int]], requests: int | None, tokens: int | None):
    clock, passed = Clock(), list[tuple[float, int]]()
    pace = Pace(requests=requests, tokens=tokens, clock=clock, sleep=clock.sleep)

    async def all_of_them() -> None:
        for pause, expected, really in asked:
            clock.now += pause
            entered = await pace.enter(expected)
            pace.settle(entered, min(expected, really))
            passed.append((clock.now, min(expected, really)))

    asyncio.run(all_of_them())
    for at, _ in passed:
        window = [n for t, n in passed if at <= t < at + WINDOW - 1e-5]
        assert requests is None or len(window) <= requests
        assert tokens is None or sum(window) <= tokens or len(window) == 1


async def test_a_request_waits_for_its_turn_and_retries_count_too():
    clock = Clock()
    async with serving([Said(500), Said(body=OPENAI)]) as server:
        config = EndpointConfig(model="m", url=server.url, http=HttpLimits(first_wait=0.0))
        policy = OpenAIPolicy(config, pace=Pace(requests=1, tokens=None, clock=clock, sleep=clock.sleep))
        await policy.chat(ASK, (), PARAMS)
        await policy.chat(ASK, (), PARAMS)
    assert len(server.heard) == 3 and clock.now == pytest.approx(2 * WINDOW) == policy.pace.waited


async def test_tokens_are_estimated_first_and_put_right_by_the_answer():
    clock = Clock()
    async with serving([Said(body=OPENAI)]) as server:
        pace = Pace(requests=None, tokens=30, clock=clock, sleep=clock.sleep)
        policy = OpenAIPolicy(EndpointConfig(model="m", url=server.url), pace=pace)
        for _ in range(3):  # estimated at 10 each, took 9: the third fits beside two settled ones
            await policy.chat(ASK, (), PARAMS)
    assert clock.now == 0.0


async def test_a_withdrawn_answer_and_a_malformed_one_are_faults():
    async with serving([Said(body={"choices": [{"message": {"content": ""}, "finish_reason": "abort"}]})]) as server:
        policy = OpenAIPolicy(EndpointConfig(model="m", url=server.url, http=ONCE))
        with pytest.raises(Exception, match="withdrew its answer"):
            await policy.chat(ASK, (), PARAMS)
        server.script = [Said(body={"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]})]
        with pytest.raises(EndpointFault, match=r"choices\[0\]\.message\.content: expected a text"):
            await policy.chat(ASK, (), PARAMS)


@pytest.mark.parametrize(
    ("text", "format", "model", "url"),
    [
        ("openai:qwen3-4b@http://h:1/v1", "openai", "qwen3-4b", "http://h:1/v1"),
        ("openai:ft:gpt:x", "openai", "ft:gpt:x", ""),
        ("anthropic:claude@2024@https://h/v1", "anthropic", "claude@2024", "https://h/v1"),
        ("anthropic:claude@2024", "anthropic", "claude@2024", ""),
    ],
)
def test_endpoints_by_name(text: str, format: str, model: str, url: str):
    config = parse(text)
    assert config is not None and (config.format, config.model, config.url) == (format, model, url)


def test_what_is_no_endpoint_is_none():
    assert parse("runs/openai") is None and parse("openai") is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": ""}, "endpoint.model is empty"),
        ({"requests_per_minute": 0.5}, "requests_per_minute must be at least 1"),
        ({"headers": {"X-Api-Key": "k"}}, "headers holds 'X-Api-Key'"),
        ({"url": "nowhere"}, "no address"),
        ({"http": HttpLimits(attempts=0)}, "endpoint.http.attempts must be positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        connect(EndpointConfig(**({"model": "m", "url": "http://127.0.0.1:1/v1"} | settings)))


def test_settings_hold_nothing_secret():
    assert "key" not in json.dumps(dict.fromkeys(EndpointConfig.__struct_fields__, 0)).replace("key_env", "")


def test_the_provider_itself_is_told_the_limit_under_its_newer_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-own")
    request = ChatRequest(model="m", messages=ASK, max_tokens=9)
    own, other = OpenAIPolicy(EndpointConfig(model="m")), OpenAIPolicy(EndpointConfig(model="m", url="http://127.0.0.1:1/v1"))
    assert own.write(request)["max_completion_tokens"] == 9 and "max_tokens" not in own.write(request)
    assert other.write(request)["max_tokens"] == 9 and "max_completion_tokens" not in other.write(request)


async def test_what_a_responses_endpoint_is_sent():
    body = {"id": "r", "model": "m-2", "status": "completed", "output": [{"type": "message", "content": "5"}]}
    async with serving([Said(body=body)]) as server:
        policy = connect(EndpointConfig(format="responses", model="m", url=server.url, effort="low"))
        answer = await policy.chat(ASK, (), PARAMS)
    assert server.heard[0].path == "/v1/responses" and answer.message == say("assistant", "5")
    assert server.heard[0].body == {
        "model": "m", "store": False, "max_output_tokens": 9, "temperature": 0.5, "top_p": 1.0, "reasoning": {"effort": "low"},
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "2+3?"}]}],
    }  # fmt: skip


async def test_a_text_that_is_no_unicode_is_a_fault_of_its_own():
    async with serving([Said(body=OPENAI)]) as server:
        policy = OpenAIPolicy(EndpointConfig(model="m", url=server.url))
        with pytest.raises(PolicyFault, match="cannot be sent"):
            await policy.chat((say("user", "\ud800"),), (), PARAMS)
    assert server.heard == []
