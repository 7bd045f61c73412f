"""A policy that says what it is told: for tests, demonstrations and debugging, without a model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence

from phronesis.errors import PolicyFault
from phronesis.policy import Completion, SamplingParams, prompt_crc
from phronesis.records import Finish

Script = Callable[[tuple[int, ...]], Sequence[int]]
"""From the whole prompt to the ids to answer; may raise what an engine might raise."""


class ScriptedPolicy:
    """Answers from a list or a function, with the log-probabilities of a uniform distribution.

    >>> policy = ScriptedPolicy([(5, 6, 2)], vocab_size=8)
    >>> answer = asyncio.run(policy.sample((1, 4), SamplingParams(max_tokens=10, stop_ids=(2,))))
    >>> answer.ids, answer.finish.value, answer.logprobs[0] == -math.log(8)
    ((5, 6, 2), 'stop', True)

    A reply is cut after the first stop id, or at `max_tokens` (then `Finish.length`); forced ids go before it. A reply that
    ends by itself counts as `Finish.stop`. When the list is used up, or holds an exception, the call raises.
    """

    def __init__(
        self,
        replies: Sequence[Sequence[int] | BaseException] | Script,
        *,
        vocab_size: int,
        delay: float = 0.0,
        context: int | None = None,
    ):
        """A script and the world it pretends to live in.

        Args:
            replies: one reply per call in order of calls (an exception is raised instead), or a function of the prompt.
            vocab_size: every id gets log-probability −log(vocab_size) and entropy log(vocab_size).
            delay: seconds each call waits before answering.
            context: most ids of prompt and completion; None means no limit.
        """
        self.replies = replies
        self.vocab_size = vocab_size
        self.delay = delay
        self.context = context
        self.prompts: list[tuple[int, ...]] = []
        """Every prompt, in order of calls."""
        self.params: list[SamplingParams] = []
        """The parameters of every call."""
        self.released: list[str] = []
        """Every cache key given up, in order."""
        self._version = 0

    @property
    def version(self) -> int:
        """Number of `advance` calls."""
        return self._version

    def advance(self) -> int:
        """Pretends that the weights changed."""
        self._version += 1
        return self._version

    def release(self, cache_key: str) -> None:
        """Records the key."""
        self.released.append(cache_key)

    async def sample(self, prompt: Sequence[int], params: SamplingParams) -> Completion:
        """The next reply.

        Raises:
            PolicyFault: the list is used up, or the prompt does not fit the context.
        """
        at, ids, oldest = len(self.prompts), tuple(prompt), self._version
        self.prompts.append(ids)
        self.params.append(params)
        await asyncio.sleep(self.delay)
        if self.context is not None and len(ids) >= self.context:
            raise PolicyFault(f"the prompt has {len(ids)} ids, the context holds {self.context}; shorten the prompt")
        room = params.max_tokens if self.context is None else min(params.max_tokens, self.context - len(ids))
        forced, wanted = params.forced[:room], (*params.forced, *self._reply(at, ids))
        produced, finish = wanted[:room], Finish.stop
        for t, token in enumerate(produced):
            if t >= len(forced) and token in params.stop_ids:
                produced = produced[: t + 1]
                break
        else:
            if len(wanted) > room:
                finish = Finish.length if room == params.max_tokens else Finish.context
        nats = math.log(self.vocab_size)
        return Completion(
            ids=produced,
            sampled=tuple(t >= len(forced) for t in range(len(produced))),
            logprobs=(-nats,) * len(produced),
            entropies=(nats,) * len(produced),
            finish=finish,
            version=(oldest, self._version),
            prompt_crc=prompt_crc(ids),
        )

    async def score(self, ids: Sequence[int], temperature: float = 1.0) -> tuple[float, ...]:
        """Uniform log-probabilities `[len(ids) - 1]`; the temperature changes nothing."""
        return (-math.log(self.vocab_size),) * (len(ids) - 1)

    def _reply(self, at: int, prompt: tuple[int, ...]) -> Sequence[int]:
        if callable(self.replies):
            return self.replies(prompt)
        if at >= len(self.replies):
            raise PolicyFault(f"the script has {len(self.replies)} replies, but call {at + 1} came; add replies")
        reply = self.replies[at]
        if isinstance(reply, BaseException):
            raise reply
        return reply
