"""One episode while an outside agent plays it: its tree, its account, its rewards; in the end a record like any other."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from math import isfinite
from typing import NamedTuple

from msgspec.structs import replace

from phronesis.chat.format import ChatFormat
from phronesis.chat.wire.exchange import ChatRequest
from phronesis.gateway.asking import chosen, forced_call, has_choice, visible
from phronesis.gateway.errors import GatewayError, bad_request, conflict
from phronesis.gateway.record import follows, renumbered, sift, told
from phronesis.gateway.tree import Place, Point, TokenTree
from phronesis.policy import Completion, Policy, Releases, SamplingParams, prompt_crc
from phronesis.records import Component, Episode, Failure, Finish, Message, Reply, Reward, Stop, Task, ToolSpec, Turn
from phronesis.rollout.limits import Limits, Sampling
from phronesis.seeding import stream


class Said(NamedTuple):
    """One sampled message."""

    point: Point
    """Its place in the tree: what is sent, and the ids."""
    turn: Turn
    """The record."""
    place: Place
    """How its request stood to what came before."""


class LiveEpisode:
    """An episode that is being played.

    Args:
        id: unique within the run.
        task: what is attempted.
        seed: the environment's and every turn's seed derive from it, as in `phronesis.rollout`.
        policy: who continues the ids.
        chat: how messages become ids.
        limits: what the episode may use; `env_seconds`, `rubric_seconds` and `reply_chars` are the agent's own affair.
        sampling: how turns are sampled, whatever clients ask for; None lets them choose.
        group: group it belongs to.
        step: training step.
    """

    def __init__(
        self,
        id: str,
        task: Task,
        seed: int,
        *,
        policy: Policy,
        chat: ChatFormat,
        limits: Limits,
        sampling: Sampling | None = None,
        group: str | None = None,
        step: int | None = None,
    ):
        self.id, self.task, self.seed, self.group, self.step = id, task, seed, group, step
        self.policy, self.limits, self.sampling = policy, limits, sampling
        self.tree = TokenTree(chat)
        self.points: list[Point] = []
        """Where each turn stands."""
        self.turns: list[Turn] = []
        """Messages sampled so far, in order of completion."""
        self.components: list[Component] = []
        """Rewards given so far."""
        self.asked = self.in_flight = self.lines = self.sampled_tokens = self.events = 0
        self.stop: Stop | None = None
        self.failure: Failure | None = None
        self.limit: Stop | None = None
        """The limit that last refused a request: why the episode ended, when its agent gives no other reason."""
        self.counts: Counter[str] = Counter()
        """``cancelled`` (the client went away while sampling), ``undelivered`` and ``superseded`` (see `record`), ``faults``
        (of the policy), ``overridden`` (sampling a client asked for in vain), ``unenforced`` (wishes about calls that were
        not followed), ``malformed`` (messages with mistakes in their calls or thoughts)."""
        self.opening: tuple[Message, ...] = ()
        self.tools: tuple[ToolSpec, ...] = ()
        self.started = self.touched = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since it was created."""
        return time.monotonic() - self.started

    @property
    def idle(self) -> float:
        """Seconds since anything was heard of it; 0 while a request is in flight."""
        return 0.0 if self.in_flight else time.monotonic() - self.touched

    async def ask(self, request: ChatRequest) -> list[Said]:
        """Samples the next message; `request.n` of them, each a branch of its own.

        Raises:
            GatewayError: the episode is over, a limit is reached, the request cannot be served, or the policy hung.
            TemplateError: the chat format cannot write the messages.
            PolicyFault: the policy failed.
            asyncio.CancelledError: the client went away; nothing is recorded.
        """
        self.check_open()
        self._check_allowance(request.n)
        if not request.messages or request.messages[-1].role == "assistant":
            raise bad_request("the conversation must end with a message that the assistant answers, not with its own")
        place = self.tree.place(request.messages, request.tools)
        many = self._params(request, place)
        self.tree.enter(place)
        if not self.opening:
            self.opening, self.tools = request.messages, request.tools
        first, self.asked = self.asked, self.asked + request.n
        began, at = self._tick(), self.elapsed
        after = follows(self.tree, self.points, self.turns, place, busy=self.in_flight > 0)
        self.in_flight += 1
        try:
            async with asyncio.TaskGroup() as all_of_them:
                tasks = [all_of_them.create_task(self._sample(place, p)) for p in many]
        except BaseExceptionGroup as failed:
            self.tree.leave(place)
            self.counts["faults"] += 1
            raise failed.exceptions[0] from failed
        except asyncio.CancelledError:
            self.tree.leave(place)
            self.counts["cancelled"] += 1
            raise
        finally:
            self.in_flight -= 1
            self.touched = time.monotonic()
        self.check_open()
        self._note_wait(place, at)
        said = [
            self._record(request, place, params, task.result(), first + i)
            for i, (params, task) in enumerate(zip(many, tasks, strict=True))
        ]
        ended = self._tick()
        for one in said:
            one.point.began, one.point.ended = began, ended
            timed = replace(one.turn, follows=after, started=at, policy_seconds=self.elapsed - at)
            self.turns[one.point.turn] = timed
        return said

    def reward(self, component: Component, *, change: bool = False) -> bool:
        """Notes a reward; False when the very same was noted before.

        Raises:
            GatewayError: the episode is over, the score is not finite, the turn does not exist, or another score was given
                under that name for that turn and `change` is not set.
        """
        self.check_open()
        if component.score is None or not isfinite(component.score * component.weight):
            raise bad_request(f"score {component.score!r} (weight {component.weight!r}) is not a finite number", "bad_reward")
        if component.turn is not None and not 0 <= component.turn < len(self.turns):
            raise bad_request(
                f"turn {component.turn!r} does not exist: episode {self.id!r} has {len(self.turns)} turns, counted from 0",
                "bad_reward",
            )
        self.touched = time.monotonic()
        if component.turn is not None:
            self.points[component.turn].judged = True
        for i, old in enumerate(self.components):
            if (old.name, old.turn) != (component.name, component.turn):
                continue
            if old == component:
                return False
            if not change:
                what = "the episode" if old.turn is None else f"turn {old.turn}"
                raise conflict(
                    f'reward {old.name!r} of {what} was given before ({old.score!r}); send "change": true to change it, '
                    "or another name to add to it",
                    "rewarded_before",
                )
            self.components[i] = component
            return True
        self.components.append(component)
        return True

    def finish(self, stop: Stop | None = None, failure: Failure | None = None) -> None:
        """Ends the episode; what requests in flight bring is refused.

        Args:
            stop: why; None means the limit that refused the last request, else `Stop.completed`.
            failure: what broke, for a fault.

        Raises:
            GatewayError: it is over already.
        """
        self.check_open()
        self.stop = stop or self.limit or Stop.completed
        if self.stop.is_fault:
            self.failure = failure or Failure(where="agent", kind=self.stop.value, message="no reason was given")
        if isinstance(self.policy, Releases):
            for line in range(self.lines):
                self.policy.release(f"{self.id}/{line}")

    def record(self) -> Episode:
        """The finished episode; see `phronesis.gateway.record.record`."""
        lost, retried, kept = sift(self.tree, self.points)
        self.counts["undelivered"], self.counts["superseded"] = lost, retried
        parts = [c if c.turn is None else replace(c, turn=kept.index(c.turn)) for c in self.components]
        fault = self.stop is None or self.stop.is_fault
        return Episode(
            id=self.id,
            task=self.task,
            seed=self.seed,
            opening=self.opening,
            tools=self.tools,
            turns=renumbered(self.turns, kept),
            stop=self.stop or Stop.cancelled,
            reward=Reward(components=tuple(parts)) if parts and not fault else None,
            failure=self.failure,
            group=self.group,
            step=self.step,
            seconds=self.elapsed,
        )

    def summary(self) -> dict[str, object]:
        """What is known of it, as JSON values."""
        rewards = [{"name": c.name, "score": c.score, "weight": c.weight, "turn": c.turn} for c in self.components]
        return {
            "id": self.id,
            "task": self.task.id,
            "split": self.task.split,
            "group": self.group,
            "step": self.step,
            "seed": self.seed,
            "state": "open" if self.stop is None else "finished",
            "stop": None if self.stop is None else self.stop.value,
            "reward": Reward(components=tuple(self.components)).value,
            "rewards": rewards,
            "roots": sum(t.parent is None for t in self.turns),
            "requests": dict(self.tree.kinds),
            "repairs": dict(self.tree.repairs),
            "counts": {k: n for k, n in self.counts.items() if n},
            "sampled_tokens": self.sampled_tokens,
            "seconds": round(self.elapsed, 3),
            "turns": [told(turn, point) for turn, point in zip(self.turns, self.points, strict=True)],
        }

    def check_open(self) -> None:
        """Raises GatewayError (409) when the episode is over."""
        if self.stop is not None:
            raise conflict(
                f"episode {self.id!r} is over ({self.stop.value}): open another one for further requests; rewards come before "
                "an episode is finished, or with it",
                "episode_over",
            )

    def _note_wait(self, place: Place, at: float) -> None:
        """The first request that continues a turn tells what the world answered, and how long that took."""
        if place.parent is not None and self.turns[place.parent.turn].reply is None:
            heard = self.turns[place.parent.turn]
            waited = max(at - heard.started - heard.policy_seconds, 0.0)
            self.turns[place.parent.turn] = replace(heard, reply=Reply(messages=place.between), env_seconds=waited)

    def _tick(self) -> int:
        self.events += 1
        return self.events

    def _check_allowance(self, n: int) -> None:
        limits = self.limits
        if self.asked + n > limits.max_turns:
            raise self._refuse(Stop.max_turns, f"the episode has used {self.asked} of limits.max_turns = {limits.max_turns}")
        if limits.max_tokens is not None and self.sampled_tokens >= limits.max_tokens:
            raise self._refuse(Stop.max_tokens, f"the episode has used up limits.max_tokens = {limits.max_tokens}")
        if limits.seconds is not None and self.elapsed >= limits.seconds:
            raise self._refuse(Stop.timeout, f"the episode has lasted longer than limits.seconds = {limits.seconds:g}")

    def _refuse(self, stop: Stop, why: str) -> GatewayError:
        self.limit = stop
        code = "context_length_exceeded" if stop is Stop.context else stop.value
        return bad_request(f"{why}; finish episode {self.id!r}, or raise the limit", code)

    def _params(self, request: ChatRequest, place: Place) -> list[SamplingParams]:
        """How each of the wanted messages is sampled."""
        limits, wanted, used = self.limits, chosen(request), len(place.prompt)
        if limits.context is not None and used >= limits.context:
            raise self._refuse(Stop.context, f"the prompt has {used} ids, the context holds {limits.context}")
        left = None if limits.max_tokens is None else limits.max_tokens - self.sampled_tokens
        room = None if limits.context is None else limits.context - used
        allowed = [n for n in (limits.max_turn_tokens, request.max_tokens, room, left) if n is not None]
        if min(allowed) < 1:
            raise bad_request(f"max_tokens must be at least 1, got {request.max_tokens!r}")
        sampling = self.sampling or wanted
        self.counts["overridden"] += has_choice(request) and (self.sampling is not None)
        self.counts["unenforced"] += request.tool_mode == "none" and bool(request.tools)
        params = SamplingParams(
            max_tokens=min(allowed),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            stop_ids=self.tree.chat.stop_ids,
            stop_strings=request.stop,
            forced=forced_call(self.tree.chat, request),
            thought=None if limits.thought_tokens is None else self.tree.chat.thought_budget(limits.thought_tokens),
        )
        own = request.seed if self.sampling is None else None
        return [
            replace(params, seed=self._seed(own, member), cache_key=self._line(place, member)) for member in range(request.n)
        ]

    def _seed(self, own: int | None, member: int) -> int:
        """The client's seed where it may choose, else the one the turn has in `phronesis.rollout`."""
        return stream(self.seed, "turn", self.asked + member) if own is None else stream(own, "member", member)

    def _line(self, place: Place, member: int) -> str:
        """The engine's cache key: the parent's where this request alone extends it, else a new one."""
        parent = place.parent
        if parent is not None and place.joined and not parent.uses and not member:
            return parent.line
        self.lines += 1
        return f"{self.id}/{self.lines - 1}"

    async def _sample(self, place: Place, params: SamplingParams) -> Completion:
        patience = self.limits.policy_seconds
        deadline = asyncio.timeout(patience)
        try:
            async with deadline:
                completion = await self.policy.sample(place.prompt, params)
        except TimeoutError as late:
            if not deadline.expired():
                raise
            raise GatewayError(504, "policy_hung", f"the policy gave no answer within {patience:g} s", 5.0) from late
        n = len(completion.ids)
        if completion.prompt_crc != prompt_crc(place.prompt) or not n == len(completion.sampled) == len(completion.logprobs):
            message = f"the policy consumed other ids than it was sent, or its {n} ids, marks and logprobs differ in number"
            raise GatewayError(500, "token_mismatch", message)
        if completion.finish is Finish.cancelled:
            raise GatewayError(503, "policy_cancelled", "the policy withdrew the request; send it again", 1.0)
        return completion

    def _record(self, request: ChatRequest, place: Place, params: SamplingParams, done: Completion, number: int) -> Said:
        """Enters a sampled message into the tree and among the turns."""
        parsed = self.tree.chat.parse(done.ids, number)
        self.counts["malformed"] += parsed.error is not None
        self.counts["unenforced"] += not request.parallel_calls and len(parsed.message.tool_calls) > 1
        parent = place.parent
        turn = Turn(
            parent=parent.turn if parent is not None and place.joined else None,
            context=place.context,
            completion=done.ids,
            sampled=done.sampled,
            logprobs=done.logprobs,
            entropies=done.entropies,
            temperature=params.temperature,
            version=done.version,
            finish=done.finish,
            spans=parsed.spans,
            prompt_crc=done.prompt_crc,
            action=parsed.message,
            parse_error=parsed.error,
            seed=params.seed,
            cached_tokens=done.cached_tokens,
        )
        point = Point(
            turn=len(self.turns),
            parent=parent,
            between=place.between,
            tools=request.tools,
            said=parsed.message,
            sent=visible(parsed.message, request.stop),
            prompt=place.prompt,
            completion=done.ids,
            line=params.cache_key or "",
            kind=place.kind,
        )
        self.turns.append(turn)
        self.points.append(point)
        self.tree.add(point)
        self.sampled_tokens += sum(done.sampled)
        return Said(point, turn, place)
