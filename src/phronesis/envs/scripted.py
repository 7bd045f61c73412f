"""Plays an environment with a scripted agent: messages only, no policy and no tokens. For checks, oracles and tests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from phronesis.env import Env, EnvSpec, Expert, Legal, Speaker
from phronesis.envs.guard import validate_reply
from phronesis.envs.trl_style import calling
from phronesis.errors import EnvFault
from phronesis.records import Episode, EpisodeGroup, Finish, Message, Reply, Reward, Stop, Task, ToolSpec, Turn, say

T = TypeVar("T")


class Played(NamedTuple):
    """One scripted episode."""

    opening: Reply
    """The reply of reset."""
    actions: tuple[Message, ...]
    """What was said."""
    replies: tuple[Reply, ...]
    """What was answered, one per action."""
    episode: Episode
    """The same as a record, without tokens; unscored."""


class Clock:
    """Calls environments under a deadline and remembers the slowest call."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.slowest = 0.0
        self.slowest_call = ""

    async def call(self, where: str, awaitable: Awaitable[T]) -> T:
        """The result.

        Raises:
            EnvFault: no answer in time; the call was cut off.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = asyncio.timeout(self.seconds)
        try:
            async with deadline:
                return await awaitable
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise EnvFault(f"{where} gave no answer within {self.seconds:g} s and was cut off") from error
        finally:
            took = loop.time() - began
            if took > self.slowest:
                self.slowest, self.slowest_call = took, where


async def play_scripted(
    spec: EnvSpec, task: Task, seed: int, speaker: Speaker, *, clock: Clock, max_turns: int | None = None
) -> Played:
    """Plays until the environment is done or the turns are used up, and closes the environment.

    Raises:
        EnvFault: a hung call or a malformed reply. What the environment raises comes through.
    """
    env = spec.make()
    limit = spec.max_turns if max_turns is None else max_turns
    try:
        opening = validate_reply(await clock.call("reset", env.reset(task, seed)), opening=True)
        tools, over = opening.tools or (), opening.done
        actions, replies = list[Message](), list[Reply]()
        while not over and len(replies) < limit:
            actions.append(await speaker(env, tools))
            reply = validate_reply(await clock.call("step", env.step(actions[-1])))
            replies.append(reply)
            tools, over = tools if reply.tools is None else reply.tools, reply.done
    finally:
        await clock.call("close", env.close())
    episode = as_episode(task, seed, opening, actions=actions, replies=replies)
    return Played(opening, tuple(actions), tuple(replies), episode)


def as_episode(task: Task, seed: int, opening: Reply, *, actions: Sequence[Message], replies: Sequence[Reply]) -> Episode:
    """A record of messages without tokens, which is all a rubric needs."""
    last = replies[-1] if replies else opening
    turns = tuple(
        Turn(
            parent=i - 1 if i else None,
            author="script",
            context=(),
            completion=(),
            sampled=(),
            logprobs=(),
            finish=Finish.stop,
            prompt_crc=0,
            action=action,
            reply=reply,
        )
        for i, (action, reply) in enumerate(zip(actions, replies, strict=True))
    )
    return Episode(
        id=f"scripted-{task.id}-{seed}",
        task=task,
        seed=seed,
        opening=opening.messages,
        tools=opening.tools or (),
        turns=turns,
        stop=(last.stop or Stop.completed) if last.done else Stop.max_turns,
    )


async def reward_of(spec: EnvSpec, episode: Episode) -> Reward:
    """The rubric's judgement of one episode."""
    group = EpisodeGroup(id=episode.id, task=episode.task, episodes=(episode,))
    return (await spec.rubric.score(group))[0]


def expert() -> Speaker:
    """Says what the environment's `Expert` says."""

    async def speak(env: Env, tools: tuple[ToolSpec, ...]) -> Message:
        if not isinstance(env, Expert):
            raise EnvFault(f"{type(env).__name__} has no expert")
        return await env.expert()

    return speak


def silent() -> Speaker:
    """Says nothing, every turn."""

    async def speak(env: Env, tools: tuple[ToolSpec, ...]) -> Message:
        return say("assistant", "")

    return speak


def recorded(actions: Sequence[Message]) -> Speaker:
    """Says these messages, in order."""
    left = iter(actions)

    async def speak(env: Env, tools: tuple[ToolSpec, ...]) -> Message:
        return next(left)

    return speak


def uniform(source: random.Random) -> Speaker:
    """Picks uniformly from the legal actions; without `Legal`, a random call that fits a tool's schema, or a word."""

    async def speak(env: Env, tools: tuple[ToolSpec, ...]) -> Message:
        if isinstance(env, Legal) and (actions := await env.legal()):
            return source.choice(list(actions))
        if tools and source.random() < 0.8:
            spec = source.choice(tools)
            return calling(spec.name, cast("dict[str, object]", example(spec.parameters, source)))
        return say("assistant", source.choice(["yes", "no", "a", "b", "0", "1", "42"]))

    return speak


def example(schema: dict[str, Any], source: random.Random) -> object:
    """A random value that fits a simple JSON schema.

    >>> example({"type": "object", "properties": {"n": {"enum": [3]}}, "required": ["n"]}, random.Random(0))
    {'n': 3}
    """
    if "enum" in schema:
        return source.choice(cast("list[object]", schema["enum"]))
    if "anyOf" in schema:
        return example(source.choice(cast("list[dict[str, Any]]", schema["anyOf"])), source)
    match schema.get("type"):
        case "object":
            properties = cast("dict[str, dict[str, Any]]", schema.get("properties", {}))
            required = cast("list[str]", schema.get("required", []))
            return {name: example(properties[name], source) for name in required}
        case "array":
            return [example(cast("dict[str, Any]", schema.get("items", {})), source) for _ in range(source.randint(0, 3))]
        case "integer":
            return source.randint(int(schema.get("minimum", 0)), int(schema.get("maximum", 9)))
        case "number":
            return source.uniform(float(schema.get("minimum", 0.0)), float(schema.get("maximum", 9.0)))
        case "boolean":
            return source.random() < 0.5
        case "null":
            return None
        case _:
            return source.choice(["a", "b", "one", "two", "x1"])
