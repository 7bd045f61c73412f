"""Environments, policies and a chat format for session tests; all tiny, all scripted."""

from __future__ import annotations

import asyncio

from phronesis.chat.qwen import QwenFormat
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.env import EnvSpec
from phronesis.models.tokenizer import train_tokenizer
from phronesis.reason.react import ReAct
from phronesis.records import Component, Message, Reply, Reward, Task, TextPart, ToolCall, ToolSpec, say
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.play import Stage, Ticket, play

TOKENIZER = train_tokenizer(["say one more word, total 5, left two"] * 3, 300)
CHATS = {kept: QwenFormat(TOKENIZER, kept) for kept in ("preserve", "until_user", "strip")}
CHAT = CHATS["preserve"]
TASK = Task(id="t", env="walk", messages=(say("user", "go"),))
TOOLS = (ToolSpec(name="step", description="Steps.", parameters={"type": "object", "properties": {}}),)


def thinking(thought: str | None, text: str) -> Message:
    return Message(role="assistant", thought=thought, content=(TextPart(text=text),) if text else ())


def calling(*names: str, thought: str | None = None) -> Message:
    calls = tuple(ToolCall(id=f"call_0_{n}", name=name, arguments={}) for n, name in enumerate(names))
    return Message(role="assistant", thought=thought, tool_calls=calls)


class Walk:
    """Answers ``seen N`` and is done after `length` steps, or when told ``stop``. It can be saved, restored and replayed."""

    def __init__(self, length=3, replies=None, opening=None):
        self.length, self.replies, self.opening = length, replies, opening
        self.at, self.closed, self.heard = 0, 0, []

    async def reset(self, task, seed):
        self.seed = seed
        return self.opening or Reply(messages=(say("system", "walk"), *task.messages), state_key="0")

    async def step(self, action):
        self.at += 1
        self.heard.append(action.text)
        if self.replies is not None:
            return self.replies[self.at - 1]
        done = self.at >= self.length or action.text == "stop"
        reward = float(len(self.heard[-1])) if done else None
        return Reply(
            messages=() if done else (say("user", f"seen {self.at}"),), done=done, reward=reward, state_key=str(self.at)
        )

    async def close(self):
        self.closed += 1


class SavedWalk(Walk):
    """A walk with snapshots; never replayed."""

    async def snapshot(self):
        return f"{self.at}|{'|'.join(self.heard)}".encode()

    async def restore(self, state):
        at, *heard = state.decode().split("|")
        self.at, self.heard = int(at), heard


class Ones:
    """Rewards 1 for every episode without a fault."""

    async def score(self, group):
        return [Reward() if e.stop.is_fault else Reward(components=(Component(name="one", score=1.0),)) for e in group.episodes]


def spec_of(make, rubric=None) -> EnvSpec:
    return EnvSpec(name="walk", make=make, task=lambda split, index: TASK, rubric=rubric or Ones())


def policy_of(*messages, chat=CHAT, **options) -> ScriptedPolicy:
    """Says these messages one after the other; what is not a message is taken as it is."""
    replies = [chat.render(m) if isinstance(m, Message) else m for m in messages]
    return ScriptedPolicy(replies, vocab_size=len(TOKENIZER), **options)


def stage_of(make, policy, *, chat=CHAT, agent=None, rubric=None, **limits) -> Stage:
    return Stage(
        spec=spec_of(make, rubric),
        policy=policy,
        chat=chat,
        agent=agent or ReAct(),
        limits=Limits(**{"max_turns": 8, "max_turn_tokens": 64, **limits}),
        sampling=Sampling(),
    )


def played(stage: Stage, *, task=TASK, seed=7, id="e"):
    return asyncio.run(play(stage, Ticket(id=id, task=task, seed=seed)))


class Agent:
    """An agent made of a function."""

    def __init__(self, function):
        self.run = function
