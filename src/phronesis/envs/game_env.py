"""Worlds that are a game: one object whose whole state is a JSON value, played through tools.

A `Game` knows its rules, its state, what it pays and what was truly achieved. `GameEnv` adds what every such world has: the
tools, the checks of their arguments, snapshots, legal actions, an expert, and a reward that comes once, at the end.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

from phronesis.env import Env, Speaker
from phronesis.envs.digest import digest
from phronesis.envs.noise import NoisyEnv
from phronesis.envs.tool_env import Opening, Outcome, ToolEnv
from phronesis.errors import ConfigError, ToolError
from phronesis.records import Message, Reply, Task, ToolSpec
from phronesis.rewards import EnvReward
from phronesis.tool import as_tool


class Game(ABC):
    """One episode of a world. Subclasses keep everything that changes in `state`."""

    answers: ClassVar[bool] = False
    """True: a message without calls is the final answer. False: it is answered with a reminder of the tools."""

    def __init__(self, payload: Mapping[str, Any], seed: int):
        self.payload, self.seed = payload, seed
        self.over = False
        """Whether the episode has ended."""
        self.paid = 0.0
        """What the episode has earned, in [0, 1]."""
        self.true = 0.0
        """What was truly achieved, 1 or 0. Differs from `paid` only where a weakness is planted."""

    @abstractmethod
    def tools(self) -> Sequence[Callable[..., object]]:
        """Typed, documented functions the policy may call."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that changes, as JSON."""

    @abstractmethod
    def put(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""

    @abstractmethod
    def legal(self) -> Sequence[Message]:
        """What would be accepted now, in a fixed order."""

    @abstractmethod
    def advise(self) -> Message:
        """A best action, for oracles."""

    def answer(self, text: str) -> None:
        """Judges the final message of a world that `answers`."""
        self.end(paid=False, true=False)

    def key(self) -> dict[str, Any]:
        """What tells states apart for credit: all of `state`, unless part of it is mere bookkeeping."""
        return self.state()

    def metrics(self) -> dict[str, float]:
        """Numbers told when the episode has ended."""
        return {}

    def end(self, *, paid: bool, true: bool) -> None:
        """Ends the episode."""
        self.over, self.paid, self.true = True, float(paid), float(true)

    def go_on(self) -> None:
        """Refuses calls after the end.

        Raises:
            ToolError: the episode is over.
        """
        if self.over:
            raise ToolError("the episode is over", "episode_over")


class GameEnv(ToolEnv):
    """Plays one `Game`. Reward: what the game paid, at the last turn; the metric ``true`` says what was achieved."""

    def __init__(self, kind: Callable[[Mapping[str, Any], int], Game]):
        super().__init__()
        self._kind = kind
        self._game: Game | None = None

    @property
    def game(self) -> Game:
        """The episode's game.

        Raises:
            RuntimeError: it was neither reset nor restored.
        """
        if self._game is None:
            raise RuntimeError("reset or restore the environment before using it")
        return self._game

    async def begin(self, task: Task, seed: int) -> Opening:
        """Opens with the task's messages."""
        tools = tuple(as_tool(f) for f in self._start(task.payload, seed).tools())
        return Opening(task.messages, tools, self._key())

    async def settle(self, action: Message, outcome: Outcome | None) -> Reply:
        """Judges an answer, and pays when the game is over."""
        game = self.game
        if outcome is None and not game.over:
            game.answer(action.text)
        if not game.over:
            return Reply(state_key=self._key(), metrics={"true": 0.0})
        return Reply(done=True, reward=game.paid, state_key=self._key(), metrics={"true": game.true, **game.metrics()})

    async def legal(self) -> Sequence[Message]:
        """What the game would accept; nothing once it is over."""
        return [] if self.game.over else self.game.legal()

    async def expert(self) -> Message:
        """What the game advises."""
        return self.game.advise()

    async def snapshot(self) -> bytes:
        """The game's state, with the task's payload and the seed."""
        game = self.game
        ended = {"over": game.over, "paid": game.paid, "true": game.true}
        found = {"payload": game.payload, "seed": game.seed, "state": game.state(), "ended": ended}
        return json.dumps(found).encode()

    async def restore(self, state: bytes) -> None:
        """Continues from a snapshot."""
        found = cast("dict[str, Any]", json.loads(state))
        game = self._start(found["payload"], found["seed"])
        game.put(found["state"])
        ended = found["ended"]
        game.over, game.paid, game.true = ended["over"], ended["paid"], ended["true"]
        self.tools = {tool.spec.name: tool for tool in map(as_tool, game.tools())}

    def _start(self, payload: Mapping[str, Any], seed: int) -> Game:
        self._game = game = self._kind(payload, seed)
        self.no_call = "done" if game.answers else "remind"
        return game

    def _key(self) -> str:
        return digest([self.game.key(), self.game.over])


def rubric(*metrics: str) -> EnvReward:
    """Judges games: ``success`` is what was paid; ``true`` and further metrics are kept for audit."""
    return EnvReward(by="episode", name="success", audit_metrics=("true", *metrics))


def game_of(env: Env) -> Game:
    """The game inside an environment, also behind an imperfect channel. For scripted agents.

    Raises:
        ConfigError: there is none.
    """
    while isinstance(env, NoisyEnv):
        env = env.inner
    if not isinstance(env, GameEnv):
        raise ConfigError(f"{type(env).__name__!r} plays no game")
    return env.game


def scripted(*actions: Callable[[Game], Message] | Message) -> Callable[[], Speaker]:
    """Makers of an agent that says these messages in order and then repeats the last one.

    Args:
        actions: messages, or functions of the game that give one.
    """

    def make() -> Speaker:
        left = list(actions)

        async def speak(env: Env, tools: tuple[ToolSpec, ...]) -> Message:
            chosen = left.pop(0) if len(left) > 1 else left[0]
            return chosen if isinstance(chosen, Message) else chosen(game_of(env))

        return speak

    return make


def levels(world: str, low: int, high: int, top: int) -> None:
    """Checks the dials of difficulty.

    Raises:
        ConfigError: not 1 <= low <= high <= top.
    """
    if not 1 <= low <= high <= top:
        raise ConfigError(f"{world} needs 1 <= min_difficulty <= max_difficulty <= {top}, got {low!r} and {high!r}")


def playing(kind: Callable[[Mapping[str, Any], int], Game]) -> Callable[[], Env]:
    """`EnvSpec.make` of a kind of game."""
    return partial(GameEnv, kind)
