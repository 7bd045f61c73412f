"""The policy contract: ids in, ids out. Engines, servers, scripted replies and people all stand behind it."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from phronesis.records import Finish, Message, ToolSpec, Usage


class ThoughtBudget(Struct, frozen=True, kw_only=True, gc=False):
    """A limit on the tokens of a think block; on reaching it the block is closed with forced ids."""

    max_tokens: int
    """Sampled tokens allowed inside the block, at least 0."""
    open_id: int
    """Id that opens a block (in the prompt or the completion)."""
    close_ids: tuple[int, ...]
    """Ids forced when the budget is used up; the last one closes the block."""


class SamplingParams(Struct, frozen=True, kw_only=True, gc=False):
    """How to sample one completion."""

    max_tokens: int
    """Most ids to produce, forced ones included; at least 1."""
    temperature: float = 1.0
    """0 means greedy (ties: lowest id); logprobs then refer to temperature 1."""
    top_p: float = 1.0
    """Keep the smallest set of ids with this probability mass, in (0, 1]."""
    top_k: int = 0
    """Keep the k most likely ids; 0 keeps all."""
    min_p: float = 0.0
    """Keep ids at least this fraction as likely as the most likely one, in [0, 1)."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end the completion; the id itself is part of it."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end the completion; the ids up to and including the one that completes the text are kept."""
    seed: int = 0
    """Seed of this request; the draw of token t is a function of (seed, t) alone."""
    forced: tuple[int, ...] = ()
    """Ids the completion must begin with; recorded with `sampled` False."""
    thought: ThoughtBudget | None = None
    """Limit on thinking; None means no limit."""
    cache_key: str | None = None
    """Requests with equal keys extend one another, so an engine keeps their state; None means no hint."""


class Completion(Struct, frozen=True, kw_only=True, gc=False):
    """What a policy produced for one prompt."""

    ids: tuple[int, ...]
    """`[T]` ids."""
    sampled: tuple[bool, ...]
    """`[T]`: False where forced."""
    logprobs: tuple[float, ...]
    """Nats `[T]`, of the distribution sampled from, also for forced ids."""
    entropies: tuple[float, ...] | None = None
    """Nats `[T]`; None when not reported."""
    finish: Finish
    """Why it ended."""
    version: tuple[int, int] = (0, 0)
    """Oldest and newest weights involved."""
    prompt_crc: int
    """`prompt_crc` of the ids really consumed."""
    cached_tokens: int = 0
    """Prompt ids taken from a cache."""


@runtime_checkable
class Policy(Protocol):
    """Anything that continues a sequence of ids."""

    async def sample(self, prompt: Sequence[int], params: SamplingParams) -> Completion:
        """Continues `prompt`: any sequence of ids, in play an `array("i")` that belongs to the call.

        Raises:
            PolicyFault: the engine could not answer; the episode becomes an infrastructure fault.
        """
        ...


class Answer(Struct, frozen=True, kw_only=True, gc=False):
    """What a policy that takes messages said."""

    message: Message
    """An assistant message; a malformed call is a `ToolCall` with `error`."""
    finish: Finish
    """Why it ended."""
    usage: Usage = Usage()
    """Tokens, and what they cost."""
    model: str = ""
    """Name the endpoint gives the model that answered."""
    id: str = ""
    """The endpoint's name of this answer."""


@runtime_checkable
class Chats(Protocol):
    """Instead of `Policy`: messages in, a message out. It gives no ids, so its turns can be scored but never trained."""

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], params: SamplingParams, turn: int = 0
    ) -> Answer:
        """Answers a conversation.

        Args:
            messages: all of it.
            tools: what may be called.
            params: limits and sampling; what speaks of ids (`stop_ids`, `forced`, `thought`) does not apply.
            turn: numbers the calls that come without an id (``call_{turn}_{n}``).

        Raises:
            PolicyFault: there is no answer; the episode becomes an infrastructure fault.
        """
        ...


@runtime_checkable
class Scores(Protocol):
    """Capability: log-probabilities of given ids."""

    async def score(self, ids: Sequence[int], temperature: float = 1.0) -> tuple[float, ...]:
        """Nats `[len(ids) - 1]`: entry t is log p(ids[t+1] | ids[:t+1])."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """Capability: weights that change while the policy serves."""

    @property
    def version(self) -> int:
        """Number of weight updates so far."""
        ...

    def advance(self) -> int:
        """Announces that the weights changed: drops cached state, returns the new version."""
        ...


@runtime_checkable
class Releases(Protocol):
    """Capability: cached state of a `cache_key` can be given up early."""

    def release(self, cache_key: str) -> None:
        """The key will not be used again. Unknown keys are ignored."""
        ...


def prompt_crc(ids: Sequence[int]) -> int:
    """CRC-32 over the ids as little-endian 32-bit integers.

    >>> prompt_crc([1, 2, 3]) == prompt_crc((1, 2, 3)) != prompt_crc([1, 3, 2])
    True
    """
    packed = ids if isinstance(ids, array) and ids.typecode == "i" else array("i", ids)
    if packed.itemsize != 4:
        raise RuntimeError("this platform's C int is not 32 bits")
    return zlib.crc32(packed)
