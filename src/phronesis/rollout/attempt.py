"""One attempt at a task: the turns, the account and the verdict that all branches of its episode share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from phronesis.chat.format import ChatFormat
from phronesis.env import Admits, Env
from phronesis.policy import Chats, Policy
from phronesis.records import Episode, Failure, Message, Stop, Task, ToolSpec, Turn
from phronesis.rollout.failures import FOREIGN, describe, hung, is_cancelled
from phronesis.rollout.limits import Limits, Sampling

T = TypeVar("T")


class EpisodeOver(Exception):
    """Unwinds the agent when the episode has ended under it; caught by `play` and by nobody else."""


class Attempt:
    """What all branches of one episode share: the turns, the account, the verdict."""

    def __init__(
        self,
        task: Task,
        seed: int,
        *,
        make_env: Callable[[], Env],
        policy: Policy | Chats,
        chat: ChatFormat,
        limits: Limits,
        sampling: Sampling,
        key: str,
        waiting: dict[str, str],
    ):
        self.task, self.seed, self.make_env = task, seed, make_env
        self.draws = seed
        self.policy, self.chat, self.limits, self.sampling, self.key = policy, chat, limits, sampling, key
        self.by_ids = isinstance(policy, Policy)
        self.waiting = waiting
        self.turns: list[Turn] = []
        self.opening: tuple[Message, ...] = ()
        self.tools: tuple[ToolSpec, ...] = ()
        self.stop: Stop | None = None
        self.failure: Failure | None = None
        self.verdict: Stop | None = None
        self.sampled_tokens = 0
        self.asked = 0
        self.branches = 0
        self.envs: list[Env] = []
        self._own: asyncio.Timeout | None = None
        self._asking = 0
        self.started = time.monotonic()

    def resume(self, episode: Episode, turn: int, draws: int) -> None:
        """Takes over what an episode had recorded just before turn `turn`; from there on turns are drawn from seed `draws`."""
        self.turns, self.opening, self.tools = list(episode.turns[:turn]), episode.opening, episode.tools
        self.asked, self.sampled_tokens = turn, sum(t.produced for t in self.turns)
        self.draws = draws

    @property
    def elapsed(self) -> float:
        """Seconds since the episode began."""
        return time.monotonic() - self.started

    def end(self, stop: Stop, failure: Failure | None = None) -> EpisodeOver:
        """Records the verdict (the first one stands) and returns the exception that unwinds the agent."""
        if self.stop is None:
            self.stop, self.failure = stop, failure
        return EpisodeOver(stop)

    async def guard(self, where: str, call: Callable[[], Awaitable[T]], fault: Stop, patience: float) -> T:
        """Awaits foreign code under a deadline; whatever it raises becomes this episode's failure."""
        left = None if self.limits.seconds is None else self.limits.seconds - self.elapsed
        deadline = asyncio.timeout(patience if left is None else min(patience, max(left, 0.0)))
        self.waiting[self.key] = where
        self._asks(1)
        try:
            async with deadline:
                return await call()
        except FOREIGN as error:
            if isinstance(error, EpisodeOver) or is_cancelled(error):
                raise
            if isinstance(error, TimeoutError) and deadline.expired():
                if left is not None and left <= patience:
                    raise self.end(Stop.timeout) from error
                raise self.end(fault, hung(where, patience)) from error
            raise self.end(fault, describe(where, error)) from error
        finally:
            self.waiting.pop(self.key, None)
            self._asks(-1)

    async def by_agent(self, run: Awaitable[None]) -> None:
        """Awaits the agent. Where it takes longer than `Limits.agent_seconds` at a stretch over its own affairs, it hangs: only
        time in which none of its branches asks the policy or the environment counts."""
        self._own = own = asyncio.timeout(self.limits.agent_seconds)
        try:
            async with own:
                await run
        except TimeoutError as error:
            if not own.expired():
                raise
            raise self.end(Stop.infra_fault, hung("agent.run", self.limits.agent_seconds)) from error
        finally:
            self._own = None

    def _asks(self, more: int) -> None:
        """A call to the policy or the environment begins (1) or is over (-1): the agent's own clock stops or begins anew."""
        self._asking += more
        if self._own is not None and not self._own.expired():
            now = asyncio.get_running_loop().time()
            self._own.reschedule(None if self._asking else now + self.limits.agent_seconds)

    async def open_env(self) -> Env:
        """A fresh environment, closed when the episode ends."""

        async def build() -> Env:
            return self.make_env()

        env = await self.guard("env.make", build, Stop.env_fault, self.limits.env_seconds)
        self.envs.append(env)
        if isinstance(env, Admits):
            await self._admit(env)
        return env

    async def _admit(self, env: Admits) -> None:
        """Waits for an environment's place. How long depends on other episodes, so that this one is not charged for it."""
        began, patience = time.monotonic(), self.limits.admit_seconds
        deadline = asyncio.timeout(patience)
        self.waiting[self.key] = env.waits_for
        try:
            async with deadline:
                await env.admit()
        except FOREIGN as error:
            if is_cancelled(error):
                raise
            late = isinstance(error, TimeoutError) and deadline.expired()
            failure = hung("env.admit", patience) if late else describe("env.admit", error)
            raise self.end(Stop.env_fault, failure) from error
        finally:
            self.waiting.pop(self.key, None)
            self.started += time.monotonic() - began

    async def close(self) -> None:
        """Closes every environment once; a failure to close is recorded only when nothing else went wrong.

        Raises:
            asyncio.CancelledError: the caller gave up while one was being closed; the others are closed first.
        """
        given_up: BaseException | None = None
        while self.envs:
            env = self.envs.pop(0)
            deadline = asyncio.timeout(self.limits.env_seconds)
            try:
                async with deadline:
                    await env.close()
            except FOREIGN as error:
                if is_cancelled(error):
                    given_up = error
                elif self.failure is None:
                    late = isinstance(error, TimeoutError) and deadline.expired()
                    failure = hung("env.close", self.limits.env_seconds) if late else describe("env.close", error)
                    self.stop, self.failure = Stop.env_fault, failure
        if given_up is not None:
            raise given_up
