"""Shared by the environment tests: play actions and look at what came back."""

from __future__ import annotations

import asyncio

from phronesis.envs.scripted import Clock, play_scripted, recorded, reward_of
from phronesis.records import Message, ToolCall, say


def call(name, arguments=None, n=0, error=None):
    """One tool call."""
    return ToolCall(id=f"call_{n}", name=name, arguments=arguments or {}, error=error)


def act(*calls, text=""):
    """An assistant message with calls."""
    return Message(role="assistant", content=say("assistant", text).content, tool_calls=calls)


def play(spec, actions, index=0, seed=0, split="train"):
    """The played episode and its reward."""

    async def run():
        speaker = recorded(actions)
        task = spec.task(split, index)
        played = await play_scripted(spec, task, seed, speaker, clock=Clock(5.0), max_turns=len(actions))
        return played, await reward_of(spec, played.episode)

    return asyncio.run(run())


def texts(reply):
    """What the policy reads of a reply."""
    return [m.text for m in reply.messages]
