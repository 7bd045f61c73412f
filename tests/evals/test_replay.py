import asyncio

import pytest
from msgspec.structs import replace

from phronesis.errors import PolicyFault
from phronesis.evals.replay import AsPlayed, Difference, RecordedPolicy, differences, forced_beginning
from phronesis.policy import SamplingParams, prompt_crc
from phronesis.records import Component, Episode, Finish, Reply, Reward, Stop, Task, Turn, say


def turn(k: int, **changes: object) -> Turn:
    values: dict[str, object] = {
        "parent": k - 1 if k else None,
        "context": (1, 2),
        "completion": (5, 6, 7),
        "sampled": (False, False, True),
        "logprobs": (-0.5, -0.25, -0.125),
        "finish": Finish.stop,
        "prompt_crc": 0,
        "reply": Reply(messages=(say("user", f"reply {k}"),), reward=0.5, metrics={"seconds": float(k)}),
    }
    return Turn(**(values | changes))  # pyright: ignore


def episode(*turns: Turn, reward: float | None = 1.0) -> Episode:
    scored = None if reward is None else Reward(components=(Component(name="a", score=reward),))
    return Episode(id="e", task=Task(id="t", env="x"), seed=1, turns=turns, stop=Stop.completed, reward=scored)


def test_equal_episodes_have_no_differences_and_times_do_not_count():
    slow = replace(turn(1), policy_seconds=9.0, started=3.0, cached_tokens=5)
    other = replace(slow, reply=replace(turn(1).reply or Reply(), metrics={"seconds": 99.0}))
    assert differences(episode(turn(0), turn(1)), episode(turn(0), other)) == []


def test_the_first_differing_entry_is_shown():
    long = turn(0, context=(1, 2, 3, 4, 5, 6, 7, 8, 9), completion=(5, 6, 8))
    found = differences(episode(turn(0, context=(1, 2, 3, 40, 5, 6, 7, 8, 9))), episode(long))
    assert found == [
        Difference(turn=0, what="context[3]", recorded="40, 5, 6, 7, 8, …", again="4, 5, 6, 7, 8, …"),
        Difference(turn=0, what="completion[2]", recorded="7", again="8"),
    ]
    (shorter,) = differences(episode(turn(0)), episode(turn(0, completion=(5, 6))))
    assert (shorter.what, shorter.recorded, shorter.again) == ("completion[2]", "7", "(ended)")


def test_one_bit_of_a_logprob_is_a_difference():
    (found,) = differences(episode(turn(0)), episode(turn(0, logprobs=(-0.5, -0.25, -0.12500000000000003))))
    assert (found.what, found.recorded, found.again) == ("logprobs[2]", "-0.125", "-0.12500000000000003")


def test_only_the_first_differing_turn_is_told_and_the_ends_always():
    old = episode(turn(0), turn(1), turn(2))
    new = replace(episode(turn(0), turn(1, completion=(5, 6, 9)), reward=0.0), stop=Stop.max_turns)
    assert [(d.turn, d.what, d.recorded, d.again) for d in differences(old, new)] == [
        (1, "completion[2]", "7", "9"),
        (None, "turns", "3", "2"),
        (None, "stop", "'completed'", "'max_turns'"),
        (None, "reward", "1.0", "0.0"),
    ]
    assert [d.what for d in differences(old, episode(turn(0), turn(1), turn(2), reward=None))] == ["reward"]


def test_replies_are_compared_by_what_they_say_and_decide():
    (found,) = differences(episode(turn(0)), episode(turn(0, reply=Reply(messages=(say("user", "else"),), reward=0.5))))
    assert found.what == "reply" and "'reply 0'" in found.recorded and "'else'" in found.again
    (found,) = differences(episode(turn(0)), episode(turn(0, reply=None)))
    assert found.again == "none"


def test_forced_beginnings():
    assert forced_beginning(turn(0)) == (5, 6)
    assert forced_beginning(turn(0, sampled=(True, False, True))) == ()
    assert forced_beginning(turn(0, sampled=(False, False, False))) == (5, 6, 7)


def test_a_recorded_policy_says_its_lines_and_no_more():
    policy = RecordedPolicy(episode(turn(0), turn(1, completion=(9, 9, 9))))

    async def scene() -> None:
        first = await policy.sample((1, 2), SamplingParams(max_tokens=4))
        assert first.ids == (5, 6, 7) and first.logprobs == (-0.5, -0.25, -0.125)
        assert first.prompt_crc == prompt_crc((1, 2)), "it tells what it was asked, so that a differing prompt is seen"
        assert (await policy.sample((3,), SamplingParams(max_tokens=4))).ids == (9, 9, 9)
        with pytest.raises(PolicyFault, match="the stored episode ended here"):
            await policy.sample((3,), SamplingParams(max_tokens=4))

    asyncio.run(scene())


class Loud:
    """Answers with its own number."""

    def __init__(self, number: int):
        self.number = number

    async def sample(self, prompt, params):
        said = RecordedPolicy(episode(turn(0, completion=(self.number,), version=(self.number, self.number))))
        return await said.sample(prompt, params)


def test_each_turn_is_sampled_with_the_weights_that_sampled_it():
    """Weights 3 and 4 are at hand, 5 are not; new weights reached the third turn in its middle."""
    versions = ((3, 3), (4, 4), (3, 4), (5, 5))
    policy = AsPlayed(episode(*(turn(k, version=v) for k, v in enumerate(versions))), {3: Loud(3), 4: Loud(4)})

    async def say_all():
        return [(await policy.sample((1, 2), SamplingParams(max_tokens=3, seed=0))).ids for _ in versions]

    assert asyncio.run(say_all()) == [(3,), (4,), (5, 6, 7), (5, 6, 7)]
    with pytest.raises(PolicyFault, match="the stored episode ended here"):
        asyncio.run(policy.sample((1, 2), SamplingParams(max_tokens=3, seed=0)))
