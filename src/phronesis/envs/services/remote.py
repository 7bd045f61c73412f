"""A world whose code is only at services: its tasks, its rubric and its demonstrations are asked for there, too."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import httpx
import msgspec

from phronesis.env import Env, EnvSpec
from phronesis.envs.services.config import token
from phronesis.envs.services.link import Link, address
from phronesis.envs.services.service import AT_ONCE, About, Listing, Show
from phronesis.envs.services.wire import PACKED, Judge, Refused, decode, encode, refused_by
from phronesis.errors import ConfigError, EnvFault, ServiceFault, UnknownName, one_line
from phronesis.records import Conversation, EpisodeGroup, Reward, Task

log = logging.getLogger(__name__)
T = TypeVar("T")
SECONDS = 60.0
"""Longest a service may take to list tasks or to say what it is."""
ALIVE_SECONDS = 5.0
"""Longest a service may take to say that it is alive, before the next one is asked."""
FIRST = 8
"""Tasks asked for at first; then ever more at once."""


def about(url: str) -> About:
    """What a service says of itself.

    Raises:
        ConfigError: it cannot be reached, or is none.
    """
    address(url)
    return _asked_now(url, "GET", "/", type=About)


def _asked_now(url: str, method: str, path: str, *, value: object = None, type: type[T]) -> T:
    """One call without an event loop, for what a run needs before it begins.

    Raises:
        ConfigError: the service cannot be reached, refuses, or is none.
    """
    known = token()
    headers = {"content-type": PACKED} | ({} if known is None else {"authorization": f"Bearer {known}"})
    body = None if value is None else encode(value)[0]
    try:
        with httpx.Client(timeout=SECONDS, trust_env=False) as client:
            answer = client.request(method, f"{url.rstrip('/')}{path}", content=body, headers=headers)
        if answer.status_code >= 300:
            refused = refused_by(answer.status_code, answer.content, None)
            raise ConfigError(f"the service at {url} refuses {path} ({refused.code}): {refused}")
        return decode(answer.content, answer.headers.get("content-type", ""), type)
    except httpx.HTTPError as error:
        said = f"no service answers at {url}: {one_line(error)}"
        raise ConfigError(f"{said}; start it there: phronesis env serve NAME --port PORT") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as error:
        raise ConfigError(f"what answers at {url} is no service of ours: {one_line(error)}") from error


class RemoteTasks:
    """The tasks of a world, asked for in growing numbers and kept."""

    def __init__(self, urls: Sequence[str], said: About):
        """Asks nothing yet.

        Args:
            urls: of services that have the code, tried in order.
            said: what the first one says of itself.
        """
        self._urls, self._said = tuple(urls), said
        self._known: dict[str, list[Task]] = {split: [] for split in said.sizes}
        self._lock = threading.Lock()

    def __call__(self, split: str, index: int) -> Task:
        """The task of a split and a number.

        Raises:
            UnknownName: no such split.
            ConfigError: no such number, or no service can be reached.
        """
        if split not in self._known:
            raise UnknownName(f"split of environment {self._said.name!r}", split, self._known)
        known, size = self._known[split], self._said.sizes[split]
        if index < 0 or (size is not None and index >= size):
            raise ConfigError(f"split {split!r} of {self._said.name!r} has {size} tasks; there is no number {index}")
        with self._lock:
            while index >= len(known):
                count = min(max(len(known), FIRST, 1), AT_ONCE)
                if index - len(known) > 4 * AT_ONCE:  # a number far out is not worth all those before it
                    return self._listed(Listing(split=split, start=index))[0]
                known += self._listed(Listing(split=split, start=len(known), count=count))
        return known[index]

    def _listed(self, asked: Listing) -> list[Task]:
        for number, url in enumerate(self._urls, 1):
            try:
                found = _asked_now(url, "POST", "/tasks", value=asked, type=list[Task])
            except ConfigError:
                if number == len(self._urls):
                    raise
            else:
                if found:
                    return found
        raise ConfigError(f"no service gives task {asked.start} of split {asked.split!r} of {self._said.name!r}")


class RemoteRubric:
    """Judges at the first service that answers."""

    def __init__(self, urls: Sequence[str], digest: str):
        """Asks nothing yet.

        Args:
            urls: of services that have the code, tried in order.
            digest: of the world.
        """
        self._urls, self._digest = tuple(urls), digest

    async def score(self, group: EpisodeGroup) -> Sequence[Reward]:
        """One reward per episode, in order.

        Raises:
            EnvFault: the rubric failed.
            ServiceFault: no service answers.
        """
        return await _asked(self._urls, "/score", Judge(digest=self._digest, group=group), list[Reward])


async def _asked(urls: Sequence[str], path: str, value: object, type: type[T]) -> T:
    body, kind = encode(value)
    silent: ServiceFault | None = None
    for number, url in enumerate(urls, 1):
        link = Link(url, token())
        try:
            if number < len(urls):  # one that stands still would take all the time there is
                async with asyncio.timeout(ALIVE_SECONDS):
                    await link.ask("GET", "/health")
            answered = await link.ask("POST", path, body, kind)
            return decode(answered.content, answered.kind, type)
        except ServiceFault as fault:
            silent = fault
        except TimeoutError:
            log.warning("the service at %s does not answer; asking the next one", url)
        except Refused as refused:
            raise EnvFault(str(refused)) from refused
        except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as error:
            raise EnvFault(f"the service at {url} answered {path} with something else: {one_line(error)}") from error
        finally:
            link.close()
    raise silent or ServiceFault("no service is known")


def spec_of(urls: Sequence[str], said: About, make: Callable[[], Env]) -> EnvSpec:
    """The environment that services describe.

    Args:
        urls: of services that have the code, tried in order.
        said: what the first one says of itself.
        make: begins an episode there.
    """

    async def show(index: int, seed: int) -> Conversation:
        return await _asked(urls, "/demonstration", Show(index=index, seed=seed), Conversation)

    return EnvSpec(
        name=said.name,
        make=make,
        task=RemoteTasks(urls, said),
        rubric=RemoteRubric(urls, said.identity.digest),
        sizes=dict(said.sizes),
        description=said.description,
        success=said.success,
        oracle_reward=None,
        null_reward=said.null_reward,
        chance_reward=said.chance_reward,
        max_turns=said.max_turns,
        secrets=said.secrets,
        demonstrate=show if said.demonstrates else None,
    )
