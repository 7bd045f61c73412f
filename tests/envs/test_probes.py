"""Pins: what each probe pays and for what."""

from __future__ import annotations

import pytest
from env_scripts import act, call, play, texts

from phronesis.envs import probes
from phronesis.errors import ConfigError
from phronesis.records import say


def values(spec, index, conversations):
    return [play(spec, [say("assistant", t) for t in texts_], index)[1].value for texts_ in conversations]


def test_bandit_pays_per_arm():
    spec = probes.bandit()
    assert values(spec, 0, [["a"], ["b"], ["c"], ["d"], ["e"], [" b "]]) == [0.2, 1.0, 0.4, 0.0, 0.0, 1.0]
    assert spec.chance_reward == pytest.approx(0.4)
    played, _ = play(spec, [say("assistant", "bb")])
    assert played.episode.errors == ("no_letter",)


def test_copy_depends_on_the_prompt():
    spec = probes.copy(letters=3)
    assert [spec.task("train", i).messages[0].text for i in range(3)] == ["Say a.", "Say b.", "Say c."]
    assert values(spec, 2, [["c"], ["a"]]) == [1.0, 0.0]


def test_memory_asks_a_turn_later():
    spec = probes.memory()
    assert values(spec, 1, [["b", "b"], ["ok", "b"], ["b", "a"], ["b"]]) == [1.0, 1.0, 0.0, 0.0]


def test_recovery_pays_only_for_the_answer():
    spec = probes.recovery(busy=2)
    look = act(call("look"))
    played, reward = play(spec, [look, look, look, say("assistant", "c")], index=2)
    assert [texts(r) for r in played.replies] == [["busy"], ["busy"], ["c"], []]
    assert reward.by_turn(4) == (0.0, 0.0, 0.0, 1.0)
    assert [r.state_key for r in played.replies] == ["c/1/False", "c/0/False", "c/0/True", "end"]
    assert play(spec, [look, say("assistant", "a")], index=2)[1].value == 0.0


def test_out_of_range_is_refused():
    for bad in (lambda: probes.copy(1), lambda: probes.memory(9), lambda: probes.recovery(busy=-1)):
        with pytest.raises(ConfigError):
            bad()
