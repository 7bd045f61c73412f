"""The session: records every turn, enforces every limit, owns token-exactness and attributes every failure.

Ids a policy sampled are never decoded and encoded again: the next prompt is the previous prompt, the completion, and the
ids of the new messages. Only when the chat format rewrites history does a new branch begin, at a root of the tree.
"""

from __future__ import annotations

from array import array
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar, cast

import msgspec

from phronesis.agent import Budget
from phronesis.env import Env, Snapshots
from phronesis.envs.guard import validate_reply
from phronesis.errors import EnvFault, UserError
from phronesis.policy import Chats, Policy, SamplingParams
from phronesis.records import Failure, Message, Reply, Stop, ToolSpec, Turn
from phronesis.rollout import spoken
from phronesis.rollout.attempt import Attempt, EpisodeOver
from phronesis.rollout.failures import describe
from phronesis.rollout.opening import opened
from phronesis.rollout.pace import Pace
from phronesis.seeding import stream

T = TypeVar("T")

REPLAY_DIFFERS = "ReplayDiffers"
"""Kind of failure of an environment that answered recorded actions otherwise than recorded."""


class Begun(NamedTuple):
    """How the next turn of a branch has begun already."""

    ids: tuple[int, ...] = ()
    """Forced at its beginning, before what the agent forces."""
    thought: int = 0
    """How many of them were sampled in a thought, and are charged to the thought's limit."""


