"""Play with a hint: the opening of every episode ends with a text about its task, and what was said can be told without it.

The rule this module keeps: a hint is one text part at the end of the opening's last message, added and removed as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace as replace_data

from msgspec.structs import replace

from phronesis.chat.format import ChatFormat
from phronesis.env import Env, EnvSpec
from phronesis.errors import ConfigError
from phronesis.records import Episode, Message, Reply, Task, TextPart
from phronesis.rollout.play import Stage

Hint = Callable[[Task], str]
"""What a policy may be told of a task."""


def with_hint(messages: Sequence[Message], hint: str) -> list[Message]:
    """Messages with `hint` added to the last one; a message of its own where there is none."""
    told = list(messages) or [Message(role="user")]
    told[-1] = replace(told[-1], content=(*told[-1].content, TextPart(text=f"\n\n{hint}")))
    return told


def plain_prompt(episode: Episode, hint: str, chat: ChatFormat) -> tuple[int, ...] | None:
    """The ids an episode would have begun with, had its opening not ended with `hint`.

    None where the first prompt is not the only one that holds it: a format that rewrites history has put it into later ones.

    Raises:
        ConfigError: the opening does not end with the hint.
    """
    if not episode.turns or sum(t.parent is None for t in episode.turns) > 1:
        return None
    *before, last = episode.opening
    if not last.content or last.content[-1] != TextPart(text=f"\n\n{hint}"):
        raise ConfigError(f"the opening of episode {episode.id!r} does not end with the hint {hint!r}")
    return tuple(chat.open([*before, replace(last, content=last.content[:-1])], episode.tools))


class HintedEnv:
    """An environment whose opening ends with a hint; everything else is the environment's own."""

    def __init__(self, env: Env, hint: Hint):
        self.env, self.hint = env, hint

    async def reset(self, task: Task, seed: int) -> Reply:
        """The environment's opening with the hint."""
        reply = await self.env.reset(task, seed)
        return replace(reply, messages=tuple(with_hint(reply.messages, self.hint(task))))

    async def step(self, action: Message) -> Reply:
        """The environment's answer."""
        return await self.env.step(action)

    async def close(self) -> None:
        """Closes the environment."""
        await self.env.close()


def hinted_stage(stage: Stage, hint: Hint) -> Stage:
    """The stage with hints in its openings. Its environments can neither be snapshot nor list legal actions."""

    def hinted(spec: EnvSpec) -> EnvSpec:
        parts = {name: hinted(part) for name, part in spec.parts.items()}
        return replace_data(spec, make=lambda: HintedEnv(spec.make(), hint), parts=parts)

    return replace_data(stage, spec=hinted(stage.spec))
