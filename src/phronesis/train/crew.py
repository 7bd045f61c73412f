"""Workers elsewhere, as a run knows them: they play its groups and take its weights.

What they are made of is a room above (`phronesis.cluster`); a run is handed a function that hires them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from phronesis.env import EnvSpec
from phronesis.rollout.play import GroupPlayer
from phronesis.store.run import RunWriter
from phronesis.train.config import RunConfig
from phronesis.train.seat import Seat
from phronesis.train.workers import ClusterConfig


class Crew(GroupPlayer, Protocol):
    """Workers elsewhere that play for a run."""

    def push(self) -> None:
        """Gives them the weights that the run's policy has now; does not wait until they have them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """What workers are hired for."""

    cluster: ClusterConfig
    """How many, how large."""
    config: RunConfig
    """Of the run."""
    at_hand: EnvSpec | None
    """The environment, where the config does not say how to make it."""
    policy: Seat
    """Whose weights they play with."""
    tokenizer: Path
    """Folder of its tokenizer."""
    writer: RunWriter
    """Where what happens to them is noted."""


Hire = Callable[[Job], AbstractAsyncContextManager[Crew]]
"""Starts workers, and ends them when it is left; `phronesis.cluster.hiring` makes one."""


class Terms(NamedTuple):
    """What a run was given besides its config."""

    hire: Hire | None = None
    """Starts workers; None has nobody to."""
    at_hand: EnvSpec | None = None
    """The environment, where the config does not say how to make it."""


@asynccontextmanager
async def hired(
    config: RunConfig, terms: Terms, policy: Seat, tokenizer: Path, writer: RunWriter
) -> AsyncGenerator[Crew | None]:
    """The workers of a run while it lasts; nobody where it asks for none.

    Raises:
        ConfigError: there is no cluster, or the run cannot be sent to it.
    """
    if config.cluster is None or terms.hire is None:
        yield None
        return
    job = Job(
        cluster=config.cluster, config=config, at_hand=terms.at_hand, policy=policy, tokenizer=tokenizer, writer=writer
    )  # fmt: skip
    async with terms.hire(job) as crew:
        yield crew
