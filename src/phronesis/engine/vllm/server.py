"""One server: asks it, looks after it, gives it new weights."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar, cast

import httpx
from msgspec import Struct

from phronesis.engine.http import HttpClient, HttpLimits, Reader
from phronesis.engine.vllm.ask import Ask, Dialect, Said
from phronesis.engine.vllm.config import VLLMConfig
from phronesis.engine.vllm.control import Control
from phronesis.engine.vllm.weights import Target
from phronesis.errors import EndpointFault, WireError

log = logging.getLogger(__name__)
T = TypeVar("T")


class Facts(Struct, frozen=True, kw_only=True):
    """What a server says of itself."""

    model: str
    """Name of the model."""
    context: int
    """Ids its context holds."""


class Server:
    """An address and what is known about it."""

    def __init__(self, url: str, dialect: Dialect, control: Control, config: VLLMConfig, key: str | None = None):
        """Nothing is sent yet."""
        self.url, self.config = url.rstrip("/"), config
        self.facts: Facts | None = None
        """None until it answered once."""
        self.alive = False
        """Whether it answered when last asked."""
        self.label: str | None = None
        """Label of the weights it has; None when not known."""
        self.trouble: str | None = "it was not asked yet"
        """Why it is out of rotation; None when it is not."""
        self.load = 0
        """Requests in flight."""
        self._dialect, self._control = dialect, control
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        secrets = () if key is None else (key,)
        limits = HttpLimits(
            seconds=config.request_seconds,
            attempt_seconds=config.request_seconds,
            attempts=1,  # the next attempt goes to another server
            concurrency=config.concurrency,
        )
        self._http = HttpClient(self.url, headers=headers, secrets=secrets, limits=limits)
        careful = HttpLimits(seconds=config.update_seconds, attempt_seconds=config.update_seconds, attempts=1, concurrency=4)
        self._steer = HttpClient(self.url, headers=headers, secrets=secrets, limits=careful)  # never waits behind requests
        self._updating = asyncio.Lock()
        self._wrong: str | None = None  # a label it bears without having the weights

    @property
    def model(self) -> str:
        """Name of the model on this server."""
        return self.facts.model if self.facts is not None else ""

    async def ask(self, ask: Ask) -> Said:
        """Samples.

        Raises:
            EndpointFault: it did not work; another server may do better, or this one later.
        """

        async def read(response: httpx.Response) -> Said:
            return self._dialect.read(await response.aread(), ask)

        return await self._post(self._dialect.body(self.model, ask), read)

    async def score(self, ids: Sequence[int]) -> tuple[float, ...]:
        """Nats `[len(ids) - 1]` of given ids, at temperature 1.

        Raises:
            EndpointFault: it did not work.
        """

        async def read(response: httpx.Response) -> tuple[float, ...]:
            return self._dialect.read_scores(await response.aread(), ids)

        return await self._post(self._dialect.score_body(self.model, ids), read)

    async def look(self) -> None:
        """Finds out whether it answers, and with which weights. Raises nothing: `alive` says it."""
        seconds = min(10.0, self.config.update_seconds)
        try:
            await self._steer.call("GET", "health", read=_ignore, seconds=seconds, retry=False)
            if self.facts is None:
                self.facts = await self._facts()
            async with self._updating:  # what it says in the middle of an update would be outdated at once
                said = await self._control.label(self._steer, self.label)
                self.label = said if said != self._wrong else None
            self.alive = True
            if self._wrong is None:
                self.trouble = None
        except (EndpointFault, WireError) as error:
            self.lost(str(error))

    def lost(self, why: str) -> None:
        """It does not answer: nothing is known about its weights until it does."""
        if self.alive:
            log.warning("vLLM server %s is out of rotation: %s", self.url, why)
        self.alive, self.label, self.trouble = False, None, why

    async def give(self, target: Target) -> bool:
        """Gives it new weights while requests wait inside it; returns whether it has them, as far as a probe can tell."""
        async with self._updating:
            if self.label == target.label:
                return True
            self.label = None
            try:
                await self._control.load(self._steer, target.folder, target.label)
                found = await self.score(target.probe.ids) if target.probe is not None else ()
            except (EndpointFault, WireError) as error:
                self.lost(f"it did not take weights {target.label!r}: {error}")
                return False
            off = 0.0 if target.probe is None else target.probe.off(found)
            if off > self.config.probe_nats:
                self._wrong = target.label
                self.lost(
                    f"after loading weights {target.label!r} its log-probabilities are up to {off:.3g} nats off, more than "
                    f"engine.vllm.probe_nats {self.config.probe_nats:g}: it does not sample with these weights (vLLM for the "
                    "CPU keeps an old output head where it is tied to the embedding, unless Phronesis started it)"
                )
                return False
            self.label, self.trouble, self._wrong = target.label, None, None
            return True

    async def close(self) -> None:
        """Closes the connections."""
        with suppress(RuntimeError):  # connections of a loop that has ended
            await self._http.close()
            await self._steer.close()

    async def _post(self, body: object, read: Reader[T]) -> T:
        self.load += 1
        try:
            return await self._http.call("POST", self._dialect.path, body, read=read, retry=False)
        finally:
            self.load -= 1

    async def _facts(self) -> Facts:
        """The model's name and size."""
        found = await self._steer.get("v1/models", retry=False)
        models = cast("dict[str, object]", found).get("data") if isinstance(found, dict) else None
        if not isinstance(models, list) or not models:
            raise WireError("data", "the server lists no models")
        rows = [cast("dict[str, object]", row) for row in cast("list[object]", models) if isinstance(row, dict)]
        names = [str(row.get("id")) for row in rows]
        wanted = self.config.model or names[0]
        for row, name in zip(rows, names, strict=True):
            size = row.get("max_model_len")
            if name == wanted and isinstance(size, int):
                return Facts(model=name, context=size)
        raise WireError("data", f"the server serves {names!r}, not {wanted!r} with a max_model_len; set engine.vllm.model")


async def _ignore(response: httpx.Response) -> None:
    await response.aread()


def broken(error: EndpointFault) -> bool:
    """Whether the server itself seems to be in trouble, and not only this request of it."""
    return error.status is None and error.reason not in BROKEN_ANSWERS


BROKEN_ANSWERS = frozenset({"malformed", "broken", "counts", "logprobs", "stop_ids", "other_ids", "aborted", "old_weights"})
"""Reasons of faults in one answer of a server that is there."""
