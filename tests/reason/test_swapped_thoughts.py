"""Acting on somebody else's thoughts: what is taken from a donor, and that exactly that is forced."""

from __future__ import annotations

import asyncio

from phronesis.chat.qwen import QwenFormat
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.env import EnvSpec
from phronesis.envs.native import from_env
from phronesis.models.tokenizer import train_tokenizer
from phronesis.reason.react import ReAct
from phronesis.reason.swapped import SwappedThoughts, thoughts_of
from phronesis.records import Episode, Message, Reply, Stop, Task, TextPart, say
from phronesis.rollout.limits import Limits
from phronesis.rollout.play import Stage, Ticket, play

TOKENIZER = train_tokenizer(["total 5, left two", "say it"] * 2, 300)


class Counting:
    """Three steps, then over."""

    async def reset(self, task, seed):
        self.at = 0
        return Reply(messages=task.messages)

    async def step(self, action):
        self.at += 1
        return Reply(done=True, reward=1.0) if self.at == 3 else Reply(messages=(say("user", f"seen {self.at}"),))

    async def close(self):
        pass


SPEC: EnvSpec = from_env(Counting, {"train": [{"prompt": "go"}]})


def thinking(thought, text):
    return Message(role="assistant", thought=thought, content=(TextPart(text=text),))


def played(replies, agent=None, retention="preserve"):
    chat = QwenFormat(TOKENIZER, retention)
    script = [chat.render(r) if isinstance(r, Message) else r for r in replies]
    policy = ScriptedPolicy(script, vocab_size=len(TOKENIZER))
    stage = Stage(spec=SPEC, policy=policy, chat=chat, agent=agent or ReAct(), limits=Limits(max_turn_tokens=40))
    return asyncio.run(play(stage, Ticket(id="e", task=SPEC.task("train", 0), seed=0))), policy


def texts(blocks):
    return [TOKENIZER.decode(b) for b in blocks]


def test_thoughts_are_taken_turn_by_turn():
    talk = [thinking("one", "a"), thinking(None, "b"), thinking("three", "c")]
    for retention in ("preserve", "strip", "until_user"):
        episode, _ = played(talk, retention=retention)
        blocks = texts(thoughts_of(episode))
        assert [b.strip() for b in blocks] == ["<think>\none\n</think>", "", "<think>\nthree\n</think>"]
        for block, turn in zip(thoughts_of(episode), episode.turns, strict=True):
            assert turn.completion[: len(block)] == block
    assert thoughts_of(Episode(id="e", task=Task(id="t", env="x"), seed=0, stop=Stop.context)) == ()


def test_exactly_the_donors_ids_are_forced_and_the_last_repeats():
    donor, _ = played([thinking("one", "a"), thinking("two", "b"), thinking("three", "c")])
    thoughts = thoughts_of(donor)[:2]
    said = QwenFormat(TOKENIZER).render(thinking(None, "mine"))
    episode, policy = played([said] * 3, agent=SwappedThoughts(thoughts))
    assert [p.forced for p in policy.params] == [thoughts[0], thoughts[1], thoughts[1]]
    for turn, forced in zip(episode.turns, (thoughts[0], thoughts[1], thoughts[1]), strict=True):
        assert turn.completion == forced + said
        assert turn.sampled == (False,) * len(forced) + (True,) * len(said)
    assert [t.action.thought for t in episode.turns] == ["one", "two", "two"]
    assert [t.action.text.strip() for t in episode.turns] == ["mine"] * 3


def test_without_a_donor_nothing_is_forced():
    _, policy = played([thinking("own", "a")] * 3, agent=SwappedThoughts(()))
    assert [p.forced for p in policy.params] == [()] * 3


def test_a_thought_that_never_closed_fills_the_turn():
    endless = tuple(TOKENIZER.encode("<think>\n") + TOKENIZER.encode(" on and on") * 20)
    donor, _ = played([endless] * 3)
    assert [len(b) for b in thoughts_of(donor)] == [40, 40, 40]
    episode, _ = played([(5, 6)] * 3, agent=SwappedThoughts(thoughts_of(donor)))
    assert episode.failure is None and episode.sampled_tokens == 0
