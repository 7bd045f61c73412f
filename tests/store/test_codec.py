import json
import math
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from store_samples import episode, episodes, same

from phronesis.records import Component, Finish, Reply, Reward, Stop, Task, Turn, say
from phronesis.store import codec


@given(episodes)
def test_round_trip_is_exact(original: object):
    line = codec.encode(original)  # pyright: ignore
    assert b"\n" not in line
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    decoded = codec.decode(line)
    assert decoded.substitutions == ()
    assert same(decoded.episode, original)


def test_none_is_not_zero_and_zero_keeps_its_sign():
    unscored = Reward(
        components=(Component(name="a", score=None), Component(name="b", score=0.0), Component(name="c", score=-0.0))
    )
    again = codec.decode(codec.encode(msgspec.structs.replace(episode(), reward=unscored))).episode
    assert again.reward is not None
    scores = [c.score for c in again.reward.components]
    assert scores[0] is None
    assert [math.copysign(1, s) for s in scores[1:] if s is not None] == [1.0, -1.0]
    assert codec.decode(codec.encode(episode(reward=None))).episode.reward is None


def test_ordinary_episodes_are_not_marked_and_impossible_tokens_are():
    assert codec.encode(episode()).startswith(b'{"id":"train-0"')
    turn = msgspec.structs.replace(episode().turns[0], logprobs=(-math.inf, -0.5))
    line = codec.encode(msgspec.structs.replace(episode(), turns=(turn,)))
    assert line.startswith(b'{"$marked":true,"id":"train-0"')
    assert json.loads(line)["turns"][0]["logprobs"] == [{"$float": "-inf"}, -0.5]


def test_objects_that_are_not_json_are_kept_as_text_rather_than_lost():
    payload = {"when": Decimal("1.5"), "bytes": b"\x00", "pair": {3, }, "fine": 1}  # fmt: skip
    task = Task(id="t", env="e", payload=payload)
    again = codec.decode(codec.encode(msgspec.structs.replace(episode(), task=task))).episode
    assert again.task.payload == {"when": "Decimal('1.5')", "bytes": "b'\\x00'", "pair": "{3}", "fine": 1}


def newer(**changes: object) -> bytes:
    """The line a newer version might write."""
    table = json.loads(codec.encode(episode()))
    return json.dumps(table | changes).encode()


def test_fields_of_a_newer_version_are_ignored():
    table = json.loads(codec.encode(episode()))
    table["mood"] = {"deep": [1]}
    table["turns"][0]["hidden_state"] = "abc"
    table["task"]["licence"] = None
    decoded = codec.decode(json.dumps(table).encode())
    assert decoded.episode == episode() and decoded.substitutions == ()


def test_words_of_a_newer_version_are_replaced_cautiously_and_reported():
    decoded = codec.decode(newer(stop="out_of_money"))
    assert decoded.episode.stop is Stop.cancelled and decoded.episode.stop.is_fault
    assert decoded.episode.failure is not None and decoded.episode.failure.kind == "UnknownStop"
    assert decoded.substitutions == ("stop 'out_of_money' is not known to this version; read as 'cancelled'",)
    assert decoded.episode.turns == episode().turns

    table = json.loads(codec.encode(episode()))
    turn = table["turns"][0]
    turn["finish"] = "tool_break"
    turn["spans"] = [{"kind": "dream", "start": 0, "end": 2}]
    turn["action"] = {"role": "critic", "content": [{"type": "audio", "seconds": 3}, {"type": "text", "text": "hi"}]}
    turn["reply"] = {"messages": [], "stop": "bored", "effect": "quantum", "reward": 0.5}
    decoded = codec.decode(json.dumps(table).encode())
    read = decoded.episode.turns[0]
    assert read.finish is Finish.cancelled
    assert read.spans[0].kind == "scaffold"
    assert read.action is not None and read.action.role == "user"
    assert read.action.text == "[audio part written by a newer version]hi"
    assert read.reply == Reply(reward=0.5)
    assert len(decoded.substitutions) == 6
    assert all("not known to this version" in note for note in decoded.substitutions)


def test_an_older_version_knew_fewer_fields():
    line = b"""{"id": "train-1", "task": {"id": "t", "env": "ledger"}, "seed": 3, "stop": "completed",
      "turns": [{"parent": null, "context": [1], "completion": [2], "sampled": [true], "logprobs": [-0.5],
                 "finish": "stop", "prompt_crc": 5}]}"""
    turn = Turn(parent=None, context=(1,), completion=(2,), sampled=(True,), logprobs=(-0.5,), finish=Finish.stop, prompt_crc=5)
    read = codec.decode(line).episode
    assert read.turns == (turn,) and read.reward is None and read.step is None


@pytest.mark.parametrize(
    "line", [b"", b"nonsense", b"[]", b"3", b"{}", b'{"$marked":true,}', b'{"$marked":true,"task":{}}', b"\xff"]
)
def test_lines_that_are_no_episodes(line: bytes):
    with pytest.raises(codec.Unreadable):
        codec.decode(line)


def test_text_that_looks_like_a_mark_stays_text():
    opening = (say("user", '{"$float": "nan"}'), say("user", "$marked"))
    original = msgspec.structs.replace(episode(), opening=opening, task=Task(id="$float", env="e", payload={"$float": "nan"}))
    assert codec.decode(codec.encode(original)).episode == original
    unusual = msgspec.structs.replace(original, seconds=math.inf)
    assert codec.decode(codec.encode(unusual)).episode == unusual
