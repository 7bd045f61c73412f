"""Evaluation: what is counted, which seeds are paired, who gives thoughts to whom."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from phronesis.chat.qwen import QwenFormat
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.envs import probes
from phronesis.errors import AllFaulted, ConfigError
from phronesis.evals.run import donors, evaluate, evaluate_swapped, succeeded, summarise
from phronesis.evals.statistics import wilson
from phronesis.models.tokenizer import train_tokenizer
from phronesis.policy import prompt_crc
from phronesis.reason.react import ReAct
from phronesis.reason.swapped import thoughts_of
from phronesis.records import Component, Episode, Failure, Finish, Message, Reply, Reward, Span, Stop, Task, TextPart, Turn
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.play import Stage

TOKENIZER = train_tokenizer(["Say a.", "total 5"] * 2, 300)
CHAT = QwenFormat(TOKENIZER)
SPEC = replace(probes.copy(), success=0.75)


def turn(n=2, thought=1):
    return Turn(
        parent=None, context=(1,), completion=tuple(range(n)), sampled=(True,) * n, logprobs=(0.0,) * n, finish=Finish.stop,
        prompt_crc=prompt_crc([1]), reply=Reply(done=True),
        spans=(Span(kind="think", start=0, end=thought),) if thought else (),
    )  # fmt: skip


def episode(name, reward, *, task="t", difficulty=None, stop=Stop.completed, turns=None):
    scored = None if reward is None else Reward(components=(Component(name="r", score=reward),))
    failure = Failure(where="env.step", kind="OSError", message="gone") if stop.is_fault else None
    return Episode(
        id=name,
        task=Task(id=task, env="x", difficulty=difficulty),
        seed=len(name),
        turns=turns or (turn(),),
        stop=stop,
        reward=scored,
        failure=failure,
    )


FOUR = [
    episode("a", 1.0, difficulty=1.0, turns=(turn(3), turn(1))),
    episode("b", 0.75, difficulty=2.0),
    episode("c", 0.5, difficulty=2.0, stop=Stop.max_turns),
    episode("d", -1.0, difficulty=10.0),
]


def test_outcomes_are_counted_by_hand():
    broken = [episode("e", None, stop=Stop.env_fault), episode("f", None, difficulty=1.0)]
    found = summarise(SPEC, [*FOUR, *broken], 0.5)
    assert (found.success, found.n, found.faults, found.temperature) == (0.5, 4, 2, 0.5)
    assert (found.ci_low, found.ci_high) == wilson(2, 4)
    assert found.mean_reward == pytest.approx((1.0 + 0.75 + 0.5 - 1.0) / 4)
    assert (found.mean_turns, found.mean_tokens) == (5 / 4, (4 + 2 + 2 + 2) / 4)
    assert found.by_difficulty == {"1": (1.0, 1), "2": (0.5, 2), "10": (0.0, 1)}
    assert list(found.by_difficulty) == ["1", "2", "10"]


def test_a_fault_is_neither_success_nor_failure():
    assert [succeeded(SPEC, e) for e in FOUR] == [True, True, False, False]
    assert succeeded(SPEC, episode("e", 1.0, stop=Stop.env_fault)) is None
    assert succeeded(SPEC, episode("f", None)) is None
    cause = r"all 2 episodes of an evaluation of 'probe-copy' faulted; the first \('e'\): OSError in env\.step: gone"
    with pytest.raises(AllFaulted, match=cause):
        summarise(SPEC, [episode("e", None, stop=Stop.env_fault)] * 2, 1.0)
    with pytest.raises(ConfigError, match="none of 2 evaluation episodes of 'probe-copy' has a reward; the first fail"):
        summarise(SPEC, [episode("f", None), episode("e", None, stop=Stop.env_fault)], 1.0)
    with pytest.raises(ConfigError, match="none of 0 evaluation episodes"):
        summarise(SPEC, [], 1.0)


def test_donors_attempt_another_task_of_the_same_difficulty():
    found = [
        episode("a0", 1.0, task="a", difficulty=1.0),
        episode("a1", 1.0, task="a", difficulty=1.0),
        episode("b", 1.0, task="b", difficulty=1.0),
        episode("c", 1.0, task="c", difficulty=2.0),
        episode("lone", 1.0, task="d", difficulty=3.0),
        episode("d", 1.0, task="e", difficulty=2.0),
        episode("broken", None, task="f", difficulty=1.0, stop=Stop.infra_fault),
        episode("thoughtless", 1.0, task="g", difficulty=1.0, turns=(turn(thought=0),)),
    ]
    assert [(e.id, d.id) for e, d in donors(found)] == [("a0", "b"), ("a1", "b"), ("b", "a0"), ("c", "d"), ("d", "c")]
    assert donors(found[:2]) == []


def thinking(letter):
    return CHAT.render(Message(role="assistant", thought=f"it is {letter}", content=(TextPart(text=letter),)))


def copycat(prompt):
    """Thinks the letter it was asked for, and says the letter it thought: a policy whose thought is load-bearing."""
    return thinking(TOKENIZER.decode(list(prompt)).split("Say ")[1][0])


def on_thought(policy_reply):
    """Says what stands in the forced thought instead."""

    class Obedient(ScriptedPolicy):
        async def sample(self, prompt, params):
            thought = TOKENIZER.decode(list(params.forced))
            self.replies = copycat
            if thought:
                said = Message(role="assistant", content=(TextPart(text=thought.split("it is ")[1][0]),))
                self.replies = lambda _: CHAT.render(said)
            return await super().sample(prompt, params)

    return Obedient(policy_reply, vocab_size=len(TOKENIZER))


def stage(policy, **options):
    return Stage(spec=probes.copy(), policy=policy, chat=CHAT, agent=ReAct(), limits=Limits(max_turn_tokens=60), **options)


def tasks(n=4):
    return [probes.copy().task("heldout", i) for i in range(n)]


def test_two_evaluations_of_the_same_tasks_are_paired():
    def seeds(name, policy):
        heard = []
        found, episodes = asyncio.run(
            evaluate(stage(policy), tasks(), seed=3, name=name, samples=2, concurrency=3, on_episode=heard.append)
        )
        assert sorted(e.id for e in heard) == sorted(e.id for e in episodes)
        return found, [(e.seed, e.task.id) for e in episodes], [e.id for e in episodes]

    before, pairs, ids = seeds("heldout_before", ScriptedPolicy(lambda p: thinking("a"), vocab_size=len(TOKENIZER)))
    after, again, other = seeds("heldout_after", ScriptedPolicy(copycat, vocab_size=len(TOKENIZER)))
    assert pairs == again and len(set(pairs)) == 8
    assert ids[:2] == ["heldout_before-0-0", "heldout_before-0-1"] and set(ids).isdisjoint(other)
    assert (before.success, before.n, after.success, after.n) == (0.25, 8, 1.0, 8)


def test_swapped_thoughts_force_the_donors_ids():
    policy = on_thought(copycat)
    own, episodes = asyncio.run(evaluate(stage(policy), tasks(), seed=3, name="heldout_after"))
    assert own.success == 1.0
    heard = []
    found, swapped = asyncio.run(
        evaluate_swapped(stage(policy), episodes, name="heldout_swapped", concurrency=2, on_episode=heard.append)
    )
    assert (found.success, found.n, len(heard)) == (0.0, 4, 4)
    for played, (receiver, donor) in zip(swapped, donors(episodes), strict=True):
        assert played.id == f"heldout_swapped-{receiver.id}"
        assert (played.task, played.seed) == (receiver.task, receiver.seed) and donor.task.id != receiver.task.id
        (forced,) = thoughts_of(donor)
        assert played.turns[0].completion[: len(forced)] == forced
        assert not any(played.turns[0].sampled[: len(forced)]) and all(played.turns[0].sampled[len(forced) :])
        assert played.turns[0].seed == receiver.turns[0].seed


def test_nothing_to_swap_is_told():
    _, episodes = asyncio.run(evaluate(stage(on_thought(copycat)), tasks(1), seed=3, name="x", samples=3))
    with pytest.raises(ConfigError, match="no two of 3 episodes attempt different tasks"):
        asyncio.run(evaluate_swapped(stage(on_thought(copycat)), episodes, name="y"))


def test_greedy_is_reported():
    found, _ = asyncio.run(
        evaluate(
            stage(ScriptedPolicy(copycat, vocab_size=len(TOKENIZER)), sampling=Sampling(temperature=0.0)),
            tasks(1),
            seed=0,
            name="g",
        )
    )
    assert found.temperature == 0.0
