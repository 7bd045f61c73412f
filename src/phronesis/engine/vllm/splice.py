"""One completion out of several requests: forced ids, and think blocks that are closed when their budget is used up.

The rule this module keeps: what the caller gets is what one request to the embedded engine would have meant. Between two
requests only ids are handed on, never text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from phronesis.engine.request import ThoughtMeter
from phronesis.engine.vllm.ask import Said
from phronesis.policy import SamplingParams
from phronesis.records import Finish

Sample = Callable[[int, tuple[int, ...], int, tuple[int, ...]], Awaitable[Said]]
"""(number of the request, prompt, most ids, stop ids) -> answer."""


@dataclass
class Parts:
    """A completion while it grows."""

    ids: list[int] = field(default_factory=list[int])
    """Ids so far."""
    sampled: list[bool] = field(default_factory=list[bool])
    """False where forced."""
    logprobs: list[float] = field(default_factory=list[float])
    """Nats; 0 where forced, until somebody looks."""
    answers: list[Said] = field(default_factory=list[Said])
    """What the servers said, in order."""
    finish: Finish = Finish.length
    """Why it ended."""

    def add(self, ids: Sequence[int], logprobs: Sequence[float], sampled: bool) -> None:
        """Appends ids."""
        self.ids += ids
        self.logprobs += logprobs
        self.sampled += [sampled] * len(ids)


async def splice(prompt: tuple[int, ...], params: SamplingParams, context: int, sample: Sample) -> Parts:
    """Asks until the completion is whole.

    Args:
        prompt: ids, fewer than `context`.
        params: what one completion shall be.
        context: ids the servers hold.
        sample: one request.

    A budget of two sampled ids in a block that `<think>` opened, closed by `</think>`, is two requests at most: one for
    ``a b``, and, after the forced ``</think>``, one for the rest.
    """
    parts, queue = Parts(), deque(params.forced)
    meter = None if params.thought is None else ThoughtMeter(params.thought, np.asarray(prompt, np.int64))
    most = min(params.max_tokens, context - len(prompt))
    parts.finish = full = Finish.length if most == params.max_tokens else Finish.context
    while True:
        _force(parts, queue, meter, params, most)
        room = most - len(parts.ids)
        if room <= 0:
            return parts
        limit, stops = room, params.stop_ids
        if meter is not None and params.thought is not None:
            stops += (params.thought.open_id, params.thought.close_ids[-1])
            left = meter.left
            limit = room if left is None else min(room, left)
        said = await sample(len(parts.answers), (*prompt, *parts.ids), limit, tuple(dict.fromkeys(stops)))
        parts.answers.append(said)
        parts.add(said.ids, said.logprobs, True)
        if meter is not None:
            for token in said.ids:
                meter.see(token, True)
        last = said.ids[-1]
        if said.finish == Finish.stop and (last in params.stop_ids or last not in stops):
            parts.finish = Finish.stop
            return parts
        if said.finish == Finish.context:
            parts.finish = Finish.context
            return parts
        parts.finish = full


def _force(parts: Parts, queue: deque[int], meter: ThoughtMeter | None, params: SamplingParams, most: int) -> None:
    """Takes the ids that are due, a think block's close among them, one by one."""
    while len(parts.ids) < most:
        if not queue and meter is not None and meter.due and params.thought is not None:
            queue.extend(params.thought.close_ids)
        if not queue:
            return
        token = queue.popleft()
        parts.add([token], [0.0], False)
        if meter is not None:
            meter.see(token, False)
