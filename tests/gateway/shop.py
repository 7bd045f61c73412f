"""A shop in messages: a scripted policy that looks prices up, the tool it calls, and gateways over it."""

from __future__ import annotations

import json
from contextlib import contextmanager

from phronesis.chat.qwen import QwenFormat
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.gateway import Book, GatewayConfig, in_background
from phronesis.models.tokenizer import decode, train_tokenizer
from phronesis.records import Message, TextPart, ToolCall
from phronesis.rollout.limits import Limits
from phronesis.train.batching import verify

TEXTS = ["price of fig kiwi plum", '{"name": "look_up", "arguments": {"item": "fig"}}', "It costs 5.", "look it up"] * 3
TOKENIZER = train_tokenizer(TEXTS, 320)
CHAT = QwenFormat(TOKENIZER)
PRICES = {"fig": "5", "kiwi": "7", "plum": "9"}
LOOK_UP = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "The price of an item.",
        "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
    },
}


def text(ids):
    return decode(TOKENIZER, ids)


def says(message):
    """The ids with which a policy says a message."""
    return CHAT.render(message)


def said(words, thought=None):
    return Message(role="assistant", content=(TextPart(text=words),) if words else (), thought=thought)


def calls(name="look_up", thought="look it up", **arguments):
    call = ToolCall(id="call_0_0", name=name, arguments=arguments)
    return Message(role="assistant", thought=thought, tool_calls=(call,))


def shopkeeper(prompt):
    """Looks up the item asked for last; then says the price it was told."""
    conversation = text(prompt)
    last = conversation.split("<|im_start|>")[-2]
    if "<tool_response>" in last:
        return says(said(f"It costs {last.split('<tool_response>')[1].split('<')[0].strip()}."))
    asked = [item for item in PRICES if item in last]
    return says(calls(item=asked[-1])) if asked else says(said("hello"))


def make_book(replies=shopkeeper, *, delay=0.0, limits=None, sink=None, policy=None, sampling=None, **config):
    played = [] if sink is None else sink
    book = Book(
        policy or ScriptedPolicy(replies, vocab_size=len(TOKENIZER), delay=delay),
        CHAT,
        config=GatewayConfig(port=0, **config),
        limits=limits or Limits(),
        sampling=sampling,
        on_episode=played.append,
        text=text,
    )
    book.played = played
    return book


@contextmanager
def gateway(replies=shopkeeper, *, token=None, **options):
    """A running gateway: its address and its book; finished episodes are in `book.played`."""
    with in_background(lambda: make_book(replies, **options), token) as served:
        yield served


def prove(episode):
    """The batch builder's proof that the tokens are those the policy consumed and sampled."""
    verify(episode, tuple((1.0,) * len(t.completion) for t in episode.turns))
    return episode


def run_tool(name, arguments):
    return PRICES[arguments["item"]] if isinstance(arguments, dict) else PRICES[json.loads(arguments)["item"]]
