"""A bandit whose demonstrations follow a hint where there is one, and otherwise say any letter."""

from __future__ import annotations

from dataclasses import replace

from phronesis.env import EnvSpec
from phronesis.envs import probes
from phronesis.records import Conversation, say
from phronesis.rollout.hints import with_hint
from phronesis.seeding import rng


def bandit(text: str = "S: {answer}", answer: bool = True) -> EnvSpec:
    """The bandit of the probes: letter b pays 1, c .4, a .2, d nothing.

    Args:
        text: how the policy learns to be told.
        answer: whether the environment tells the answer of a task.
    """
    spec = probes.bandit()

    async def show(index: int, seed: int) -> Conversation:
        source = rng(seed, "hinted lesson")
        letter = source.choice("abcd")
        opening = list(spec.task("train", 0).messages)
        told = with_hint(opening, text.replace("{answer}", letter)) if source.random() < 0.6 else opening
        return Conversation(opening=tuple(told), exchanges=((say("assistant", letter), ()),))

    return replace(spec, demonstrate=show, hint=spec.hint if answer else None)
