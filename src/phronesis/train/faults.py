"""What a run does about faults: its retries and breakers, and what of them is written down."""

from __future__ import annotations

import logging

from phronesis.rollout.breaker import Breakers, State
from phronesis.rollout.retries import Retries, Tried
from phronesis.seeding import stream
from phronesis.store.run import RunWriter
from phronesis.train.config import RunConfig

log = logging.getLogger(__name__)


def retries_of(config: RunConfig, run: RunWriter) -> Retries:
    """The retries of a run. Every failed attempt becomes an event ``retry``, every change of a breaker an event ``breaker``.

    A resumed run begins with its budget whole and its breakers closed.
    """

    def failed(tried: Tried) -> None:
        f = tried.failure
        run.event(
            "retry", tried.said, id=tried.id, attempt=tried.attempt, failure=f.kind, where=f.where, text=f.message[:500],
            next=tried.next,
        )  # fmt: skip

    def changed(source: str, state: State, why: str) -> None:
        said = f"source {source!r} is {state.value.replace('_', ' ')}{f': {why}' if why else ''}"
        log.log(logging.WARNING if state is State.open else logging.INFO, "%s", said)
        run.event("breaker", said, source=source, state=state.value)

    shared = sum(s.share > 0 for s in config.sources.values())
    breakers = Breakers(config.retry.breaker, alone=shared < 2, note=changed)
    return Retries(config.retry, seed=stream(config.seed, "retries"), breakers=breakers, note=failed)
