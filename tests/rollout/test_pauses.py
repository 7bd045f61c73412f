from __future__ import annotations

import gc

import pytest

from phronesis.records import Message, ToolCall, Turn, say
from phronesis.rollout.pauses import YOUNG, short_pauses


def test_what_was_there_is_set_aside_and_given_back():
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with pytest.raises(KeyError), short_pauses():
        assert gc.get_threshold()[0] == YOUNG and gc.get_freeze_count() > 10_000
        raise KeyError
    assert gc.get_threshold() == before and gc.get_freeze_count() == frozen


def test_records_of_play_are_not_the_collectors_business():
    call = Message(role="assistant", tool_calls=(ToolCall(id="a", name="b", arguments={}),))
    for record in (say("user", "x"), call, call.tool_calls[0]):
        assert not gc.is_tracked(record)
    assert Turn.__struct_config__.gc is False