class EpisodeSession:
    """One branch of an episode; implements `phronesis.agent.Session`. Made by `play`, or by `fork`."""

    def __init__(self, attempt: Attempt, env: Env):
        self.attempt, self.env = attempt, env
        self._prompt = array("i")
        self._pending: tuple[int, ...] = ()
        self._messages: list[Message] = []
        self._tools: tuple[ToolSpec, ...] = ()
        self._last: int | None = None
        self._line: list[int] = []
        self.over: Stop | None = None
        self.begun = Begun()
        self._branch = attempt.branches
        attempt.branches += 1

    @property
    def done(self) -> bool:
        """True when this branch, or the whole episode, is over."""
        return self.over is not None or self.attempt.stop is not None

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation on this branch so far."""
        return tuple(self._messages)

    @property
    def prompt(self) -> tuple[int, ...]:
        """The ids the next `sample` sends."""
        return (*self._prompt, *self._pending)

    @property
    def budget(self) -> Budget:
        """What is left."""
        a = self.attempt
        context = a.limits.context
        return Budget(
            turns=a.limits.max_turns - a.asked,
            tokens=None if a.limits.max_tokens is None else a.limits.max_tokens - a.sampled_tokens,
            seconds=None if a.limits.seconds is None else a.limits.seconds - a.elapsed,
            context=None if context is None else context - len(self._prompt) - len(self._pending),
        )

    async def reset(self) -> None:
        """Begins the episode: the environment's opening becomes the first prompt."""
        a = self.attempt
        reply = await self._answer("env.reset", lambda: self.env.reset(a.task, stream(a.seed, "env")))
        self._messages = list(reply.messages)
        self._tools = reply.tools or ()
        if not a.opening:
            a.opening, a.tools = tuple(self._messages), self._tools
        if reply.done:
            self.over = reply.stop or Stop.completed
            return
        a.waiting[a.key] = "chat.open"
        try:
            self._pending = await opened(a.chat, self._messages, self._tools, a.limits.env_seconds)
        except Exception as error:  # templates may raise anything
            raise a.end(Stop.env_fault, describe("chat.open", error)) from error
        finally:
            a.waiting.pop(a.key, None)

    async def sample(
        self,
        *,
        author: str = "policy",
        max_tokens: int | None = None,
        forced: Sequence[int] = (),
        temperature: float | None = None,
    ) -> Turn:
        """Asks the policy for the next turn on this branch and records it.

        Raises:
            EpisodeOver: a limit was reached or the engine failed; `play` catches it.
        """
        a, began = self.attempt, self.attempt.elapsed
        params = self._params(max_tokens, forced, a.sampling.temperature if temperature is None else temperature)
        self.begun = Begun()
        a.asked += 1  # counted when asked, so that branches that sample at once get other seeds and share one allowance
        said = await self._say(params)
        turn = msgspec.structs.replace(
            said, parent=self._last, follows=self._line[-1] if self._line else -1, author=author, context=self._pending,
            temperature=params.temperature, seed=params.seed, started=began, policy_seconds=a.elapsed - began,
        )  # fmt: skip
        self._last = len(a.turns)
        self._line.append(self._last)
        a.turns.append(turn)
        a.sampled_tokens += turn.produced
        self._prompt.extend((*self._pending, *turn.completion))
        self._pending = ()
        self._messages.append(turn.action or Message(role="assistant"))
        return turn

    async def act(self, turn: Turn) -> Reply:
        """Sends a turn's action to the environment and records the reply.

        Raises:
            EpisodeOver: the environment failed, or the episode has ended under this branch; `play` catches it.
            UserError: `turn` is not the latest one of this branch.
        """
        a, at = self.attempt, self._last
        if a.stop is not None:
            raise EpisodeOver(a.stop)
        if at is None or a.turns[at] is not turn or turn.action is None:
            raise UserError(
                "act() takes the turn that sample() just returned on this branch; fork() to act from an earlier one"
            )
        began, action = a.elapsed, turn.action
        reply = await self._answer("env.step", lambda: self.env.step(action))
        a.turns[at] = msgspec.structs.replace(turn, reply=reply, env_seconds=a.elapsed - began)
        if reply.done:
            self.over = a.verdict = reply.stop or Stop.completed
        else:
            self._continue(turn, reply)
            if a.asked >= a.limits.max_turns and len(a.turns) == a.asked:
                a.end(Stop.max_turns)
        return reply

    async def fork(self, at: int | None = None) -> EpisodeSession:
        """A session on a new branch that continues from just before turn `at` (None: from here).

        The environment is restored from a snapshot where it can be, else replayed action by action in a fresh instance,
        and the replay is verified: a reply that differs is an environment fault.

        Raises:
            EpisodeOver: the environment failed, or its replay differed; `play` catches it.
            UserError: `at` is not on this branch, or there is nothing to continue from here.
        """
        a, line = self.attempt, self._line
        if a.stop is not None:
            raise EpisodeOver(a.stop)
        if at is not None and at not in line:
            raise UserError(f"turn {at!r} is not on this branch; its turns are {line}")
        if at is None and self.over is not None:
            raise UserError(f"this branch is over; fork from before one of its turns {line}")
        keep = line if at is None else line[: line.index(at)]
        if keep and a.turns[keep[-1]].reply is None:
            raise UserError(f"turn {keep[-1]} was never acted, so nothing can continue after it; act(), or fork({keep[-1]})")
        branch = EpisodeSession(a, await a.open_env())
        state = await self.snapshot() if at is None else None
        if state is not None:
            await branch.restore(self, state)
        else:
            await branch.replay(keep)
        return branch

    async def snapshot(self) -> bytes | None:
        """The state of the environment; None where it has no snapshots."""
        a = self.attempt
        if not isinstance(self.env, Snapshots):
            return None
        return await a.guard("env.snapshot", self.env.snapshot, Stop.env_fault, a.limits.env_seconds)

    async def restore(self, other: EpisodeSession, state: bytes) -> None:
        """Stands where `other` stood when it took the snapshot `state`; this session's environment is fresh, of its kind."""
        a = self.attempt
        if not isinstance(self.env, Snapshots):
            raise UserError(f"{type(self.env).__name__!r} has no snapshots to restore; replay the line instead")
        await a.guard("env.restore", partial(self.env.restore, state), Stop.env_fault, a.limits.env_seconds)
        self._prompt, self._pending, self._last = other._prompt[:], other._pending, other._last
        self._messages, self._tools, self._line = [*other._messages], other._tools, [*other._line]

    async def replay(self, line: Sequence[int]) -> None:
        """Does again what the turns of a line did; the ids come out the same, since replies and tools must.

        Raises:
            EpisodeOver: the environment failed, or answered otherwise than recorded (kind ``ReplayDiffers``).
        """
        a = self.attempt
        await self.reset()
        if tuple(self._messages) != a.opening or self._tools != a.tools:
            raise self._differs("reset")
        for i in line:
            turn = a.turns[i]
            if turn.action is None or turn.reply is None:
                raise UserError(f"turn {i} was never acted, so nothing can continue after it")
            reply = await self._answer("env.step", partial(self.env.step, turn.action))
            if msgspec.structs.replace(reply, metrics=turn.reply.metrics) != turn.reply:
                raise self._differs(f"turn {i}")
            self._prompt.extend((*self._pending, *turn.completion))
            self._messages.append(turn.action)
            self._last, self._pending = i, ()
            self._line.append(i)
            self._continue(turn, reply)

    def _differs(self, what: str) -> EpisodeOver:
        message = f"replaying {what} gave another reply than recorded: the environment is not a function of its seed"
        return self.attempt.end(Stop.env_fault, Failure(where="env.replay", kind=REPLAY_DIFFERS, message=message))

    def _continue(self, turn: Turn, reply: Reply) -> None:
        """Makes the reply's messages the pending context, on this trajectory or, after a rewrite of history, on a new root."""
        a = self.attempt
        if reply.tools is not None and reply.tools != self._tools:
            self._tools = reply.tools
            self._messages += reply.messages
            self._restart(self._render("chat.open", lambda: a.chat.open(self._messages, self._tools)))
            return
        extension = self._render(
            "chat.extend", lambda: a.chat.extend(self._messages, self._tools, turn.completion, reply.messages)
        )
        self._messages += reply.messages
        if extension.restart:
            self._restart(extension.ids)
        else:
            self._pending = extension.ids

    def _restart(self, ids: tuple[int, ...]) -> None:
        self._prompt, self._pending, self._last = array("i"), ids, None
        self._branch = self.attempt.branches
        self.attempt.branches += 1

    def _params(self, max_tokens: int | None, forced: Sequence[int], temperature: float) -> SamplingParams:
        a, left = self.attempt, self.budget
        if a.stop is not None:
            raise EpisodeOver(a.stop)
        if self.over is not None:
            raise UserError("this branch is over: check session.done before sample(), or fork() from an earlier turn")
        if left.turns <= 0:
            raise a.end(Stop.max_turns)
        if left.tokens is not None and left.tokens <= 0:
            raise a.end(Stop.max_tokens)
        if left.seconds is not None and left.seconds <= 0:
            raise a.end(Stop.timeout)
        if left.context is not None and left.context <= 0:
            raise a.end(Stop.context)
        allowed = [a.limits.max_turn_tokens if max_tokens is None else max_tokens]
        allowed += [n for n in (left.tokens, left.context) if n is not None]
        s, thought = a.sampling, a.limits.thought_tokens
        if thought is not None:
            thought = max(thought - self.begun.thought, 0)
        return SamplingParams(
            max_tokens=min(allowed), temperature=temperature, top_p=s.top_p, top_k=s.top_k, min_p=s.min_p,
            stop_ids=a.chat.stop_ids, seed=stream(a.draws, "turn", a.asked), forced=(*self.begun.ids, *forced),
            thought=None if thought is None else a.chat.thought_budget(thought), cache_key=f"{a.key}/{self._branch}",
        )  # fmt: skip

    async def _say(self, params: SamplingParams) -> Turn:
        """What the policy says next: by ids where it can, by messages where it cannot."""
        a, policy, patience = self.attempt, self.attempt.policy, self.attempt.limits.policy_seconds
        if a.by_ids:
            engine, prompt = cast("Policy", policy), self._prompt + array("i", self._pending)
            completion = await a.guard("policy.sample", lambda: engine.sample(prompt, params), Stop.infra_fault, patience)
            await Pace.of_loop().turn()
            problem = spoken.flaw(prompt, completion)
            if problem is not None:
                raise a.end(Stop.infra_fault, Failure(where="policy.sample", kind="TokenMismatch", message=problem))
            return spoken.of_ids(completion, a.chat, len(a.turns))
        if params.forced:
            raise UserError(
                "a policy that takes messages cannot be made to begin with given ids; use an agent that forces none"
            )
        endpoint, history, number = cast("Chats", policy), self.messages, a.asked - 1
        answer = await a.guard(
            "policy.chat", lambda: endpoint.chat(history, self._tools, params, number), Stop.infra_fault, patience
        )
        return spoken.of_messages(answer, history, number)

    async def _answer(self, where: str, call: Callable[[], Awaitable[Reply]]) -> Reply:
        a = self.attempt
        reply = await a.guard(where, call, Stop.env_fault, a.limits.env_seconds)
        await Pace.of_loop().turn()
        try:
            return validate_reply(reply, opening=where == "env.reset", max_chars=a.limits.reply_chars)
        except EnvFault as error:
            raise a.end(Stop.env_fault, describe(where, error)) from error

    def _render(self, where: str, call: Callable[[], T]) -> T:
        """Chat formats only fail on messages the environment made wrongly, so a failure here is the environment's."""
        try:
            return call()
        except Exception as error:  # templates may raise anything
            raise self.attempt.end(Stop.env_fault, describe(where, error)) from error
