from __future__ import annotations

import gc
import threading
import weakref

import pytest

from phronesis.records import Message, ToolCall, Turn, say
from phronesis.rollout import pauses
from phronesis.rollout.pauses import YOUNG, short_pauses


def test_what_was_there_is_set_aside_and_given_back():
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with pytest.raises(KeyError), short_pauses():
        assert gc.get_threshold()[0] == YOUNG and gc.get_freeze_count() > 10_000
        raise KeyError
    assert gc.get_threshold() == before and gc.get_freeze_count() == frozen


def test_runs_in_two_threads_give_back_what_was_before_the_first():
    before = gc.get_threshold()
    entered, leave = threading.Event(), threading.Event()

    def other():
        with short_pauses():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with short_pauses():
        thread.start()
        assert entered.wait(60)
    assert gc.get_freeze_count() > 10_000 and gc.get_threshold()[0] == YOUNG, "the other run is still under way"
    leave.set()
    thread.join()
    assert gc.get_threshold() == before and gc.get_freeze_count() == 0


def test_what_the_program_around_has_set_stays():
    before = gc.get_threshold()
    try:
        gc.freeze()
        frozen = gc.get_freeze_count()
        gc.set_threshold(0, 7, 8)
        with short_pauses():
            assert gc.get_threshold() == (0, 7, 8), "never collecting is never collecting"
        assert gc.get_freeze_count() >= frozen - 1000, "what somebody else set aside stays aside"
        gc.set_threshold(50_000, 10, 10)
        with short_pauses():
            assert gc.get_threshold()[0] == 50_000
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def test_records_of_play_are_not_the_collectors_business():
    call = Message(role="assistant", tool_calls=(ToolCall(id="a", name="b", arguments={}),))
    for record in (say("user", "x"), call, call.tool_calls[0]):
        assert not gc.is_tracked(record)
    assert Turn.__struct_config__.gc is False


def test_what_old_objects_hold_together_is_found_by_tidy_and_seldom(monkeypatch):
    """Cycles that have become old are freed between steps, at most every ten seconds, and only while a run is under way."""
    now = [100.0]
    monkeypatch.setattr(pauses.time, "monotonic", lambda: now[0])

    class Knot:
        pass

    def aged() -> weakref.ref[Knot]:
        knot = Knot()
        knot.itself = knot
        seen = weakref.ref(knot)
        for _ in range(2):
            gc.collect(1)  # while it is alive, so that it becomes old
        return seen

    pauses.tidy()  # nothing is under way: nothing happens
    with short_pauses():
        seen = aged()
        gc.collect(1)
        assert seen() is not None, "only a full collection finds it"
        pauses.tidy()
        assert seen() is not None, "too soon"
        now[0] += pauses.SELDOM
        pauses.tidy()
        assert seen() is None
