"""Countdown: the exact search and the exact judge by hand, tasks by level and split, and every way to cheat."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import pytest
from env_scripts import act, call, play, texts

from phronesis.envs import registry
from phronesis.envs.check import check, render
from phronesis.envs.countdown import Dials, judge, make, reachable, solve, task
from phronesis.envs.countdown.env import CHEATS, steps
from phronesis.envs.countdown.tasks import LEVELS, SMALLEST
from phronesis.envs.digest import split_of
from phronesis.envs.noise import Noise
from phronesis.envs.scripted import Clock, play_scripted, reward_of
from phronesis.errors import ConfigError
from phronesis.records import Task, say

GIVEN = [2, 3, 4, 4]


@pytest.mark.parametrize(
    ("text", "right", "problem"),
    [
        ("answer: (3 + 4) * 2", True, ""),
        ("(3+4)*2", True, ""),
        ("I think so.\nAnswer: 2 * (4 + 3)\n", True, ""),
        ("answer: 4 * 4 - 2", True, ""),
        ("answer: (3 + 4) × 2", True, ""),
        ("answer: 3+4+2\nanswer: 2*(3+4)", False, "2 different answers were given"),
        ("answer: 14", False, "14 is not among the numbers given"),
        ("answer: 2 * 3 + 2 * 4", False, "2 is used 2 times and given 1 times"),
        ("answer: 3 + 4", False, "it comes to 7, not 14"),
        ("answer: 4 / 3", False, "it comes to 4/3 (about 1.33333), not 14"),
        ("answer: 2 / (4 - 4)", False, "it divides by zero"),
        ("answer: 4 ** 2 - 2", False, "only whole numbers joined by + - * / are an answer"),
        ("answer: 4 // 3", False, "only whole numbers joined by + - * / are an answer"),
        ("answer: -(3 - 4)", False, "only whole numbers joined by + - * / are an answer"),
        ("answer: 2 (3 + 4)", False, "only whole numbers joined by + - * / are an answer"),
        ("answer: 3 +", False, "'3 +' is no expression"),
        ("answer: 2 * (3 + 4) = 14", False, "an answer is made of digits, + - * / and brackets"),
        ("answer: True * 14", False, "an answer is made of digits, + - * / and brackets"),
        ("answer: 1e1 + 4", False, "an answer is made of digits, + - * / and brackets"),
        ("", False, "an answer has 1 to 200 characters, this one 0"),
        ("answer: " + "(" * 150, False, f"{'(' * 150!r} is no expression"),
        ("answer: " + "1+" * 120 + "1", False, "an answer has 1 to 200 characters, this one 241"),
    ],
)
def test_answers_by_hand(text, right, problem):
    verdict = judge(text, GIVEN, 14)
    assert (verdict.right, verdict.problem) == (right, problem)


def test_fractions_in_between_are_exact():
    """8 / (3 - 8 / 3) is 24: with rounded numbers it would not be."""
    verdict = judge("answer: 8 / (3 - 8 / 3)", [3, 3, 8, 8], 24)
    assert verdict.right and verdict.value == 24
    assert solve([3, 3, 8, 8], 24) == "(3 * 8)"  # as few numbers as possible


def test_the_search_by_hand():
    pairs = reachable([6, 4], 2)[0, 1]
    assert set(pairs) == {10, 2, -2, 24, Fraction(3, 2), Fraction(2, 3)}
    assert solve([1, 1, 1, 1], 24) is None
    assert solve([5, 24, 7], 24) == "24"
    assert solve([2, 3, 4], 10, size=2) is None  # 2 * 3 + 4 takes all three
    assert len(reachable([1, 2, 3, 4], 2)) == 4 + 6 and len(reachable([1, 2, 3, 4], 4)) == 15


@pytest.fixture(scope="module")
def tasks():
    dials = Dials(min_difficulty=1, max_difficulty=4)
    return {split: [task(dials, split, i) for i in range(40)] for split in ("train", "heldout")}


def test_tasks_take_as_many_numbers_as_their_level_says(tasks):
    for found in tasks["train"][:20] + tasks["heldout"][:10]:
        numbers, target = found.payload["numbers"], found.payload["target"]
        given, needed, largest = LEVELS[int(found.difficulty)]
        assert len(numbers) == given and SMALLEST <= target <= largest and str(target) in found.messages[0].text
        assert judge(found.payload["solution"], numbers, target).right
        assert found.payload["solution"].count("(") == needed - 1
        assert solve(numbers, target, needed - 1) is None
    assert {t.difficulty for t in tasks["train"]} == {1.0, 2.0, 3.0, 4.0}


def test_no_held_out_problem_occurs_in_training(tasks):
    keys = {split: {t.content_key for t in found} for split, found in tasks.items()}
    assert keys["train"].isdisjoint(keys["heldout"])
    assert {split_of(k) for k in keys["heldout"]} == {"heldout"} and {split_of(k) for k in keys["train"]} == {"train"}
    assert task(Dials(), "train", 7) == task(Dials(), "train", 7)


WORKED = Task(
    id="w", env="countdown", payload={"numbers": GIVEN, "target": 14, "solution": "((3 + 4) * 2)"}, messages=(say("user", "?"),)
)


def test_an_episode_by_hand():
    async def run(*actions):
        env = make().make()
        opening = await env.reset(WORKED, 0)
        return [opening, *[await env.step(a) for a in actions]]

    compute = act(call("calculate", {"expression": "3+4"}), call("calculate", {"expression": "1/0"}, n=1))
    opening, first, last = asyncio.run(run(compute, say("assistant", "answer: (3+4)*2")))
    assert [t.name for t in opening.tools] == ["calculate"]
    assert texts(first) == ["7", "error: '1/0' divides by zero"] and first.errors == ("bad_argument",)
    assert (first.done, first.reward, first.metrics, first.state_key != opening.state_key) == (False, None, {"true": 0.0}, True)
    assert (last.done, last.reward, last.metrics) == (True, 1.0, {"true": 1.0})


def test_the_oracle_computes_and_answers():
    assert steps("((3 + 4) * (2 - 1))") == ["3 + 4", "2 - 1", "(3 + 4) * (2 - 1)"]

    async def run():
        env, said = make().make(), []
        reply = await env.reset(WORKED, 0)
        while not reply.done:
            said.append(await env.expert())
            reply = await env.step(said[-1])
        return [m.tool_calls[0].arguments["expression"] if m.tool_calls else m.text for m in said]

    assert asyncio.run(run()) == ["3 + 4", "(3 + 4) * 2", "answer: ((3 + 4) * 2)"]


def earned(spec, speaker, index):
    async def run():
        played = await play_scripted(spec, spec.task("train", index), 0, speaker, clock=Clock(5))
        return await reward_of(spec, played.episode)

    reward = asyncio.run(run())
    return reward.value, reward.component("true").score


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_earn_nothing(name):
    spec = make(noise=Noise(drop=0.5))
    assert {earned(spec, CHEATS[name](), i) for i in range(6)} == {(0.0, 0.0)}


def test_the_planted_weakness_pays_and_the_audit_sees_it():
    spec = make(loophole=True)
    assert {earned(spec, spec.hack(), i) for i in range(6)} == {(1.0, 0.0)}
    assert make().hack is None
    honest, _ = play(spec, [say("assistant", f"answer: {spec.task('train', 0).payload['solution']}")])
    assert (honest.replies[-1].reward, honest.replies[-1].metrics["true"]) == (1.0, 1.0)


@pytest.mark.parametrize("dials", [{"min_difficulty": 4, "max_difficulty": 4}, {"loophole": True, "noise": {"corrupt": 0.5}}])
def test_the_contract_holds_under_any_dials(dials):
    rules = ["steps", "oracle", "random agent", "cheats", "exploit", "legal actions", "snapshots"]
    report = asyncio.run(check(registry.get("countdown", dials), rules=rules))
    assert report.ok, render(report)


def test_dials_out_of_range_are_told():
    with pytest.raises(ConfigError, match="countdown needs 1 <= min_difficulty <= max_difficulty <= 4, got 3 and 2"):
        registry.get("countdown", {"min_difficulty": 3, "max_difficulty": 2})
