"""Demonstrations of imperfect behaviour: what the tokenizer is made from and what a new policy is primed on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass

import msgspec
from transformers import PreTrainedTokenizerBase

from phronesis.env import EnvSpec
from phronesis.envs.guard import validate_reply
from phronesis.errors import EnvFault
from phronesis.models.tokenizer import train_tokenizer
from phronesis.records import Conversation, Message
from phronesis.seeding import stream
from phronesis.train.config import RunConfig

SAMPLE = 1000
"""Conversations a tokenizer is made from."""
OPENINGS = 200
"""Opening prompts it is made from when nothing is demonstrated."""


@dataclass(frozen=True)
class Demonstrations:
    """Conversations for priming, or, where the environment shows none, opening prompts alone."""

    conversations: list[Conversation]
    """What is learned; empty without priming."""
    openings: list[Conversation]
    """What an episode begins with, when nothing is demonstrated."""


async def demonstrations(spec: EnvSpec, config: RunConfig) -> Demonstrations:
    """The run's demonstrations, or a sample of openings when it is not primed.

    Raises:
        EnvFault: the environment raised, hung or broke its contract; training cannot begin without it.
    """
    prime, patience = config.prime, config.limits.env_seconds
    if prime is None or spec.demonstrate is None:
        opened = [await _made(spec, "opening", i, _opening(spec, config.seed, i), patience) for i in range(OPENINGS)]
        return Demonstrations([], opened)
    show = spec.demonstrate
    shown = [
        await _made(spec, "demonstration", i, show(i, stream(config.seed, "demonstration", i)), patience)
        for i in range(prime.demonstrations)
    ]
    return Demonstrations(shown if prime.think else [without_thoughts(c) for c in shown], [])


def without_thoughts(conversation: Conversation) -> Conversation:
    """The same conversation with every think block removed."""
    exchanges = tuple((msgspec.structs.replace(said, thought=None), heard) for said, heard in conversation.exchanges)
    return msgspec.structs.replace(conversation, exchanges=exchanges)


def make_tokenizer(shown: Demonstrations, vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer with a Qwen-style chat template, made from what will be said."""
    return train_tokenizer(_texts([*shown.conversations[:SAMPLE], *shown.openings]), vocab_size)


async def _made(spec: EnvSpec, what: str, index: int, made: Awaitable[Conversation], patience: float) -> Conversation:
    """What the environment makes, under a deadline; its failures named after it."""
    deadline = asyncio.timeout(patience)
    try:
        async with deadline:
            return await made
    except Exception as error:  # environments may raise anything
        late = isinstance(error, TimeoutError) and deadline.expired()
        why = f"no answer within {patience:g} s" if late else f"{type(error).__name__}: {error}"
        raise EnvFault(f"environment {spec.name!r} failed at {what} {index}: {why}") from error


async def _opening(spec: EnvSpec, seed: int, index: int) -> Conversation:
    task = spec.task("train", index % (spec.sizes["train"] or SAMPLE))
    env = spec.of(task).make()
    try:
        reply = validate_reply(await env.reset(task, stream(seed, "opening", index)), opening=True)
    finally:
        await env.close()
    return Conversation(opening=reply.messages, tools=reply.tools or (), exchanges=())


def _texts(conversations: list[Conversation]) -> Iterator[str]:
    for conversation in conversations:
        for message in conversation.opening:
            yield from _written(message)
        for said, heard in conversation.exchanges:
            for message in (said, *heard):
                yield from _written(message)
    for tool in {t.name: t for c in conversations for t in c.tools}.values():
        yield json.dumps(msgspec.to_builtins(tool))


def _written(message: Message) -> Iterator[str]:
    yield message.text
    if message.thought is not None:
        yield message.thought
    for call in message.tool_calls:
        yield json.dumps({"name": call.name, "arguments": call.arguments})
