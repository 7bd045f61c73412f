"""Pins: mistakes with tools come back to the policy and are counted; real bugs pass through."""

from __future__ import annotations

import msgspec
import pytest
from env_scripts import act, call, play, texts

from phronesis.envs.from_tools import from_tools
from phronesis.errors import ToolError
from phronesis.records import say
from phronesis.rewards import FunctionRubric
from phronesis.tool import tool


@tool(effect="pure")
def look(place: str, times: int = 1) -> str:
    """Looks somewhere.

    Args:
        place: where.
        times: how often.
    """
    if place == "nowhere":
        raise ToolError("there is no such place")
    if place == "bug":
        raise KeyError("bug in the tool")
    return f"saw {place}" * times


@tool(effect="irreversible")
def burn() -> None:
    """Burns everything."""


SPEC = from_tools("look", [look, burn], FunctionRubric(lambda e: 1.0), [{"prompt": "Look around."}])


@pytest.mark.parametrize(
    ("bad", "kind", "text"),
    [
        (call("fly"), "unknown_tool", "error: there is no tool 'fly'; tools: look, burn"),
        (
            call("look", error="Expecting value: line 1"),
            "malformed_call",
            "error: the call could not be read: Expecting value: line 1",
        ),
        (call("look"), "missing_argument", "error: look needs the argument 'place'"),
        (
            call("look", {"place": 3}),
            "bad_argument",
            "error: argument 'place': Expected `str`, got `int`; got 3",
        ),
        (
            call("look", {"place": "x", "deep": 1}),
            "unknown_argument",
            "error: look has no argument 'deep'; it takes: place, times",
        ),
        (call("look", {"place": "nowhere"}), "tool_raised", "error: there is no such place"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_counted_and_recoverable(bad, kind, text):
    played, _ = play(SPEC, [act(bad), act(call("look", {"place": "sea"})), say("assistant", "done")])
    first, second, last = played.replies
    assert (texts(first), first.errors, first.done) == ([text], (kind,), False)
    assert first.messages[0].tool_call_id == bad.id
    assert (texts(second), second.errors, second.effect) == (["saw sea"], (), "pure")
    assert last.done
    assert played.episode.errors == (kind,)


def test_parallel_calls_are_answered_in_order_and_a_mistake_spoils_only_itself():
    message = act(call("look", {"place": "a"}, 0), call("fly", {}, 1), call("burn", {}, 2), call("look", {"place": "b"}, 3))
    played, _ = play(SPEC, [message])
    (reply,) = played.replies
    assert texts(reply) == ["saw a", "error: there is no tool 'fly'; tools: look, burn", "null", "saw b"]
    assert [m.tool_call_id for m in reply.messages] == ["call_0", "call_1", "call_2", "call_3"]
    assert [m.name for m in reply.messages] == ["look", "fly", "burn", "look"]
    assert reply.errors == ("unknown_tool",)
    assert reply.effect == "irreversible"


def test_a_flood_of_calls_is_refused_after_sixteen():
    played, _ = play(SPEC, [act(*(call("look", {"place": "a"}, i) for i in range(20)))])
    (reply,) = played.replies
    assert reply.errors == ("too_many_calls",) * 4
    assert len(reply.messages) == 20


def test_arguments_that_are_no_object_are_a_malformed_call():
    broken = msgspec.structs.replace(call("look"), arguments=["place"])
    played, _ = play(SPEC, [act(broken)])
    assert played.replies[0].errors == ("malformed_call",)


def test_a_bug_in_a_tool_is_not_a_lesson():
    with pytest.raises(KeyError, match="bug in the tool"):
        play(SPEC, [act(call("look", {"place": "bug"}))])


def test_a_message_without_calls_ends_the_episode_or_gets_a_reminder():
    played, reward = play(SPEC, [say("assistant", "It is blue.")])
    assert (played.replies[0].done, reward.value) == (True, 1.0)
    patient = from_tools("look", [look], FunctionRubric(lambda e: 1.0), [{"prompt": "Look."}], no_call="remind")
    played, _ = play(patient, [say("assistant", "hm"), act(call("look", {"place": "x"}))])
    first, second = played.replies
    assert (texts(first), first.errors, first.done) == (["Call one of the tools: look."], ("no_call",), False)
    assert texts(second) == ["saw x"]
