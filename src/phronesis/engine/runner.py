"""The running batch, synchronous: admits requests, computes their prompts, produces ids for all of them in each step."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from phronesis.engine.compute import Compute, Drawn, Inputs
from phronesis.engine.draws import uniforms
from phronesis.engine.fills import Range, passes
from phronesis.engine.request import Decode, Request
from phronesis.engine.rows import Rows
from phronesis.engine.slots import WORTH, Slots
from phronesis.policy import Completion, prompt_crc
from phronesis.records import Finish

AWAY = 0.01
"""Seconds a call may last in which nobody can join the batch; a single step may take longer."""
MOST_AHEAD = 32
"""Most ids drawn in one call for each row."""


@dataclass
class Counters:
    """Work done since the engine was made."""

    steps: int = 0
    """Decoding steps."""
    decoded: int = 0
    """Ids produced."""
    prefilled: int = 0
    """Prompt ids computed."""
    reused: int = 0
    """Prompt ids taken from the cache."""
    evicted: int = 0
    """Sequences kept for a cache key that were given up to make room."""


class _Ahead:
    """How many ids to draw for every row before anybody may join: as many as take about `AWAY` seconds."""

    def __init__(self) -> None:
        self.count = 1
        self._start = self._took = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._took = time.perf_counter() - self._start

    def seen(self, made: int) -> None:
        """Takes note of how many were drawn in the time just measured."""
        fitting = AWAY * made / max(self._took, 1e-6)
        self.count = int(min(MOST_AHEAD, max(1.0, fitting), 2 * self.count))


class _Fill(NamedTuple):
    """What has to be computed before a request can run."""

    target: Range
    source: int | None
    """Slot whose prefix, up to the range's start, is copied first."""
    level: int
    """Fills of lower levels come first: they compute what this one copies."""


