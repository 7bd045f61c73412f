"""Pins: garbage from an environment is an EnvFault that names the field; floods are cut and say so."""

from __future__ import annotations

import math

import pytest

from phronesis.envs.guard import MAX_MESSAGES, validate_reply
from phronesis.errors import EnvFault
from phronesis.records import ImagePart, Message, Reply, Stop, TextPart, ToolSpec, say

USER = (say("user", "hello"),)
TOOL = ToolSpec(name="a", description="d", parameters={"type": "object", "properties": {}})


@pytest.mark.parametrize(
    "reply",
    [
        Reply(messages=USER, tools=(TOOL,), reward=1, metrics={"x": 1.5}, errors=("e",), state_key="k"),
        Reply(done=True, stop=Stop.timeout),
        Reply(messages=(Message(role="user", content=(ImagePart(sha256="0", media_type="image/png"),)),)),
    ],
)
def test_a_good_reply_is_returned_as_it_is(reply):
    assert validate_reply(reply) is reply


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (None, "step returned 'NoneType', expected phronesis.records.Reply"),
        ("observation", "step returned 'str'"),
        (("obs", 0.0, True, {}), "step returned 'tuple'"),
        (Reply(messages=USER, reward=math.nan), "reward is nan"),
        (Reply(messages=USER, reward="1"), "reward is '1'"),
        (Reply(messages=USER, reward=True), "reward is True"),
        (Reply(messages=USER, done=1), "done is 1"),
        (Reply(messages=USER, stop=Stop.completed), "needs done"),
        (Reply(done=True, stop="completed?"), "stop is 'completed\\?'"),
        (Reply(messages=USER, state_key=3), "state_key is 3"),
        (Reply(messages=USER, errors="oops"), "errors is no tuple"),
        (Reply(messages=USER, metrics={"x": math.inf}), "metrics\\['x'\\] is inf"),
        (Reply(messages=USER, metrics=None), "metrics is 'NoneType'"),
        (Reply(messages=USER, tools=("a",)), "expected a tuple of ToolSpec"),
        (Reply(messages=USER, tools=(TOOL, TOOL)), "two tools share a name"),
        (Reply(), "neither done nor has a message"),
        (Reply(messages="hello"), "messages is 'str'"),
        (Reply(messages=("hello",)), "a message is 'str'"),
        (Reply(messages=(say("robot", "hello"),)), "role 'robot'"),
        (Reply(messages=(Message(role="user", content="hello"),)), "use say\\(role, text\\)"),
        (Reply(messages=(Message(role="user", content=("hello",)),)), "a message part is 'str'"),
        (Reply(messages=(Message(role="user", content=(TextPart(text=None),)),)), "a text part holds 'NoneType'"),
        (Reply(messages=(say("user", "\ud800"),)), "lone surrogate"),
        (Reply(messages=(Message(role="assistant", tool_calls=("x",)),)), "something else than ToolCall"),
        (Reply(messages=USER * (MAX_MESSAGES + 1)), "65 messages"),
    ],
)
def test_garbage_is_a_fault_that_names_what_is_wrong(reply, message):
    with pytest.raises(EnvFault, match=message):
        validate_reply(reply)


def test_the_opening_is_named():
    with pytest.raises(EnvFault, match="reset returned 'NoneType'"):
        validate_reply(None, opening=True)


def test_a_flood_is_cut_over_all_parts_and_says_so():
    parts = (TextPart(text="a" * 6), TextPart(text="b" * 6), TextPart(text="c" * 6))
    reply = validate_reply(Reply(messages=(say("user", "short"), Message(role="user", content=parts))), max_chars=8)
    assert reply.messages[0].text == "short"
    assert reply.messages[1].text == "aaaaaabb\n[10 characters cut]"
