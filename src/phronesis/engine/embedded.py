"""A policy in this process: continuous batching over a decoder whose weights the learner shares.

Requests of many concurrent episodes join and leave the running batch between two tokens. A request's result is a function of
its prompt, its parameters and the weights alone: who else is running, which prefixes were shared or cached and when the
request arrived change no bit of it (see `forward` for how). The engine lives inside the caller's event loop: one step is one
synchronous call, and between steps every coroutine that can go on does so first, so that its next request joins the batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from msgspec import Struct

from phronesis.engine.compute import Compute, Eager
from phronesis.engine.generic import GenericCompute
from phronesis.engine.native import NativeCompute, obstacle
from phronesis.engine.request import Decode, Request, check, check_ids
from phronesis.engine.runner import Counters, Runner
from phronesis.engine.scoring import score
from phronesis.engine.vllm.config import VLLMConfig
from phronesis.errors import ConfigError, PolicyFault
from phronesis.models.causal import LanguageModel
from phronesis.models.decoder import Decoder
from phronesis.models.generic import GenericModel
from phronesis.policy import Completion, SamplingParams

QUIET = 3
"""Turns of the event loop without a new request after which nobody is expected to send one at once."""
PATIENCE = 200
"""Most turns of the event loop between two steps."""


class EngineConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of the embedded engine."""

    slots: int = 128
    """Sequences held at once, running ones and those kept for their next turn; bounds the cache."""
    context: int | None = None
    """Most ids of prompt and completion together; None takes the model's own limit."""
    chunk: int = 128
    """Prompt tokens of one sequence computed in one pass."""
    pass_tokens: int = 1024
    """Prompt tokens of all sequences computed in one pass, about; it bounds memory where PyTorch computes."""
    vllm: VLLMConfig | None = None
    """Sample in training from vLLM servers, which get new weights after every step; None samples in this process. Playing,
    evaluating and replaying a finished run always happen in this process."""
    native: bool | None = None
    """Compute with the compiled step: True insists, False never, None where it can (see `phronesis doctor`)."""


def _compute(decoder: LanguageModel, native: bool | None) -> Compute:
    """The fastest arithmetic allowed for the decoder."""
    if isinstance(decoder, GenericModel):
        if native:
            raise ConfigError("engine: native = true, but the model runs through transformers; leave it out")
        return GenericCompute(decoder)
    if not isinstance(decoder, Decoder):
        raise ConfigError(f"the engine has no arithmetic for {type(decoder).__name__}; use a Decoder or a GenericModel")
    reason = "it was switched off" if native is False else obstacle(decoder)
    if reason is None:
        return NativeCompute(decoder)
    if native:
        raise ConfigError(f"engine: native = true, but {reason}; native = false or leaving it out uses PyTorch")
    return Eager(decoder)


