"""Clients of other makes, unmodified but for the base URL: the `anthropic` SDK and a `pydantic_ai` agent."""

import asyncio
from contextlib import asynccontextmanager

import anthropic
import httpx
import openai
import pytest
from msgspec.structs import replace
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from shop import LOOK_UP, PRICES, calls, gateway, prove, run_tool, said, says, shopkeeper, text

from phronesis.records import say

TOOL = {
    "name": "look_up",
    "description": LOOK_UP["function"]["description"],
    "input_schema": LOOK_UP["function"]["parameters"],
}


def opened(address, **body):
    return httpx.post(f"{address}/episodes", json=body).raise_for_status().json()


def anthropic_loop(client, question, stream):
    """As people write them against Anthropic's API; reasoning blocks go back as they came."""
    messages = [{"role": "user", "content": question}]
    ask = {"model": "phronesis", "max_tokens": 64, "system": "You sell fruit.", "tools": [TOOL]}
    while True:
        if stream:
            with client.messages.stream(messages=messages, **ask) as events:
                answer = events.get_final_message()
        else:
            answer = client.messages.create(messages=messages, **ask)
        messages.append({"role": "assistant", "content": answer.content})
        used = [block for block in answer.content if block.type == "tool_use"]
        if answer.stop_reason != "tool_use":
            assert not used
            return "".join(block.text for block in answer.content if block.type == "text")
        results = [{"type": "tool_result", "tool_use_id": u.id, "content": run_tool(u.name, u.input)} for u in used]
        messages.append({"role": "user", "content": results})


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_sdk_plays_one_token_exact_line(stream):
    with gateway() as (address, book):
        episode = opened(address, task="kiwi")
        with anthropic.Anthropic(base_url=episode["anthropic_base_url"], api_key="unused") as client:
            assert anthropic_loop(client, "price of kiwi", stream) == "It costs 7."
        end = httpx.post(f"{address}/episodes/{episode['id']}/finish", json={"reward": 0.5}).json()
    assert (end["roots"], end["requests"], end["reward"]) == (1, {"opened": 1, "extended": 1}, 0.5)
    record = prove(book.played[0])
    assert [t.parent for t in record.turns] == [None, 0]
    assert record.turns[0].reply.messages[0].text == PRICES["kiwi"]


def test_anthropic_counts_tokens_and_gets_errors_in_its_own_format():
    asked = [{"role": "user", "content": "fig"}]
    with (
        gateway(any_model=False) as (address, book),
        anthropic.Anthropic(base_url=address, api_key="unused", max_retries=0) as client,
    ):
        counted = client.messages.count_tokens(model="phronesis", messages=asked)
        with pytest.raises(anthropic.NotFoundError, match="no model 'claude'"):
            client.messages.create(model="claude", max_tokens=5, messages=asked)
        with pytest.raises(anthropic.BadRequestError, match="must end with a message that the assistant answers"):
            prefill = [*asked, {"role": "assistant", "content": "It"}]
            client.messages.create(model="phronesis", max_tokens=5, messages=prefill)
    assert counted.input_tokens == len(book.chat.open([say("user", "fig")]))


@asynccontextmanager
async def framework(base_url):
    """A `pydantic_ai` agent with one tool."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key="unused") as client:
        model = OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=client))
        agent = Agent(model, instructions="You sell fruit.")

        @agent.tool_plain
        def look_up(item: str) -> str:
            """The price of an item."""
            return PRICES[item]

        yield agent


def test_pydantic_ai_agent_plays_one_token_exact_line():
    async def play(base_url):
        async with framework(base_url) as agent:
            first = await agent.run("price of plum")
            return first, await agent.run("price of fig", message_history=first.all_messages())

    with gateway() as (address, book):
        episode = opened(address, task="plum")
        first, more = asyncio.run(play(episode["base_url"]))
        assert (first.output, more.output) == ("It costs 9.", "It costs 5.")
        end = httpx.post(f"{address}/episodes/{episode['id']}/finish", json={"reward": 1.0}).json()
    assert (end["roots"], end["requests"]) == (1, {"opened": 1, "extended": 3})
    record = prove(book.played[0])
    assert [t.parent for t in record.turns] == [None, 0, 1, 2]
    assert "look it up" in text(record.prompt(3))


def test_pydantic_ai_streams():
    async def play(base_url):
        async with framework(base_url) as agent, agent.run_stream("price of plum") as streamed:
            return "".join([piece async for piece in streamed.stream_text(delta=True)])

    with gateway() as (address, book):
        episode = opened(address, task="plum")
        assert asyncio.run(play(episode["base_url"])) == "It costs 9."
        end = httpx.post(f"{address}/episodes/{episode['id']}/finish", json={"reward": 1.0}).json()
    assert end["requests"] == {"opened": 1, "extended": 1}
    prove(book.played[0])


def test_several_calls_in_one_message_are_answered_together():
    both = replace(calls(item="fig"), tool_calls=(*calls(item="fig").tool_calls, *calls(item="kiwi").tool_calls))

    def greedy(prompt):
        conversation = text(prompt)
        if conversation.count("<tool_response>") == 0:
            return says(both)
        return says(said("It costs 5.")) if conversation.count("<tool_response>") == 2 else shopkeeper(prompt)

    async def play(base_url):
        async with framework(base_url) as agent:
            return (await agent.run("price of both")).output

    with gateway(greedy) as (address, book):
        episode = opened(address, task="both")
        assert asyncio.run(play(episode["base_url"])) == "It costs 5."
        httpx.post(f"{address}/episodes/{episode['id']}/finish", json={"reward": 1.0}).raise_for_status()
    record = prove(book.played[0])
    assert [c.id for c in record.turns[0].action.tool_calls] == ["call_0_0", "call_0_1"]
    assert [m.text for m in record.turns[0].reply.messages] == ["5", "7"]
