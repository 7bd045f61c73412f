"""What a run does about faults: its retries and breakers, and what of them is written down."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from phronesis.data.mixture import Mixture
from phronesis.env import TaskSource
from phronesis.records import Task
from phronesis.rollout.breaker import Breakers, State, title
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
        said = f"{title(source)} is {state.value.replace('_', ' ')}{f': {why}' if why else ''}"
        log.log(logging.WARNING if state is State.open else logging.INFO, "%s", said)
        run.event("breaker", said, source=source, state=state.value)

    sources = [name for name, source in config.sources.items() if source.share > 0]
    breakers = Breakers(config.retry.breaker, sources=sources, note=changed)
    return Retries(config.retry, seed=stream(config.seed, "retries"), breakers=breakers, note=failed)


def shut(source: TaskSource) -> list[str]:
    """Where fewer tasks than asked for were drawn: the sources that have some left and are all left alone; empty where there
    are no tasks any more."""
    return source.left if isinstance(source, Mixture) else []


async def draw(source: TaskSource, n: int, retries: Retries | None) -> Sequence[Task]:
    """The next `n` tasks, fewer only where none are left; waits while no source may be drawn from.

    Raises:
        SourceDown: all sources gave nothing but faults for longer than the run is patient.
    """
    found = list(source.draw(n))
    while len(found) < n and retries is not None and (names := shut(source)):
        await retries.breakers.any_of(names)
        found += source.draw(n - len(found))
    return found
