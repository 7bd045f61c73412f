"""Pairs from files and groups, steps cut from pairs, and verified attempts as supervised examples."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from phronesis.chat.qwen import QwenFormat
from phronesis.data.preferences import Preference, best_against_worst, encode_pair, first_step, read_lines
from phronesis.data.rejection import rejection_sample, without_hint
from phronesis.data.traces import Trace, encode, played
from phronesis.errors import ConfigError
from phronesis.models.tokenizer import train_tokenizer
from phronesis.policy import prompt_crc
from phronesis.records import Component, Conversation, Episode, EpisodeGroup, Failure, Finish, Reward, Stop, Task, Turn, say

TASK = Task(id="t", env="toy")


def turn(parent: int | None, context: list[int], said: list[int], forced: tuple[int, ...] = ()) -> Turn:
    return Turn(
        parent=parent,
        context=tuple(context),
        completion=tuple(said),
        sampled=tuple(i not in forced for i in range(len(said))),
        logprobs=(-1.0,) * len(said),
        finish=Finish.stop,
        prompt_crc=prompt_crc(context),
    )


def episode(name: str, reward: float | None, *turns: Turn, stop: Stop = Stop.completed) -> Episode:
    scored = None if reward is None else Reward(components=(Component(name="r", score=reward),))
    failure = Failure(where="env.step", kind="E", message="") if stop.is_fault else None
    return Episode(id=name, task=TASK, seed=0, turns=turns, stop=stop, reward=scored, failure=failure)


def group(*episodes: Episode, task: Task = TASK) -> EpisodeGroup:
    return EpisodeGroup(id="g", task=task, episodes=episodes)


def trace(ids: list[int], marked: set[int]) -> Trace:
    return Trace(ids=tuple(ids), mask=tuple(i in marked for i in range(len(ids))))


def test_an_episode_as_traces_marks_every_sampled_token_once():
    chain = episode("a", 1.0, turn(None, [1, 2], [3, 4], forced=(1,)), turn(0, [5], [6]))
    assert played(chain) == [trace([1, 2, 3, 4, 5, 6], {2, 5})]
    forked = episode("b", 1.0, turn(None, [1], [2]), turn(0, [3], [4]), turn(0, [5], [6]))
    assert played(forked) == [trace([1, 2, 3, 4], {1, 3}), trace([1, 2, 5, 6], {3})]
    assert played(episode("c", 1.0, turn(None, [1], [2], forced=(0,)))) == []


def test_best_against_worst_and_why_groups_give_nothing():
    low, high = episode("low", 0.25, turn(None, [1], [2])), episode("high", 1.0, turn(None, [1], [3]))
    broken = episode("x", None, turn(None, [1], [9]), stop=Stop.env_fault)
    found = best_against_worst([group(low, broken, high, episode("also high", 1.0, turn(None, [1], [4])))])
    expected = Preference(chosen=(trace([1, 3], {1}),), rejected=(trace([1, 2], {1}),), chosen_value=1.0, rejected_value=0.25)
    assert found == ([expected], {})
    silent = episode("s", 0.0, turn(None, [1], [2], forced=(0,)))
    left = best_against_worst([group(low, broken), group(low, low), group(silent, high), group()]).left_out
    assert left == {"alone": 2, "tied": 1, "no_tokens": 1}


def test_first_step():
    chosen, rejected = trace([1, 2, 3, 4, 5, 6], {2, 3, 5}), trace([1, 2, 3, 7, 5, 8], {2, 3, 5})
    cut = first_step(Preference(chosen=(chosen,), rejected=(rejected,), chosen_value=0.5))
    assert cut == Preference(chosen=(trace([1, 2, 3, 4], {3}),), rejected=(trace([1, 2, 3, 7], {3}),), chosen_value=0.5)
    # the world answered differently; one side is a prefix of the other; nothing differs
    for other in (trace([1, 2, 3, 4, 9, 6], {2, 3, 5}), trace([1, 2, 3], {2}), chosen):
        assert first_step(Preference(chosen=(chosen,), rejected=(other,))) is None
    # the first trace is the same on both sides
    longer = first_step(Preference(chosen=(chosen, chosen), rejected=(chosen, rejected)))
    assert longer is not None and longer.chosen == (trace([1, 2, 3, 4], {3}),)


def test_a_file_of_pairs(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    line = {
        "opening": [msgspec.to_builtins(say("user", "2 + 2?"))],
        "chosen": [[msgspec.to_builtins(say("assistant", "4")), []]],
        "rejected": [[msgspec.to_builtins(say("assistant", "5")), []]],
        "chosen_value": 1.0,
    }
    path.write_bytes(msgspec.json.encode(line) + b"\n\n" + msgspec.json.encode(line))
    first, second = read_lines(path)
    assert first == second and first.chosen_value == 1.0
    chat = QwenFormat(train_tokenizer(["2 + 2? 4 5"] * 2, 300))
    pair = encode_pair(first, chat)
    whole = Conversation(opening=first.opening, exchanges=((say("assistant", "4"), ()),))
    assert list(pair.chosen) == encode(whole, chat) and pair.chosen != pair.rejected and pair.chosen_value == 1.0


@pytest.mark.parametrize("second", [b"{", b'{"opening": [], "chosen": [], "rejected": [], "winner": 1}', b"[]"])
def test_a_bad_line_is_named(tmp_path: Path, second: bytes):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"opening": [], "chosen": [], "rejected": []}\n' + second)
    with pytest.raises(ConfigError, match=r"'pairs.jsonl', line 2"):
        read_lines(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_lines(tmp_path / "none.jsonl")


def attempts() -> list[Episode]:
    said = [([3], 1.0), ([3], 1.0), ([4], 0.0), ([5], 1.0), ([6], 1.0)]
    found = [episode(f"e{i}", r, turn(None, [1], ids)) for i, (ids, r) in enumerate(said)]
    broken = episode("x", None, turn(None, [1], [9]), stop=Stop.infra_fault)
    return [*found, broken, episode("u", None, turn(None, [1], [8])), episode("s", 1.0, turn(None, [1], [2], forced=(0,)))]


def test_verified_attempts_once_each_and_not_too_many():
    whole = rejection_sample([group(*attempts())], cap=None)
    assert [t.ids for t in whole.traces] == [(1, 3), (1, 5), (1, 6)]
    assert whole.left_out == {"fault": 1, "unscored": 1, "failed": 1, "duplicate": 1, "no_tokens": 1}
    capped = rejection_sample([group(*attempts())], cap=2)
    assert [t.ids for t in capped.traces] == [(1, 3), (1, 5)] and capped.left_out["over_cap"] == 1
    # 5 of 6 counted attempts are verified
    easy = rejection_sample([group(*attempts())], easiest=0.8)
    assert easy.traces == [] and (easy.left_out["too_easy"], easy.left_out["no_tokens"]) == (4, 1)
    with pytest.raises(ConfigError, match="cap 0"):
        rejection_sample([], cap=0)


def test_groups_of_one_task_count_together():
    halves = attempts()[:2], attempts()[2:5]
    assert rejection_sample([group(*h) for h in halves]).traces == rejection_sample([group(*attempts()[:5])]).traces
    other = group(*halves[0], task=Task(id="u", env="toy"))
    assert len(rejection_sample([group(*halves[0]), other]).traces) == 2


def test_a_hint_is_taken_out_of_the_prompt():
    seen = trace([9, 9, 1, 2, 3], {4})
    assert without_hint(seen, [9, 9, 1, 2], [1, 2]) == trace([1, 2, 3], {2})
    for hinted, prompt in (([9, 1], [1]), ([9, 9, 1, 2, 3], [1]), ([9, 9], [])):
        with pytest.raises(ConfigError, match="hinted prompt"):
            without_hint(seen, hinted, prompt)
