"""Demonstrations for any environment: what a scripted agent says in it, for priming a policy that cannot speak yet.

A policy made from scratch must first learn how an action is written. An agent that acts at random shows exactly that, and
nothing about what pays, so everything learned afterwards is reinforcement learning's doing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from phronesis.env import Env, EnvSpec, Expert, Speaker
from phronesis.envs.scripted import Clock, play_scripted, uniform
from phronesis.errors import ConfigError
from phronesis.records import Conversation, Message, ToolSpec
from phronesis.seeding import rng, stream


def imperfect(expertise: float) -> Callable[[random.Random], Speaker]:
    """Agents that do what the environment's expert would with probability `expertise`, and otherwise pick at random.

    Raises:
        ConfigError: `expertise` is no probability.
    """
    if not 0 <= expertise <= 1:
        raise ConfigError(f"expertise {expertise!r} must lie in [0, 1]")

    def speaker(source: random.Random) -> Speaker:
        guess = uniform(source)

        async def speak(env: Env, tools: tuple[ToolSpec, ...]) -> Message:
            if isinstance(env, Expert) and source.random() < expertise:
                return await env.expert()
            return await guess(env, tools)

        return speak

    return speaker


def with_demonstrations(
    spec: EnvSpec, speaker: Callable[[random.Random], Speaker] = uniform, *, seconds: float = 30.0
) -> EnvSpec:
    """The same environment with `demonstrate` set: conversations of a scripted agent on training tasks.

    Args:
        spec: an environment; it need not have an expert.
        speaker: makes the agent of one conversation from its randomness. By default it picks uniformly from the legal
            actions, and where none are listed it calls a random tool with arguments that fit its schema.
        seconds: deadline of one call of the environment.

    A tool ``press(color: Literal["red", "blue"])`` gives conversations that press red, press blue, or say a word.
    """

    async def demonstrate(index: int, seed: int) -> Conversation:
        task = spec.task("train", index % (spec.sizes["train"] or index + 1))
        agent = speaker(rng(seed, "speaker"))
        played = await play_scripted(spec, task, stream(seed, "env"), agent, clock=Clock(seconds))
        return Conversation(
            opening=played.opening.messages,
            tools=played.opening.tools or (),
            exchanges=tuple((said, heard.messages) for said, heard in zip(played.actions, played.replies, strict=True)),
        )

    return replace(spec, demonstrate=demonstrate)
