"""One policy call and the environment's answer to it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from msgspec import Struct

from phronesis.records.message import Message, ToolSpec

SpanKind = Literal["think", "act", "say", "plan", "answer", "scaffold"]
Effect = Literal["pure", "mutating", "irreversible"]


class Stop(StrEnum):
    """Why an episode ended. A fault is data; it is never a reward."""

    completed = "completed"
    """The environment said the episode is over."""
    max_turns = "max_turns"
    """The turn limit was reached."""
    max_tokens = "max_tokens"
    """The episode's budget of sampled tokens was used up."""
    context = "context"
    """The next prompt would not fit the model's context."""
    parse = "parse"
    """The agent gave up on a reply that could not be parsed."""
    timeout = "timeout"
    """The episode's wall-clock deadline passed."""
    env_fault = "env_fault"
    """The environment, a tool or the rubric raised, hung or broke its contract."""
    infra_fault = "infra_fault"
    """The engine or the machinery failed; the episode says nothing about the policy."""
    cancelled = "cancelled"
    """Someone asked for it to stop."""

    @property
    def is_fault(self) -> bool:
        """True when the episode says nothing about the policy and must not reach a baseline."""
        return self in (Stop.env_fault, Stop.infra_fault, Stop.cancelled)

    @property
    def is_truncated(self) -> bool:
        """True when a limit, not the environment, ended the episode."""
        return self in (Stop.max_turns, Stop.max_tokens, Stop.context, Stop.timeout)


class Finish(StrEnum):
    """Why one completion ended."""

    stop = "stop"
    """A stop id or stop string was produced."""
    length = "length"
    """`max_tokens` was reached first."""
    context = "context"
    """The model's context was full."""
    cancelled = "cancelled"
    """The request was withdrawn."""
    refused = "refused"
    """The endpoint refused to answer, or its filter cut the answer."""


class Span(Struct, frozen=True, kw_only=True, gc=False):
    """A half-open range of a turn's completion `[start, end)` of one kind."""

    kind: SpanKind
    """think, act (tool call), say, plan, answer, or scaffold (forced text and closing tokens)."""
    start: int
    """First token of the range, counted in the completion."""
    end: int
    """One past the last token."""


class Reply(Struct, frozen=True, kw_only=True, gc=False):
    """What an environment answers to `reset` or `step`."""

    messages: tuple[Message, ...] = ()
    """What the policy sees next: tool results, user messages. Nothing else of a reply reaches the policy."""
    reward: float | None = None
    """Reward of the action just taken; None when the environment does not score it."""
    done: bool = False
    """True when the episode is over."""
    stop: Stop | None = None
    """Why it is over; None means `Stop.completed` when `done`."""
    tools: tuple[ToolSpec, ...] | None = None
    """Tools that can be called from here on; None means unchanged (none at reset)."""
    state_key: str | None = None
    """Hash of the environment's full state after the step, for credit; never shown to the policy."""
    effect: Effect | None = None
    """What the action did to the world; None when not reported."""
    errors: tuple[str, ...] = ()
    """Kinds of mistakes the policy made, e.g. ``unknown_tool``; counted, never shown."""
    metrics: dict[str, float] = {}
    """Numbers for the trainer's side only."""


class Usage(Struct, frozen=True, kw_only=True, gc=False):
    """What an endpoint says one answer took."""

    input_tokens: int = 0
    """Tokens of the prompt, those of a cache included."""
    output_tokens: int = 0
    """Tokens of the answer, those of its thought included."""
    cached_tokens: int = 0
    """Prompt tokens read from the endpoint's cache."""
    written_tokens: int = 0
    """Prompt tokens written to the endpoint's cache."""
    thought_tokens: int = 0
    """Answer tokens spent on thinking, as far as the endpoint tells."""
    cost: float | None = None
    """What it cost, in the currency of the price table; None when the model has no price there."""


class Turn(Struct, frozen=True, kw_only=True, gc=False):
    """One policy call: the ids it added to its parent's sequence and the ids it produced.

    Example: parent consumed ``[1 2 3]`` and produced ``[4 5]``; the environment's answer renders as ``[6 7]``; this turn
    has context ``(6, 7)``, and the engine consumed ``[1 2 3 4 5 6 7]``.
    """

    parent: int | None
    """Index (in `Episode.turns`) of the turn this one extends; None at a root."""
    follows: int | None = None
    """Index of the turn whose reply this one answers, -1 where it answers the reset: tells a fork from a rewritten history.
    None where it was not noted; see `Episode.before`."""
    author: str = "policy"
    """Role that spoke: ``policy`` for the trained one, else e.g. ``teacher`` or ``human``."""
    context: tuple[int, ...]
    """Ids `[C]` added since the parent's completion; the whole prompt at a root."""
    completion: tuple[int, ...]
    """Ids `[T]` produced."""
    sampled: tuple[bool, ...]
    """`[T]`: False where the id was forced (budget close, teacher, counterfactual); only True is trained."""
    logprobs: tuple[float, ...]
    """Nats `[T]`, under the distribution actually sampled from."""
    entropies: tuple[float, ...] | None = None
    """Nats `[T]`, entropy of the distribution sampled from; None when the policy does not report it."""
    temperature: float = 1.0
    """Temperature the logprobs refer to; 0 means greedy (logprobs then refer to temperature 1)."""
    version: tuple[int, int] = (0, 0)
    """Oldest and newest weights that produced the completion."""
    finish: Finish
    """Why the completion ended."""
    spans: tuple[Span, ...] = ()
    """What each part of the completion is."""
    prompt_crc: int
    """CRC-32 of the prompt the engine really consumed (see `phronesis.policy.prompt_crc`)."""
    action: Message | None = None
    """The completion parsed as an assistant message; None when it could not be parsed."""
    parse_error: str | None = None
    """Why it could not be parsed; None when it could."""
    reply: Reply | None = None
    """The environment's answer; None when the turn was never acted."""
    seed: int | None = None
    """Seed of this request; None when the policy takes none."""
    started: float = 0.0
    """Seconds since the episode began."""
    policy_seconds: float = 0.0
    """Seconds spent waiting for the policy."""
    env_seconds: float = 0.0
    """Seconds spent waiting for the environment."""
    cached_tokens: int = 0
    """Prompt tokens the engine took from its cache instead of computing."""
    usage: Usage | None = None
    """Set exactly when the policy takes messages only: the turn then has no ids and can never be trained."""

    @property
    def produced(self) -> int:
        """Tokens the policy produced, forced ones not counted; of a turn of messages, as many as the endpoint says."""
        return sum(self.sampled) if self.usage is None else self.usage.output_tokens

    @property
    def given(self) -> int:
        """Tokens that were added and not produced; of a turn of messages, its whole prompt."""
        return len(self.context) + len(self.completion) - sum(self.sampled) if self.usage is None else self.usage.input_tokens


def total(usages: Iterable[Usage]) -> Usage | None:
    """All of them together; None when there are none. The cost is None as soon as one has none.

    >>> total([Usage(output_tokens=2, cost=0.5), Usage(output_tokens=3, cost=0.25)]).cost
    0.75
    """
    every = tuple(usages)
    if not every:
        return None
    costs = [u.cost for u in every if u.cost is not None]
    return Usage(
        input_tokens=sum(u.input_tokens for u in every),
        output_tokens=sum(u.output_tokens for u in every),
        cached_tokens=sum(u.cached_tokens for u in every),
        written_tokens=sum(u.written_tokens for u in every),
        thought_tokens=sum(u.thought_tokens for u in every),
        cost=sum(costs) if len(costs) == len(every) else None,
    )
