"""Our own message-only policies against our own gateway: what is evaluated over HTTP is what would be played in process.

Pinned: a token policy that plays `guess` perfectly earns the optimum, the same tokens are counted on both sides, and every
conversation the gateway saw is the one the session recorded, whatever the format and streamed or not.
"""

from __future__ import annotations

import asyncio
import re

import pytest

from phronesis.chat.qwen import QwenFormat
from phronesis.data.sources import SpecTasks
from phronesis.engine.endpoint import EndpointConfig, EndpointFormat, Price
from phronesis.engine.endpoints import connect
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.envs import registry
from phronesis.evals.run import evaluate
from phronesis.gateway import Book, GatewayConfig
from phronesis.gateway.serving import serving
from phronesis.models.tokenizer import decode, train_tokenizer
from phronesis.reason.react import ReAct
from phronesis.records import Message, ToolCall
from phronesis.rollout.limits import Limits
from phronesis.rollout.messages import message_stage
from phronesis.rollout.play import Stage

TOKENIZER = train_tokenizer(['{"name": "guess", "arguments": {"number": 4}}', "higher lower correct"] * 3, 320)
CHAT = QwenFormat(TOKENIZER)
SPEC = registry.get("guess", {})


def bisect(prompt: tuple[int, ...]) -> tuple[int, ...]:
    """The ids of the next guess, from the ids of the conversation alone."""
    said, low, high = decode(TOKENIZER, prompt), 0, 9
    pairs = zip(re.findall(r'"number": ?(\d+)', said), re.findall(r"<tool_response>\s*(\w+)", said), strict=False)
    for number, answer in pairs:
        low, high = (int(number) + 1, high) if answer == "higher" else (low, int(number) - 1)
    call = ToolCall(id="x", name="guess", arguments={"number": (low + high) // 2})
    return CHAT.render(Message(role="assistant", thought=f"from {low} to {high}", tool_calls=(call,)))


def scripted() -> ScriptedPolicy:
    return ScriptedPolicy(bisect, vocab_size=len(TOKENIZER))


async def evaluated(stage: Stage):
    return await evaluate(stage, SpecTasks(SPEC, "heldout", 0).draw(10), seed=0, name="e", concurrency=8)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("format", ["openai", "anthropic"])
def test_over_http_is_as_in_process(format: EndpointFormat, stream: bool):
    async def both():
        limits = Limits(max_turns=4)
        here = await evaluated(Stage(spec=SPEC, policy=scripted(), chat=CHAT, agent=ReAct(), limits=limits))
        book = Book(scripted(), CHAT, config=GatewayConfig(port=0))
        async with serving(book) as address:
            config = EndpointConfig(
                format=format, model="mine", url=f"{address}/v1", stream=stream, send_thoughts=True,
                prices={"any": Price(input=1.0, output=1.0)},
            )  # fmt: skip
            policy = connect(config)
            there = await evaluated(message_stage(SPEC, policy, ReAct(), limits=limits))
            await policy.close()
        return here, there, policy, book

    (here, mine), (there, theirs), policy, book = asyncio.run(both())
    assert here.mean_reward == there.mean_reward == pytest.approx(0.81) and there.faults == 0
    assert there.mean_tokens == here.mean_tokens and there.mean_turns == here.mean_turns
    for one, other in zip(mine, theirs, strict=True):
        for k, (a, b) in enumerate(zip(one.turns, other.turns, strict=True)):
            assert a.action is not None and b.action is not None and b.usage is not None
            assert (a.action.thought, a.action.text) == (b.action.thought, b.action.text)
            assert [(c.name, c.arguments) for c in a.action.tool_calls] == [(c.name, c.arguments) for c in b.action.tool_calls]
            assert b.usage.input_tokens == len(one.prompt(k)) and b.usage.output_tokens == len(a.completion)
    spent = sum(len(e.prompt(k)) + len(t.completion) for e in mine for k, t in enumerate(e.turns))
    assert policy.account.usage.cost == pytest.approx(spent / 1e6)
    assert policy.client.counts.attempts == 29 == book.counts["strays"]
