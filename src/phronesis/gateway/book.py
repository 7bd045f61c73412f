"""All episodes a gateway serves: opened, found, limited in number, ended when their agents fall silent, handed on."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from msgspec import Struct

from phronesis.chat.format import ChatFormat
from phronesis.errors import ConfigError
from phronesis.gateway.episode import LiveEpisode
from phronesis.gateway.errors import LOOPBACK, GatewayError
from phronesis.policy import Policy
from phronesis.records import Episode, Failure, Stop, Task
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.play import Stage
from phronesis.seeding import stream

log = logging.getLogger(__name__)

_LAG = 1.0
"""Seconds by which a busy machine may be late before that counts as time in which nothing was answered."""
_REMEMBERED = 10_000
"""Finished episodes whose end is remembered, for clear answers to late requests."""


class GatewayConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How agents reach the policy. The secret they must show, if any, is not a setting: it comes from the environment
    variable ``PHRONESIS_GATEWAY_TOKEN``, so that no run folder holds it."""

    host: str = "127.0.0.1"
    """Address to listen at; others than loopback need a token."""
    port: int = 8300
    """Port to listen at; 0 takes a free one."""
    model: str = "phronesis"
    """Name of the model."""
    any_model: bool = True
    """Answer requests for any model name, so that an agent need not be changed; False refuses unknown ones (404)."""
    max_open: int = 1024
    """Episodes open at once; more are refused (429) until some are finished."""
    concurrency: int = 256
    """Requests being answered at once; more are refused (429)."""
    idle_seconds: float = 600.0
    """An episode nobody has touched for so long is finished as `Stop.timeout`."""
    wait_seconds: float = 20.0
    """How long a request for work waits before it is told to come again (429)."""
    body_bytes: int = 16 * 2**20
    """Largest request body."""

    def validate(self, token: str | None) -> None:
        """Refuses values that cannot work.

        Raises:
            ConfigError: names the field.
        """
        for name in ("max_open", "concurrency", "idle_seconds", "body_bytes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"gateway.{name} must be positive, got {getattr(self, name)!r}")
        if not 0 <= self.port < 2**16 or self.wait_seconds < 0:
            raise ConfigError(f"gateway.port {self.port!r} or gateway.wait_seconds {self.wait_seconds!r} cannot be")
        if self.host not in LOOPBACK and not token:
            raise ConfigError(
                f"gateway.host {self.host!r} can be reached from other machines; set PHRONESIS_GATEWAY_TOKEN to a secret that "
                "agents must send, or listen at 127.0.0.1"
            )


class Work(Protocol):
    """Who decides what is attempted: a training run, say."""

    async def next(self, wait: float, task: Task | None = None) -> LiveEpisode:
        """Opens the next episode that is needed, of `task` where an agent brings one, waiting up to `wait` seconds for it.

        Raises:
            GatewayError: none is needed now (429) or ever again (410).
        """
        ...


class Book:
    """Implements what the routes ask for; knows no HTTP.

    Args:
        policy: who continues the ids.
        chat: how messages become ids.
        config: limits of the service.
        limits: what one episode may use.
        sampling: how turns are sampled, whatever clients ask for; None lets them choose.
        on_episode: told every finished episode, once, with its split.
        text: from ids to text.
        env: environment name of tasks that clients bring.
        seed: seeds of episodes that clients bring without one derive from it.
    """

    def __init__(
        self,
        policy: Policy,
        chat: ChatFormat,
        *,
        config: GatewayConfig | None = None,
        limits: Limits | None = None,
        sampling: Sampling | None = None,
        on_episode: Callable[[Episode], None] = lambda episode: None,
        text: Callable[[Sequence[int]], str] = lambda ids: "",
        env: str = "outside",
        seed: int = 0,
    ):
        self.policy, self.chat = policy, chat
        self.config, self.limits, self.sampling = config or GatewayConfig(), limits or Limits(), sampling
        self.on_episode, self.env, self.seed = on_episode, env, seed
        self.text = text
        """From ids to text, for log-probabilities with their tokens."""
        self.open: dict[str, LiveEpisode] = {}
        """Episodes being played, by id."""
        self.ended: dict[str, dict[str, object]] = {}
        """Finished episodes: their summaries."""
        self.work: Work | None = None
        """Who opens episodes for agents that bring no task of their own; None means nobody."""
        self.counts: Counter[str] = Counter()
        """Over all finished episodes: requests by how they stood to history (``kind_extended``, …), repairs
        (``repair_whitespace``, …), and everything episodes count, beside ``episodes``, ``unrewarded`` and ``idle``."""
        self.in_flight = 0
        self.stopping = False

    def create(
        self,
        task: Task | None = None,
        *,
        id: str | None = None,
        seed: int | None = None,
        group: str | None = None,
        step: int | None = None,
        stage: Stage | None = None,
    ) -> LiveEpisode:
        """Opens an episode.

        Args:
            task: what is attempted; None makes an unnamed one.
            id: None draws one at random.
            seed: None derives it from the book's seed and the id.
            group: group it belongs to; None means alone.
            step: training step.
            stage: its policy, chat format, limits and sampling hold instead of the book's.

        Raises:
            GatewayError: too many are open, or the id is taken.
        """
        if self.stopping:
            raise GatewayError(410, "closed", "the run is over; no further episodes are needed")
        if len(self.open) >= self.config.max_open:
            message = f"{len(self.open)} episodes are open, as many as gateway.max_open allows; finish some first"
            raise GatewayError(429, "too_many_episodes", message, 1.0)
        name = id or f"ep-{secrets.token_hex(8)}"
        if name in self.open or name in self.ended:
            raise GatewayError(409, "taken", f"there is an episode {name!r} already; leave out the id to get a new one")
        policy = self.policy if stage is None else stage.policy
        if not isinstance(policy, Policy):
            raise ConfigError(f"{type(policy).__name__} takes messages; a gateway needs a policy that takes ids")
        live = LiveEpisode(
            name,
            task or Task(id=name, env=self.env),
            stream(self.seed, "episode", name) if seed is None else seed,
            policy=policy,
            chat=self.chat if stage is None else stage.chat,
            limits=self.limits if stage is None else stage.limits if task is None else stage.limits_of(task),
            sampling=self.sampling if stage is None else stage.sampling,
            group=group,
            step=step,
        )
        self.open[name] = live
        return live

    def stray(self) -> LiveEpisode:
        """An episode for one request that names none. It is no part of the book: it is answered, counted and forgotten."""
        self.counts["strays"] += 1
        name = f"stray-{secrets.token_hex(8)}"
        return LiveEpisode(
            name,
            Task(id=name, env=self.env),
            stream(self.seed, "episode", name),
            policy=self.policy,
            chat=self.chat,
            limits=self.limits,
            sampling=self.sampling,
        )

    @staticmethod
    def drop(live: LiveEpisode) -> None:
        """Forgets a stray."""
        live.finish(Stop.completed)

    def get(self, id: str) -> LiveEpisode:
        """An open episode.

        Raises:
            GatewayError: it is over (409) or unknown (404).
        """
        live = self.open.get(id)
        if live is None and id in self.ended:
            end = self.ended[id]
            message = (
                f"episode {id!r} is over ({end['stop']}) and recorded with reward {end['reward']!r}; open another one "
                "for further requests. Rewards come before an episode is finished, or with it"
            )
            raise GatewayError(409, "episode_over", message)
        if live is None:
            raise GatewayError(404, "unknown_episode", f"no episode {id!r}; POST /episodes opens one and returns its base_url")
        return live

    def finish(self, live: LiveEpisode, stop: Stop | None = None, failure: Failure | None = None) -> Episode:
        """Ends an episode and hands its record on.

        Raises:
            GatewayError: it is over already.
        """
        live.finish(stop, failure)
        del self.open[live.id]
        episode = live.record()
        self._count(live, episode)
        if len(self.ended) >= _REMEMBERED:
            del self.ended[next(iter(self.ended))]
        self.ended[live.id] = live.summary()
        self.on_episode(episode)
        return episode

    def sweep(self) -> list[Episode]:
        """Ends the episodes nobody has touched for `idle_seconds`."""
        late = [live for live in self.open.values() if live.idle >= self.config.idle_seconds]
        for live in late:
            log.warning("episode %s was left alone for %.0f s and is finished as a time-out", live.id, live.idle)
            self.counts["idle"] += 1
        return [self.finish(live, Stop.timeout) for live in late]

    def close(self) -> list[Episode]:
        """Ends everything that is open as cancelled; no new episode is opened from here on."""
        self.stopping = True
        failure = Failure(where="gateway", kind="closed", message="the gateway was stopped")
        return [self.finish(live, Stop.cancelled, failure) for live in list(self.open.values())]

    async def sweep_forever(self) -> None:
        """Sweeps until cancelled. Time in which nothing was answered, since weights were updated say, is no idleness."""
        pause = min(1.0, self.config.idle_seconds / 4)
        while True:
            before = time.monotonic()
            await asyncio.sleep(pause)
            blocked = time.monotonic() - before - pause
            for live in self.open.values() if blocked > _LAG else ():
                live.touched += blocked
            self.sweep()

    @asynccontextmanager
    async def admitted(self) -> AsyncGenerator[None]:
        """A place among the requests being answered.

        Raises:
            GatewayError: there is none (429).
        """
        if self.in_flight >= self.config.concurrency:
            raise GatewayError(
                429, "overloaded", f"{self.in_flight} requests are being answered, as many as gateway.concurrency allows", 1.0
            )
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def _count(self, live: LiveEpisode, episode: Episode) -> None:
        self.counts["episodes"] += 1
        self.counts["unrewarded"] += episode.reward is None and not episode.stop.is_fault
        self.counts.update({f"kind_{k}": n for k, n in live.tree.kinds.items()})
        self.counts.update({f"repair_{k}": n for k, n in live.tree.repairs.items()})
        self.counts.update(live.counts)