class EmbeddedEngine:
    """Implements `Policy`, `Scores`, `Versioned` and `Releases` over a `Decoder`."""

    def __init__(
        self, decoder: LanguageModel, config: EngineConfig | None = None, *, decode: Decode | None = None, version: int = 0
    ):
        """An engine that samples with `decoder`'s present weights.

        Args:
            decoder: shared, not copied; call `advance` after changing its weights.
            config: limits.
            decode: from ids to text, needed for stop strings only.
            version: weight updates done before.

        Raises:
            ConfigError: a limit below 1, a context below 2 or beyond the model's, or `native` where it cannot be.
        """
        c, most = config or EngineConfig(), decoder.max_positions
        context = most if c.context is None else c.context
        if min(c.slots, c.chunk, c.pass_tokens) < 1 or not 2 <= context <= most:
            raise ConfigError(f"engine: limits must be at least 1 and the context between 2 and the model's {most}, got {c!r}")
        self.config = c
        """Limits."""
        self.context = context
        """Most ids of prompt and completion together."""
        self._vocab_size, self._text = decoder.vocab_size, decode
        self._runner = Runner(
            _compute(decoder, c.native),
            c.slots,
            context,
            chunk=c.chunk,
            pass_tokens=c.pass_tokens,
            text=decode,
            version=version,
        )
        self._waiting: deque[Request] = deque()
        self._arrivals = 0
        self._seen = 0
        self._unsettled = False
        self._driver: asyncio.Task[None] | None = None

    @property
    def version(self) -> int:
        """Number of weight updates announced by `advance`."""
        return self._runner.version

    @property
    def arithmetic(self) -> str:
        """How it computes: "pytorch", "transformers", or "native" with the numbers a vector holds and the order of its sums,
        e.g. "native-16.2". The last bits of results belong to it."""
        return self._runner.compute.name

    @property
    def counters(self) -> Counters:
        """Work done so far."""
        return replace(self._runner.counters)

    def advance(self, to: int | None = None) -> int:
        """Announces new weights: everything cached is dropped; running requests go on with the new weights.

        Args:
            to: their version, for a copy that is not given every one; None means the next.
        """
        self._runner.advance(to)
        return self.version

    def release(self, cache_key: str) -> None:
        """The key will not be used again: its slot is the first to be given up."""
        self._runner.release(cache_key)

    async def sample(self, prompt: Sequence[int], params: SamplingParams) -> Completion:
        """Continues `prompt`.

        Raises:
            ConfigError: parameters that cannot work.
            PolicyFault: a prompt that is empty, does not fit the context or holds unknown ids; or a step failed.
        """
        check(params, self._vocab_size, self._text)
        ids = check_ids(prompt, self._vocab_size, self.context)
        loop = asyncio.get_running_loop()
        if self._driver is None or self._driver.done() or self._driver.get_loop() is not loop:
            self._abandon()  # whatever is left belongs to a loop that has ended
            self._driver = loop.create_task(self._drive())
        request = Request(ids, params, loop.create_future())
        self._waiting.append(request)
        self._arrivals += 1
        try:
            return await request.future
        except asyncio.CancelledError:
            self._withdraw(request)
            raise

    async def score(self, ids: Sequence[int], temperature: float = 1.0) -> tuple[float, ...]:
        """Nats `[len(ids) - 1]`: entry t is log p(ids[t+1] | ids[:t+1]), bit for bit what sampling reports."""
        return self.score_many([ids], temperature)[0]

    def score_many(self, sequences: Sequence[Sequence[int]], temperature: float = 1.0) -> list[tuple[float, ...]]:
        """`score` of several sequences in one batch; the running requests are not touched.

        Raises:
            PolicyFault: a sequence that is empty, longer than the context or holds unknown ids.
            ConfigError: a temperature below 0; 0 means 1, as in sampling.
        """
        if not 0 <= temperature < float("inf"):
            raise ConfigError(f"temperature must be at least 0 and finite, got {temperature!r}")
        arrays = [check_ids(ids, self._vocab_size, self.context + 1) for ids in sequences]
        c, scores = self.config, list[tuple[float, ...]]()
        for at in range(0, len(arrays), c.slots):
            scores += score(self._runner.compute, arrays[at : at + c.slots], temperature, c.chunk, c.pass_tokens)
        return scores

    async def _drive(self) -> None:
        """Runs steps until nobody waits and nothing runs."""
        self._unsettled = True
        while self._waiting or self._runner.running:
            try:
                await self._gather()
            except asyncio.CancelledError as error:
                self._fail(error)
                raise
            try:
                if self._waiting or self._runner.running:
                    self._round()
            except Exception as error:  # whatever a step raises must reach every episode that waits for it
                self._fail(error)
                self._runner.reset()  # what is cached may be half written

    async def _gather(self) -> None:
        """Lets every coroutine that can go on do so, so that its request joins the next step."""
        quiet, needed = 0, QUIET if self._unsettled else 1
        for _ in range(PATIENCE):
            before = self._arrivals
            await asyncio.sleep(0)
            if self._arrivals != before:
                quiet, needed = 0, QUIET
            else:
                quiet += 1
            if quiet >= needed:
                break
        self._unsettled = False

    def _round(self) -> None:
        """Admits what fits, then one token for everyone."""
        if self._runner.freed or self._seen != self._arrivals or self._runner.stale:
            self._seen = self._arrivals
            self._runner.admit(self._waiting)
        for request, completion in self._runner.step():
            self._unsettled = True
            if not request.future.done():
                request.future.set_result(completion)

    def _withdraw(self, request: Request) -> None:
        """Frees what a cancelled request holds."""
        if request in self._waiting:
            self._waiting.remove(request)
        elif self._runner.running.get(request.slot) is request:
            self._runner.drop(request)

    def _fail(self, error: BaseException) -> None:
        """Answers everyone with the error."""
        hit = self._abandon()
        for request in hit:
            if not request.future.done():
                fault = PolicyFault(f"the engine failed in a step with {len(hit)} requests: {error!r}")
                fault.__cause__ = error
                request.future.set_exception(fault)

    def _abandon(self) -> list[Request]:
        """Takes out every request, waiting or running; what is cached stays."""
        hit = [*self._waiting, *self._runner.running.values()]
        self._waiting.clear()
        for request in list(self._runner.running.values()):
            self._runner.drop(request)
        return hit
