"""One request to a server and what it said, whatever wire format carries them; and what an answer must fulfil."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Protocol

from msgspec import Struct

from phronesis.engine.http import BrokenReply
from phronesis.records import Finish

CLAMPED = -9000.0
"""Log-probabilities below stand for numbers JSON cannot hold (vLLM writes -9999 for them): no evidence of anything."""


class Ask(Struct, frozen=True, kw_only=True):
    """A continuation to sample."""

    prompt: tuple[int, ...]
    """Ids, at least one."""
    max_tokens: int
    """Most ids to sample, at least 1."""
    context: int
    """Ids the server's context holds."""
    seed: int = 0
    """Seed of this request, 63 bits."""
    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    """Nucleus mass."""
    top_k: int = 0
    """0 keeps all."""
    min_p: float = 0.0
    """Relative probability floor."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end it; the id itself is part of it."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end it."""
    salt: str | None = None
    """Prefixes are reused only among requests of equal salt; None shares with everybody."""
    look: int | None = None
    """Id whose log-probability as the first token is wanted; None for none."""


class Said(Struct, frozen=True, kw_only=True):
    """A server's answer."""

    ids: tuple[int, ...]
    """`[T]` sampled ids."""
    logprobs: tuple[float, ...]
    """Nats `[T]`."""
    finish: Finish
    """Why it ended."""
    prompt: tuple[int, ...] | None
    """Ids the server says it consumed; None when it does not say."""
    labels: tuple[str, ...] = ()
    """Labels of the weights that sampled, oldest first; empty when the server does not say."""
    newest_only: bool = False
    """Whether older weights than those labelled may have taken part."""
    cached: int = 0
    """Prompt ids taken from its cache."""
    looked: float | None = None
    """Nats of `Ask.look`; None when not asked."""


class Dialect(Protocol):
    """A wire format: pure functions between requests, answers and JSON."""

    def body(self, model: str, ask: Ask) -> object:
        """What is posted to `path`."""
        ...

    @property
    def path(self) -> str:
        """Where to."""
        ...

    def read(self, content: bytes, ask: Ask) -> Said:
        """The answer, checked.

        Raises:
            BrokenReply: it cannot be trusted; another server may do better.
            WireError: it is not what the format says.
        """
        ...

    def score_body(self, model: str, ids: Sequence[int]) -> object:
        """Asks for the log-probabilities of given ids."""
        ...

    def read_scores(self, content: bytes, ids: Sequence[int]) -> tuple[float, ...]:
        """Nats `[len(ids) - 1]` of every id but the first.

        Raises:
            BrokenReply, WireError: as `read`.
        """
        ...


def checked(said: Said, ask: Ask, reason: str) -> Said:
    """The answer, known to be what was asked for.

    Args:
        said: what the wire format held; its `finish` says stop or length.
        ask: the request.
        reason: the server's own word for why it ended.

    Raises:
        BrokenReply: other ids consumed, wrong counts, numbers that are none, or an end that was not asked for.
    """
    n = len(said.ids)
    if reason not in ("stop", "length"):
        raise BrokenReply(f"the server ended the request with {reason!r}", "aborted")
    if said.prompt is not None and said.prompt != ask.prompt:
        raise BrokenReply(f"the server consumed other ids than the {len(ask.prompt)} it was sent", "other_ids")
    if not 1 <= n <= ask.max_tokens or len(said.logprobs) != n:
        raise BrokenReply(f"{n} ids and {len(said.logprobs)} logprobs, asked for at most {ask.max_tokens}", "counts")
    finite(said.logprobs)
    early = [i for i in said.ids[:-1] if i in ask.stop_ids]
    if early:
        raise BrokenReply(f"the server went on after stop id {early[0]}", "stop_ids")
    if reason == "stop":
        if said.ids[-1] not in ask.stop_ids and not ask.stop_strings:
            raise BrokenReply(f"the server stopped at id {said.ids[-1]}, which is none of {ask.stop_ids!r}", "stop_ids")
    elif n < ask.max_tokens and len(ask.prompt) + n < ask.context:
        raise BrokenReply(f"the server ended after {n} of {ask.max_tokens} ids for their number", "counts")
    return said


def finite(logprobs: Sequence[float | None]) -> tuple[float, ...]:
    """The log-probabilities, known to be such.

    Raises:
        BrokenReply: one is missing, not finite, above 0, or a clamped one.
    """
    for t, p in enumerate(logprobs):
        if p is None or not isfinite(p) or not CLAMPED < p <= 1e-4:
            raise BrokenReply(f"logprob {p!r} of token {t} is no log-probability of a sampled id", "logprobs")
    return tuple(p for p in logprobs if p is not None)
