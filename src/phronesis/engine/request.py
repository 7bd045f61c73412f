"""One request: what was asked, what it still has to say, and when it ends early."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from phronesis.errors import ConfigError, PolicyFault
from phronesis.policy import Completion, SamplingParams, ThoughtBudget

COLDEST = 1e-6
"""Lowest temperature above 0: logits divided by less leave float32."""
Decode = Callable[[Sequence[int]], str]
"""From ids to text; needed only for stop strings."""


def check(params: SamplingParams, vocab_size: int, decode: Decode | None) -> None:
    """Refuses parameters that cannot work.

    Raises:
        ConfigError: a value out of range, an id that is not in the vocabulary, or stop strings without a decoder of text.
    """
    p = params
    bad: str | None = None
    if p.max_tokens < 1:
        bad = f"max_tokens must be at least 1, got {p.max_tokens!r}"
    elif 0 < p.temperature < COLDEST:
        bad = f"temperature must be 0 (greedy) or at least {COLDEST:g}, got {p.temperature!r}: logits over it would overflow"
    elif not 0 <= p.temperature < float("inf"):
        bad = f"temperature must be at least 0 and finite, got {p.temperature!r}"
    elif not 0 < p.top_p <= 1:
        bad = f"top_p must be in (0, 1], got {p.top_p!r}"
    elif p.top_k < 0:
        bad = f"top_k must be at least 0, got {p.top_k!r}"
    elif not 0 <= p.min_p < 1:
        bad = f"min_p must be in [0, 1), got {p.min_p!r}"
    elif any(not s for s in p.stop_strings):
        bad = "an empty stop string would stop everything; remove it"
    elif p.stop_strings and decode is None:
        bad = "stop strings need an engine built with decode=tokenizer.decode"
    elif p.thought is not None and (p.thought.max_tokens < 0 or not p.thought.close_ids):
        bad = f"a thought budget needs max_tokens of at least 0 and close_ids, got {p.thought!r}"
    else:
        closing = () if p.thought is None else p.thought.close_ids
        wrong = [i for i in (*p.forced, *closing) if not 0 <= i < vocab_size]
        if wrong:
            bad = f"forced ids {wrong[:5]!r} are not in the vocabulary of {vocab_size} ids"
    if bad is not None:
        raise ConfigError(f"sampling parameters: {bad}")


def check_ids(ids: Sequence[int], vocab_size: int, context: int) -> NDArray[np.int64]:
    """The ids as an array.

    Raises:
        PolicyFault: no ids, ids outside the vocabulary, or as many as the context holds or more.
    """
    if not len(ids):
        raise PolicyFault("the prompt is empty; give at least one id")
    if len(ids) >= context:
        raise PolicyFault(f"the prompt has {len(ids)} ids, the context holds {context}; shorten it or use a longer context")
    try:
        array = np.asarray(ids, np.int64)
    except (TypeError, ValueError, OverflowError) as error:
        raise PolicyFault(f"the prompt must be integers: {error}") from error
    if array.min() < 0 or array.max() >= vocab_size:
        wrong = [int(i) for i in array if not 0 <= i < vocab_size]
        raise PolicyFault(f"prompt ids {wrong[:5]!r} are not in the vocabulary of {vocab_size} ids")
    return array


class ThoughtMeter:
    """Counts sampled tokens inside think blocks and says when one must be closed."""

    def __init__(self, budget: ThoughtBudget, prompt: NDArray[np.int64]):
        self._budget, self._used = budget, 0
        opened = np.flatnonzero(prompt == budget.open_id)
        closed = np.flatnonzero(prompt == budget.close_ids[-1])
        self._inside = bool(opened.size and (not closed.size or opened[-1] > closed[-1]))

    def see(self, token: int, sampled: bool) -> None:
        """Takes note of the next token."""
        if token == self._budget.open_id:
            self._inside, self._used = True, 0
        elif self._inside and token == self._budget.close_ids[-1]:
            self._inside = False
        elif self._inside and sampled:
            self._used += 1

    @property
    def due(self) -> bool:
        """True when the block must be closed before anything else is sampled."""
        return self._inside and self._used >= self._budget.max_tokens

    @property
    def left(self) -> int | None:
        """Ids that may still be sampled inside the block; None outside of one."""
        return max(self._budget.max_tokens - self._used, 0) if self._inside else None


@dataclass(eq=False)
class Request:
    """A waiting or running request."""

    prompt: NDArray[np.int64]
    params: SamplingParams
    future: asyncio.Future[Completion]
    """Who waits for it."""
    version: int = 0
    """Weights when it began to run."""
    slot: int = -1
    """Slot it runs in; −1 while waiting."""
    cached: int = 0
    """Prompt ids taken from the cache."""
    queue: deque[int] = field(default_factory=deque[int])
    """Ids to force next."""
    meter: ThoughtMeter | None = None
    said: list[int] = field(default_factory=list[int])
    """Ids produced, kept only while stop strings have to be found."""

    def __post_init__(self) -> None:
        self.queue.extend(self.params.forced)
        if self.params.thought is not None:
            self.meter = ThoughtMeter(self.params.thought, self.prompt)
            self._close_thought()

    @property
    def special(self) -> bool:
        """True when each of its tokens has to be looked at."""
        return bool(self.queue or self.meter or self.params.stop_strings)

    @property
    def force(self) -> int:
        """The id to force next; −1 for none."""
        return self.queue[0] if self.queue else -1

    def see(self, token: int, decode: Decode | None) -> bool:
        """Takes note of a token just produced; returns True when a stop string is complete."""
        forced = bool(self.queue)
        if forced:
            self.queue.popleft()
        if self.meter is not None:
            self.meter.see(token, not forced)
            self._close_thought()
        if not self.params.stop_strings or decode is None:
            return False
        self.said.append(token)
        longest = max(len(s.encode()) for s in self.params.stop_strings)
        # a token holds at least one byte, so this tail holds any stop string that ends here
        tail = decode(self.said[-(longest + 4) :])
        return any(s in tail for s in self.params.stop_strings)

    def _close_thought(self) -> None:
        if self.meter is not None and self.meter.due and not self.queue and self.params.thought is not None:
            self.queue.extend(self.params.thought.close_ids)
