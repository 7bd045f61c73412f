"""Which episodes are chosen: rules on hand-made sets, distinctness and determinism on random ones."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from phronesis.evals.pick import CATEGORIES, change, pick
from phronesis.policy import prompt_crc
from phronesis.records import (
    Component,
    Episode,
    Failure,
    Finish,
    Message,
    Reward,
    Stop,
    Task,
    TextPart,
    ToolCall,
    Turn,
)


def calls(*names: str, answer: str | None = None) -> tuple[Turn, ...]:
    """One turn per call, then an answer; each turn has two sampled tokens."""
    actions = [
        Message(role="assistant", tool_calls=(ToolCall(id=f"call_{i}_0", name=n, arguments={}),)) for i, n in enumerate(names)
    ]
    if answer is not None:
        actions.append(Message(role="assistant", content=(TextPart(text=answer),)))
    return tuple(
        Turn(
            parent=i - 1 if i else None,
            context=(1,),
            completion=(2, 3),
            sampled=(True, True),
            logprobs=(-0.1, -0.2),
            finish=Finish.stop,
            prompt_crc=prompt_crc((1,)),
            action=action,
        )
        for i, action in enumerate(actions)
    )


def episode(
    id: str,
    reward: float | None,
    *,
    task: int | None = None,
    turns: tuple[Turn, ...] = (),
    stop: Stop = Stop.completed,
    difficulty: float | None = None,
) -> Episode:
    """A finished episode of task `task` (by default one of its own)."""
    return Episode(
        id=id,
        task=Task(id=f"task-{id if task is None else task}", env="toy", split="heldout", difficulty=difficulty),
        seed=7,
        turns=turns,
        stop=stop,
        reward=None if reward is None else Reward(components=(Component(name="success", score=reward),)),
        failure=Failure(where="env.step", kind="Boom", message="x") if stop.is_fault else None,
    )


def chosen(before: list[Episode], after: list[Episode], success: float = 1.0) -> dict[str, str]:
    return {p.category: p.episode.id for p in pick(before, after, success)}


def test_each_category_takes_the_most_telling_episode():
    before = [
        episode("b", 0.0, task=1, turns=calls("look", answer="3")),
        episode("b2", 1.0, task=2, turns=calls("look", answer="3")),
    ]
    after = [
        episode("changed", 1.0, task=1, turns=calls("look", "look", answer="5")),
        episode("same", 1.0, task=2, turns=calls("look", answer="3")),
        episode("hard", 1.0, difficulty=4.0),
        episode("low", 0.0, difficulty=1.0),
        episode("low-hard", 0.0, difficulty=4.0),
        episode("middle", 0.6),
        episode("fault", None, stop=Stop.env_fault),
    ]
    # scored rewards in order: 0 0 0.6 1 1 1, so the lower middle is 0.6
    assert chosen(before, after) == {
        "best": "hard",
        "worst": "low",
        "median": "middle",
        "most_changed": "changed",
        "failed": "fault",
    }


def test_a_rare_candidate_is_left_to_the_category_that_needs_it():
    # `only` is the sole failure and also the worst: the worst goes to the runner-up
    after = [episode("only", 0.0), episode("a", 1.0), episode("b", 1.0), episode("c", 1.0)]
    found = chosen([], after)
    assert found["failed"] == "only" and found["worst"] != "only"
    assert set(found) == {"best", "worst", "median", "failed"}


def test_the_best_of_equals_is_the_hardest_then_the_shortest():
    after = [
        episode("long", 1.0, difficulty=3.0, turns=calls("a", "b", answer="1")),
        episode("short", 1.0, difficulty=3.0, turns=calls("a", answer="1")),
        episode("easy", 1.0, difficulty=1.0),
        episode("zero", 0.0, difficulty=1.0),
    ]
    assert chosen([], after)["best"] == "short"


def test_truncation_counts_as_failure_before_a_wrong_answer():
    after = [
        episode("wrong", 0.0),
        episode("cut", 0.0, stop=Stop.max_turns),
        episode("x", 1.0),
        episode("y", 1.0),
        episode("z", 1.0),
    ]
    assert chosen([], after)["failed"] == "cut"


def test_partial_reward_is_success_when_the_environment_says_so():
    after = [episode("a", 0.5), episode("b", 0.6), episode("c", 0.7), episode("d", 0.8)]
    assert "failed" not in chosen([], after, success=0.5)
    assert "failed" in chosen([], after, success=0.65)


def test_without_episodes_after_the_ones_before_are_read():
    found = pick([episode("a", 1.0), episode("b", 0.0)], [])
    assert {p.episode.id for p in found} == {"a", "b"}
    assert all(p.before is None for p in found)


def test_nothing_gives_nothing_and_one_gives_one():
    assert pick([], []) == ()
    assert [p.episode.id for p in pick([], [episode("a", 1.0)])] == ["a"]


def test_only_faults():
    found = pick([], [episode("a", None, stop=Stop.infra_fault), episode("b", None, stop=Stop.env_fault)])
    assert [(p.category, p.episode.id) for p in found] == [("failed", "a")]
    assert "a fault ended it (infra_fault)" in found[0].why


def test_the_twin_is_the_same_task_and_seed():
    before = [episode("old", 0.0, task=1), episode("other-seed", 0.0, task=1)]
    found = pick(before, [episode("new", 1.0, task=1)])
    assert found[0].before is not None and found[0].before.id == "old"


def test_change_by_hand():
    old = episode("o", 0.0, turns=calls("a", "b", "c", answer="1"))
    new = episode("n", 1.0, turns=calls("a", "b", "x", answer="1"))
    # four actions each, three in common in order: 2 * 3 / 8 alike
    assert change(old, new) == (1.0, 0.25)
    assert change(old, old) == (0.0, 0.0)
    assert change(episode("u", None), new).reward == 0.0


@st.composite
def evaluations(draw: st.DrawFn) -> tuple[list[Episode], list[Episode]]:
    source = draw(st.randoms(use_true_random=False))

    def some(name: str) -> list[Episode]:
        return [
            episode(
                f"{name}{i}",
                None if (stop := source.choice([*Stop])).is_fault else source.choice([0.0, 0.5, 1.0]),
                task=i,
                turns=calls(*source.sample("abcd", source.randint(0, 3)), answer=str(source.randint(0, 2))),
                stop=stop,
                difficulty=source.choice([None, 1.0, 2.0]),
            )
            for i in range(source.randint(0, 12))
        ]

    return some("before"), some("after")


@settings(max_examples=60, deadline=None)
@given(evaluations())
def test_distinct_ordered_and_independent_of_file_order(case: tuple[list[Episode], list[Episode]]):
    before, after = case
    found = pick(before, after)
    ids = [p.episode.id for p in found]
    assert len(set(ids)) == len(ids)
    assert [c for c in CATEGORIES if c in {p.category for p in found}] == [p.category for p in found]
    shuffled_before, shuffled_after = list(before), list(after)
    random.Random(1).shuffle(shuffled_before)
    random.Random(2).shuffle(shuffled_after)
    assert pick(shuffled_before, shuffled_after) == found
    scored = [e for e in (after or before) if not e.stop.is_fault]
    assert len(found) >= min(3, len(scored))