class Runner:
    """Owns the cache and the books of its slots."""

    def __init__(
        self, compute: Compute, slots: int, context: int, *, chunk: int, pass_tokens: int, text: Decode | None, version: int
    ):
        self._text = text
        self._limit, self._context, self._chunk, self._pass_tokens = slots, context, chunk, pass_tokens
        self.compute = compute
        """The arithmetic."""
        self._cache = compute.cache()
        self._slots = Slots(slots)
        self._rows = Rows()
        self.running: dict[int, Request] = {}
        """Running requests by slot."""
        self.stale: set[int] = set()
        """Running slots to be computed again, because the weights changed."""
        self._special: list[Request] = []
        self._ahead = _Ahead()
        self.version = version
        """Weights in use."""
        self.freed = True
        """Something ended or was given up since the last `admit`, so that waiting requests may find room."""
        self.counters = Counters()

    def advance(self, to: int | None = None) -> None:
        """The weights changed, to the next version or the one given: nothing cached is valid any more."""
        self.version = self.version + 1 if to is None else to
        self.compute.bind()
        self.stale = set(self.running)
        self._slots.drop_idle()
        self._cache.unshare()

    def reset(self) -> None:
        """Forgets every request and everything cached."""
        for request in list(self.running.values()):
            self.drop(request)
        self._slots.drop_idle()
        self._cache.unshare()

    def release(self, key: str) -> None:
        """Nobody will extend the key's sequence."""
        slot = self._slots.slot_of.get(key)
        if slot is not None:
            self._slots.forget_key(slot)
            self.freed = True

    def drop(self, request: Request) -> None:
        """Takes a running request out."""
        slot = request.slot
        del self.running[slot]
        self.freed = True
        if request in self._special:
            self._special.remove(request)
        self._slots.leave(slot)
        self._rows.set(slot, None)
        if slot in self.stale:
            self.stale.discard(slot)
            self._slots.filled[slot] = 0

    @torch.inference_mode()
    def admit(self, waiting: deque[Request]) -> None:
        """Gives waiting requests slots, in order of arrival as far as there is room, and computes their prompts."""
        self._refresh()
        self.freed = False
        fills: list[_Fill] = []
        level: dict[int, int] = {}
        owners = [r for r in waiting if r.params.cache_key in self._slots.slot_of]
        strangers = [r for r in waiting if r.params.cache_key not in self._slots.slot_of]
        for request in (*owners, *strangers):  # owners first, so that strangers see how few slots are really idle
            if not self._slots.has_room(request.params.cache_key):
                continue
            fills.append(self._place(request, level))
            waiting.remove(request)
        for depth in sorted({f.level for f in fills}):
            here = [f for f in fills if f.level == depth]
            for f in here:
                if f.source is not None:
                    self._cache.copy(f.source, f.target.slot, f.target.start)
            self._compute([f.target for f in here])

    @torch.inference_mode()
    def step(self) -> list[tuple[Request, Completion]]:
        """Produces at least one id for every running request, and more while none ends; those that ended, in order of slot."""
        for high, low in self._slots.moves():
            self._swap(high, low)
        books = self._slots
        active = np.flatnonzero(books.running)
        at = books.filled[active]
        place = at + 1
        count = 1 if self._special else self._ahead.count
        left = books.end[active] - place
        behind = place[:, None] + np.arange(count)
        inputs = Inputs(
            slots=active,
            tokens=books.ids[active, at],
            at=at,
            uniform=books.uniforms[active[:, None], np.minimum(behind, books.uniforms.shape[1] - 1)],
            force=np.full(len(active), -1, np.int64),
            free=books.filled,
            left=left,
        )
        special = [(int(np.searchsorted(active, r.slot)), r) for r in self._special]
        for row, r in special:
            inputs.force[row] = r.force
        with self._ahead:
            drawn = self.compute.next(self._cache, inputs, self._rows)
        self._enter(active, behind, drawn)
        last = drawn.ids[np.arange(len(active)), drawn.made - 1]
        stopped = (self._rows.stops[active] == last[:, None]).any(1) & (inputs.force < 0)
        for row, r in special:
            books.forced[r.slot, place[row]] = inputs.force[row] >= 0
            stopped[row] |= r.see(int(last[row]), self._text)
            if not r.special:
                self._special.remove(r)
        over = np.flatnonzero(stopped | (drawn.made >= left))
        return [self._end(int(active[row]), bool(stopped[row])) for row in over]

    def _enter(self, active: NDArray[np.int64], behind: NDArray[np.int64], drawn: Drawn) -> None:
        """Writes what was drawn into the books; `behind` are the positions `[A, N]`."""
        books, n = self._slots, int(drawn.made.max())
        made = np.arange(n) < drawn.made[:, None]
        where = np.broadcast_to(active[:, None], made.shape)[made], behind[:, :n][made]
        books.ids[where] = drawn.ids[:, :n][made]
        books.logprobs[where] = drawn.logprobs[:, :n][made]
        books.entropies[where] = drawn.entropies[:, :n][made]
        books.filled[active] += drawn.made
        self._ahead.seen(n)
        self.counters.steps += n
        self.counters.decoded += int(drawn.made.sum())

    def _place(self, request: Request, level: dict[int, int]) -> _Fill:
        """Chooses a slot, enters the request and says what must be computed."""
        books, n = self._slots, len(request.prompt)
        matches = books.matches(request.prompt[:-1])
        slot = books.choose(request.params.cache_key, matches)
        end = min(n + request.params.max_tokens, self._context)
        self._make_room(slot + 1, end + 1)
        start, source, depth = (int(matches[slot]) if slot < len(matches) else 0), None, 0
        kept = start
        best = int(matches.argmax()) if len(matches) else slot
        if best < len(matches) and matches[best] >= start + WORTH:
            start, source, depth = int(matches[best]), best, level.get(best, -1) + 1
        self._cache.place(slot, kept, source, start)
        self.counters.evicted += books.take(slot, request.params.cache_key)
        level[slot] = depth
        books.ids[slot, :n] = request.prompt
        books.filled[slot], books.begin[slot], books.end[slot] = n - 1, n, end
        books.uniforms[slot, n:end] = uniforms(request.params.seed, end - n)
        self._cache.show(slot, n - 1)
        self._rows.set(slot, request.params)
        request.slot, request.cached, request.version = slot, start, self.version
        self.running[slot] = request
        if request.special:
            self._special.append(request)
        self.counters.reused += start
        self.counters.prefilled += n - 1 - start
        return _Fill(Range(slot, start, n - 1), source, depth)

    def _end(self, slot: int, stopped: bool) -> tuple[Request, Completion]:
        """Takes a finished request out and reports it."""
        request, books = self.running[slot], self._slots
        begin, end = int(books.begin[slot]), int(books.filled[slot]) + 1
        said = slice(begin, end)
        full = Finish.length if end - begin >= request.params.max_tokens else Finish.context
        completion = Completion(
            ids=tuple(books.ids[slot, said].tolist()),
            sampled=tuple((~books.forced[slot, said]).tolist()),
            logprobs=tuple(books.logprobs[slot, said].tolist()),
            entropies=tuple(books.entropies[slot, said].tolist()),
            finish=Finish.stop if stopped else full,
            version=(request.version, self.version),
            prompt_crc=prompt_crc(request.prompt.tolist()),
            cached_tokens=request.cached,
        )
        self.drop(request)
        return request, completion

    def _refresh(self) -> None:
        """Computes running sequences again after the weights changed."""
        stale, self.stale = sorted(self.stale), set()
        self._compute([Range(slot, 0, int(self._slots.filled[slot])) for slot in stale])

    def _compute(self, ranges: list[Range]) -> None:
        for pieces in passes(ranges, list(self._slots.ids), self._chunk, max(self._pass_tokens, self.compute.at_once)):
            self.compute.fill(self._cache, pieces)

    def _make_room(self, slots: int, tokens: int) -> None:
        """Grows cache and books together."""
        self._cache.reserve(slots, tokens)
        count = min(self._cache.slots, self._limit)
        if (count, self._cache.capacity) != self._slots.ids.shape:
            self._slots.grow(count, self._cache.capacity)
            self._rows.grow(count)

    def _swap(self, a: int, b: int) -> None:
        """Exchanges two slots everywhere."""
        longest = int(max(self._slots.filled[a], self._slots.filled[b]))
        self._cache.swap(a, b, longest)
        self._slots.swap(a, b)
        self._rows.swap(a, b)
        moved = {b: self.running.pop(a, None), a: self.running.pop(b, None)}
        for slot, request in moved.items():
            if request is not None:
                self.running[slot], request.slot = request, slot
