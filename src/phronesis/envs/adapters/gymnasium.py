"""Gymnasium worlds with a few named actions, played in text through an action tool and a legal-action tool.

What the world says about itself in `info` (transition probabilities, action masks) never reaches the policy: it is dropped
at this boundary. Gymnasium's own time-limit wrapper is replaced by one whose count is part of the snapshot.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, cast

import gymnasium
import msgspec
import numpy as np

from phronesis.envs.adapters.tables import Solution, Transitions, solve
from phronesis.envs.digest import digest
from phronesis.envs.tool_env import Opening, Outcome, ToolEnv
from phronesis.envs.trl_style import calling
from phronesis.errors import ConfigError, ToolError
from phronesis.records import Message, Reply, Stop, Task, ToolSpec, say
from phronesis.tool import Tool

logger = logging.getLogger(__name__)


class RawWorld(Protocol):
    """What is used of an unwrapped Gymnasium environment."""

    np_random: np.random.Generator

    def reset(self, *, seed: int | None = None) -> tuple[object, dict[str, object]]:
        """Begins; returns (observation, info)."""
        ...

    def step(self, action: int, /) -> tuple[object, float, bool, bool, dict[str, object]]:
        """Returns (observation, reward, terminated, truncated, info)."""
        ...


Options = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class World:
    """How one Gymnasium world is told in text."""

    ids: tuple[str, ...]
    """Registered names, newest first: worlds change their version between Gymnasium releases."""
    tool: tuple[str, str, str]
    """The action tool: its name, the name of its argument, its description."""
    actions: tuple[str, ...]
    """Action names, by action number."""
    rules: Callable[[RawWorld], str]
    """The opening text, without what is seen."""
    describe: Callable[[RawWorld, object], str]
    """What is seen now, of the world and its observation."""
    earned: Callable[[float, bool], float]
    """Score of a transition (raw reward, terminated); the scores of an episode sum to a value in [0, 1]."""
    ending: Callable[[RawWorld, float], str]
    """What is said when the episode ends with this raw reward."""
    state: tuple[str, ...] = ("s", "lastaction")
    """Attributes that, with the random generator, make up the state."""
    visible: tuple[str, ...] = ("s",)
    """Attributes that name the state for credit."""


@cache
def _prototype(ids: tuple[str, ...], options: str) -> RawWorld:
    """An unwrapped world, built once; episodes play on shallow copies, which share the transition table."""
    for candidate in ids:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                env = cast("Any", gymnasium).make(candidate, disable_env_checker=True, **json.loads(options))
            return cast("RawWorld", env.unwrapped)
        except gymnasium.error.UnregisteredEnv as error:
            logger.debug("%s is not offered by Gymnasium %s: %s", candidate, gymnasium.__version__, error)
    raise ConfigError(f"Gymnasium {gymnasium.__version__} offers none of {', '.join(ids)}")


def prototype(world: World, options: Mapping[str, object]) -> RawWorld:
    """The shared, never played instance of a world with these constructor options."""
    return _prototype(world.ids, json.dumps(dict(options), sort_keys=True))


@cache
def _solution(ids: tuple[str, ...], options: str, horizon: int, earned: Callable[[float, bool], float]) -> Solution:
    table = cast("Transitions", getattr(_prototype(ids, options), "P"))  # noqa: B009 - only worlds with a table come here
    return solve(table, earned, horizon)


def solution(world: World, options: Mapping[str, object], horizon: int) -> Solution:
    """Exact values of a world that lists its transitions; computed once per world, options and horizon."""
    return _solution(world.ids, json.dumps(dict(options), sort_keys=True), horizon, world.earned)


class GymnasiumEnv(ToolEnv):
    """One episode of a world. Payload: ``options`` (constructor), optional ``start`` (state) and ``deal`` (opening seed).

    Reward: the scores of `World.earned`. The raw reward is in the metric ``raw_return`` for people to see.
    """

    def __init__(self, world: World, *, limit: int, remind: bool = True):
        super().__init__()
        self.world, self.limit = world, limit
        self.no_call = "remind" if remind else "done"
        self.raw: RawWorld | None = None
        self.payload: dict[str, Any] = {}
        self.observation: object = None
        self.steps, self.over = 0, False
        self._turn: list[tuple[float, bool]] = []

    async def begin(self, task: Task, seed: int) -> Opening:
        """Opens with the rules and what is seen first."""
        raw = self._fresh(task.payload)
        if "deal" in self.payload:
            self.observation, _ = raw.reset(seed=int(self.payload["deal"]))
            raw.np_random = np.random.default_rng(seed)
        else:
            self.observation, _ = raw.reset(seed=seed % 2**32)
        if "start" in self.payload:
            self.observation = int(self.payload["start"])
            setattr(raw, "s", self.observation)  # noqa: B010 - only worlds with a table have it
        text = f"{self.world.rules(raw)}\n\n{self.world.describe(raw, self.observation)}"
        return Opening((*task.messages, say("user", text)), tuple(self.tools.values()), self._state_key())

    async def settle(self, action: Message, outcome: Outcome | None) -> Reply:
        """Sums what the turn's steps earned."""
        score = sum(self.world.earned(reward, done) for reward, done in self._turn)
        raw_return = sum(reward for reward, _ in self._turn)
        finished = any(done for _, done in self._turn)
        self._turn = []
        over = self.over or outcome is None  # a message without calls ends the episode only when it gets no reminder
        truncated = self.over and not finished
        return Reply(
            reward=score,
            done=over,
            stop=Stop.max_turns if truncated else None,
            state_key=self._state_key(),
            metrics={"raw_return": raw_return},
        )

    async def legal(self) -> Sequence[Message]:
        """Every action, in order of its number."""
        name, argument, _ = self.world.tool
        return [] if self.over else [calling(name, {argument: action}) for action in self.world.actions]

    async def snapshot(self) -> bytes:
        """World, random generator and step count."""
        raw = self._playing()
        state = {
            "payload": self.payload,
            "world": {name: getattr(raw, name) for name in self.world.state},
            "random": raw.np_random.bit_generator.state,
            "observation": self.observation,
            "steps": self.steps,
            "over": self.over,
        }
        return json.dumps(state, default=int).encode()

    async def restore(self, state: bytes) -> None:
        """Continues from a snapshot."""
        found = cast("dict[str, Any]", json.loads(state))
        raw = self._fresh(found["payload"])
        for name, value in found["world"].items():
            setattr(raw, name, value)
        raw.np_random = np.random.default_rng()
        raw.np_random.bit_generator.state = found["random"]
        observation = found["observation"]
        self.observation = tuple(cast("list[int]", observation)) if isinstance(observation, list) else observation
        self.steps, self.over = found["steps"], found["over"]

    def _fresh(self, payload: Mapping[str, Any]) -> RawWorld:
        self.payload = dict(payload)
        self.raw = copy.copy(prototype(self.world, self.payload.get("options", {})))
        self.steps, self.over, self._turn = 0, False, []
        self.tools = {tool.spec.name: tool for tool in (self._action_tool(), self._legal_tool())}
        return self.raw

    def _playing(self) -> RawWorld:
        if self.raw is None:
            raise RuntimeError("reset or restore the environment before using it")
        return self.raw

    def _state_key(self) -> str:
        visible = [getattr(self._playing(), name) for name in self.world.visible]
        return digest(json.dumps(visible, default=int))

    def _step(self, action: str) -> str:
        if self.over:
            raise ToolError("the episode is over", "episode_over")
        raw = self._playing()
        self.observation, reward, terminated, _, _ = raw.step(self.world.actions.index(action))
        self.steps += 1
        self.over = bool(terminated) or self.steps >= self.limit
        self._turn.append((float(reward), bool(terminated)))
        seen = self.world.describe(raw, self.observation)
        if terminated:
            return f"{seen}\n{self.world.ending(raw, float(reward))}"
        return f"{seen}\nNo steps are left." if self.over else seen

    def _action_tool(self) -> Tool:
        name, argument, description = self.world.tool
        kind = cast("Any", Literal)[self.world.actions]
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {argument: {"type": "string", "enum": list(self.world.actions)}},
            "required": [argument],
        }

        def act(**arguments: str) -> str:
            return self._step(arguments[argument])

        return Tool(
            spec=ToolSpec(name=name, description=description, parameters=schema),
            function=act,
            types={argument: kind},
            required=frozenset({argument}),
            effect="mutating",
        )

    def _legal_tool(self) -> Tool:
        def legal_actions() -> str:
            return "none, the episode is over" if self.over else ", ".join(self.world.actions)

        return Tool(
            spec=ToolSpec(
                name="legal_actions",
                description="Lists the actions that can be taken now. Takes no step.",
                parameters=msgspec.json.decode('{"type":"object","properties":{},"required":[]}'),
            ),
            function=legal_actions,
            types={},
            required=frozenset(),
            effect="pure",
        )


class TableEnv(GymnasiumEnv):
    """A world that lists its transitions, so that a best action is known."""

    async def expert(self) -> Message:
        """A best action for the steps that are left (backward induction)."""
        best = solution(self.world, self.payload.get("options", {}), self.limit)
        state = int(getattr(self._playing(), "s"))  # noqa: B009 - only worlds with a table come here
        name, argument, _ = self.world.tool
        return calling(name, {argument: self.world.actions[best.action(state, self.limit - self.steps)]})
