"""Calls of tools on the real vLLM server: through our gateway by ids, and through the server's own chat route and parser.

A small model learns two conversations by heart, so that greedily it does call the tool and then says what it was told.
"""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import httpx
import openai
import pytest
from vllm_worlds import PYTHON, off, settings

from phronesis.chat.qwen import QwenFormat
from phronesis.data.traces import encode_all
from phronesis.engine.embedded import EmbeddedEngine
from phronesis.engine.endpoint import EndpointConfig
from phronesis.engine.endpoints import connect
from phronesis.engine.vllm.fleet import Fleet
from phronesis.gateway import Book, GatewayConfig, in_background
from phronesis.models.tiny import TinyModel, tiny
from phronesis.models.tokenizer import decode, train_tokenizer
from phronesis.policy import SamplingParams
from phronesis.records import Conversation, Message, TextPart, ToolCall, ToolSpec, say
from phronesis.rollout.limits import Sampling
from phronesis.train.batching import verify
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.seat import served
from phronesis.train.supervised import SupervisedConfig, fit

PRICES = {"fig": "5", "kiwi": "7"}
LOOK_UP = ToolSpec(
    name="look_up",
    description="The price of an item.",
    parameters={"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
)
AS_OPENAI = {
    "type": "function",
    "function": {"name": LOOK_UP.name, "description": LOOK_UP.description, "parameters": LOOK_UP.parameters},
}


def result(call_id: str, item: str) -> Message:
    """What the tool says."""
    return Message(role="tool", content=(TextPart(text=PRICES[item]),), tool_call_id=call_id, name="look_up")


def conversation(item: str) -> Conversation:
    """The question, the call, its result, and the answer."""
    call = ToolCall(id="call_0_0", name="look_up", arguments={"item": item})
    return Conversation(
        opening=(say("user", f"price of {item}"),),
        tools=(LOOK_UP,),
        exchanges=(
            (Message(role="assistant", tool_calls=(call,)), (result("call_0_0", item),)),
            (say("assistant", f"It costs {PRICES[item]}."), ()),
        ),
    )


def texts() -> list[str]:
    """What the tokenizer is trained on: the conversations as a template writes them, so that they come out short."""
    tokenizer = train_tokenizer(["a"], 300)
    rendered = [QwenFormat(tokenizer).open(conversation(item).opening, (LOOK_UP,)) for item in PRICES]
    answers = ['{"name": "look_up", "arguments": {"item": "fig"}}', "It costs 5.", "It costs 7.", "kiwi"]
    return [decode(tokenizer, ids) for ids in rendered] * 3 + answers * 3


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory):
    """A model that knows both conversations by heart, on a server with a parser of calls."""
    if not PYTHON.exists():
        pytest.skip(f"needs the vLLM environment {PYTHON.parent.parent}: make setup-vllm")
    tokenizer = train_tokenizer(texts(), 600)
    chat = QwenFormat(tokenizer)
    size = TinyModel(width=64, layers=2, heads=4, kv_heads=2, head_dim=32, mlp_width=128, max_positions=1024)
    decoder = tiny(size, len(tokenizer), 0)
    traces = encode_all([conversation(item) for item in PRICES], chat)
    learned = fit(decoder, traces, SupervisedConfig(epochs=120, optimizer=AdamWConfig(lr=3e-3), warmup=5))
    assert learned.accuracy == 1.0, "the conversations were not learned by heart"
    arguments = ("--max-model-len", "1024", "--enforce-eager", "--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    fleet = Fleet(settings(arguments=arguments), tmp_path_factory.mktemp("servers"))
    engine = served(fleet, tokenizer, decoder, 0)
    yield SimpleNamespace(tokenizer=tokenizer, chat=chat, decoder=decoder, engine=engine, fleet=fleet)
    asyncio.run(fleet.close())


def loop(client: openai.OpenAI, model: str, question: str, *, stream: bool) -> tuple[str, list[dict]]:
    """An agent as people write them; what it ends with, and what it called."""
    messages: list = [{"role": "user", "content": question}]
    called: list[dict] = []
    while len(called) < 3:
        asked = {"model": model, "messages": messages, "tools": [AS_OPENAI], "temperature": 0.0, "max_completion_tokens": 60}
        if stream:
            with client.chat.completions.stream(**asked) as events:
                for _ in events:
                    pass
                message = events.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(**asked).choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return message.content or "", called
        for call in message.tool_calls:
            arguments = json.loads(call.function.arguments)
            called.append({"name": call.function.name, **arguments})
            messages.append({"role": "tool", "tool_call_id": call.id, "content": PRICES[arguments["item"]]})
    return "", called


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_outside_plays_on_vllm_through_the_gateway(shop: SimpleNamespace, stream: bool):
    """Ids end to end: every log-probability of the record is that of our own decoder for the same ids."""
    played = []

    def book() -> Book:
        return Book(
            shop.engine,
            shop.chat,
            config=GatewayConfig(port=0),
            sampling=Sampling(temperature=0.0),
            on_episode=played.append,
            text=lambda ids: decode(shop.tokenizer, ids),
        )

    with in_background(book) as (address, _):
        for item in PRICES:
            episode = httpx.post(f"{address}/episodes", json={"task": item}).json()
            with openai.OpenAI(base_url=episode["base_url"], api_key="unused", timeout=300) as client:
                answer, called = loop(client, "any", f"price of {item}", stream=stream)
            assert (answer, called) == (f"It costs {PRICES[item]}.", [{"name": "look_up", "item": item}])
            end = httpx.post(f"{address}/episodes/{episode['id']}/finish", json={"reward": 1.0}).json()
            assert (end["roots"], end["requests"]) == (1, {"opened": 1, "extended": 1})
    here = EmbeddedEngine(shop.decoder)
    for record in played:
        verify(record, tuple((1.0,) * len(t.completion) for t in record.turns))
        for n, turn in enumerate(record.turns):
            forced = SamplingParams(max_tokens=len(turn.completion), forced=turn.completion, temperature=0.0)
            again = asyncio.run(here.sample(record.prompt(n), forced))
            assert off(turn.logprobs, again.logprobs) < 1e-3


@pytest.mark.parametrize("stream", [False, True])
def test_the_servers_own_chat_route_gives_calls_to_a_message_policy(shop: SimpleNamespace, stream: bool):
    async def play(item: str) -> tuple[Message, Message]:
        await shop.engine.sample((40, 41), SamplingParams(max_tokens=1))  # the server holds the weights from here on
        url = f"{shop.fleet.servers[0].url}/v1"
        async with httpx.AsyncClient() as client:
            model = (await client.get(f"{url}/models")).json()["data"][0]["id"]
        policy = connect(EndpointConfig(model=model, url=url, stream=stream, body={"top_k": -1}))
        opening = (say("user", f"price of {item}"),)
        params = SamplingParams(max_tokens=60, temperature=0.0)
        first = (await policy.chat(opening, (LOOK_UP,), params)).message
        told = result(first.tool_calls[0].id, item)
        second = (await policy.chat((*opening, first, told), (LOOK_UP,), params)).message
        return first, second

    for item, price in PRICES.items():
        first, second = asyncio.run(play(item))
        assert [(c.name, c.arguments, c.error) for c in first.tool_calls] == [("look_up", {"item": item}, None)]
        assert second.text == f"It costs {price}." and second.tool_calls == ()
