"""A run whose episodes are played by agents outside: the gateway in front of its policy."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.gateway import Book, OutsideAgents, serving
from phronesis.models.tokenizer import decode
from phronesis.reason.players.build import Alone
from phronesis.records import Episode
from phronesis.store.run import RunWriter
from phronesis.train.config import RunConfig
from phronesis.train.seat import Seat

log = logging.getLogger(__name__)

TOKEN = "PHRONESIS_GATEWAY_TOKEN"
"""Environment variable with the secret that agents must show."""


def token() -> str | None:
    """The secret that agents must show; None when they need none."""
    return os.environ.get(TOKEN) or None


def check_outside(config: RunConfig, spec: EnvSpec) -> None:
    """Refuses runs that agents outside cannot play, and worlds that nobody else can.

    Raises:
        ConfigError: says what to change.
    """
    if config.gateway is None:
        if not spec.playable:
            raise ConfigError(f"environment {spec.name!r} is played by agents outside; start the run with --from-gateway")
        return
    config.gateway.validate(token())
    if not isinstance(config.player, Alone):
        raise ConfigError('with a gateway agents outside play every attempt from the start; set player.type = "alone"')
    if config.model.path is None and not spec.playable:
        raise ConfigError(
            f"environment {spec.name!r} shows nothing from which a tokenizer or a model could be made; set model.path to a "
            "checkpoint that can follow your agent's prompts a little"
        )


def text_of(seat: Seat) -> Callable[[Sequence[int]], str]:
    """From ids to text."""
    return partial(decode, seat.tokenizer)


@asynccontextmanager
async def agents_outside(
    config: RunConfig, spec: EnvSpec, policy: Seat, writer: RunWriter
) -> AsyncGenerator[OutsideAgents | None]:
    """Serves a run's policy while it lasts; nobody where the run has no gateway.

    Episodes of no group (of other splits, or ended with the run) are stored as ``gateway``.

    Raises:
        UserError: the address cannot be listened at.
    """
    if config.gateway is None:
        yield None
        return
    stage = policy.stage(spec, config, config.sampling)
    book = Book(
        policy.engine,
        policy.chat,
        config=config.gateway,
        limits=stage.limits,
        text=text_of(policy),
        env=spec.name,
        seed=config.seed,
    )

    def beside(episode: Episode) -> None:
        writer.append(episode, "gateway")

    agents = OutsideAgents(book, beside)
    async with serving(book, token()) as address:
        log.info("agents outside reach this run at %s", address)
        writer.event("gateway", f"agents outside reach this run at {address}", address=address, pid=os.getpid())
        try:
            yield agents
        finally:
            agents.stop()
