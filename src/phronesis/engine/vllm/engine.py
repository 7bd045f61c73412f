"""A policy behind vLLM servers: ids in, ids out, with the weights that sampled them.

The rule this module keeps: a completion is returned only when a server said that it consumed the ids it was sent, sampled as
many ids as it gave log-probabilities for, and did so with weights at least as new as when the request was made. Anything else
is asked again, of another server where there is one, and in the end a `PolicyFault`: never a reward, never silence.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar

from phronesis.engine.http import RETRIED
from phronesis.engine.request import check, check_ids
from phronesis.engine.sampler import FLOOR
from phronesis.engine.vllm.ask import CLAMPED, Ask, Said
from phronesis.engine.vllm.fleet import Fleet
from phronesis.engine.vllm.server import Server, broken
from phronesis.engine.vllm.splice import Parts, splice
from phronesis.engine.vllm.weights import Probe, Save, Target
from phronesis.errors import ConfigError, EndpointFault, PolicyFault
from phronesis.policy import Completion, SamplingParams, prompt_crc
from phronesis.seeding import rng, stream

log = logging.getLogger(__name__)
T = TypeVar("T")
Score = Callable[[tuple[int, ...]], Sequence[float]]
"""Nats `[len(ids) - 1]` of given ids, under the present weights."""
PROBED = 24
"""Ids scored after an update."""
FIRST_WAIT, LONGEST_WAIT = 0.25, 10.0
"""Seconds; the wait before attempt n + 1 at a server just tried is drawn evenly from [0, min(LONGEST, FIRST * 2^n)]."""


class VLLMEngine:
    """Implements `Policy`, `Scores`, `Versioned` and `Releases` over a fleet of vLLM servers."""

    def __init__(
        self, fleet: Fleet, *, vocab_size: int, save: Save | None = None, score: Score | None = None, version: int = 0
    ):
        """Nothing is started or sent before the first request.

        Args:
            fleet: the servers; engines may take turns on one fleet.
            vocab_size: ids the model knows.
            save: writes the present weights as a checkpoint directory; None leaves the servers' weights alone.
            score: log-probabilities of ids under the present weights, by which a server that does not have them is
                recognised; None trusts the servers.
            version: weight updates done before.
        """
        self.fleet = fleet
        """The servers."""
        self.update_seconds: list[float] = []
        """How long every weight update took, over all servers at once."""
        self.sampled = 0
        """Ids sampled so far."""
        self._vocab_size, self._version = vocab_size, version
        self._name = f"phronesis-{secrets.token_hex(4)}"
        self._save, self._score = save, score
        self._written: Target | None = None
        self._settling: asyncio.Task[None] | None = None
        self._jitter = Random()

    @property
    def version(self) -> int:
        """Number of weight updates announced by `advance`."""
        return self._version

    @property
    def arithmetic(self) -> str:
        """How it computes."""
        return "vllm"

    @property
    def retries(self) -> Counter[str]:
        """Requests the fleet was asked again, by reason."""
        return self.fleet.retries

    def advance(self, to: int | None = None) -> int:
        """Announces new weights: they are written at once and given to the servers as soon as the event loop allows.

        Requests made after this wait for them; requests in flight go on with them.

        Args:
            to: their version, for a copy that is not given every one; None means the next.
        """
        self._version = self._version + 1 if to is None else to
        if self._save is not None:
            self._write()
            if self.fleet.opened:
                self._settle_soon()
        return self._version

    def release(self, cache_key: str) -> None:
        """The key will not be used again."""
        self.fleet.router.forget(cache_key)

    async def settle(self) -> None:
        """Waits until servers are up and have the newest weights.

        Raises:
            PolicyFault: they do not come up, or none takes the weights.
        """
        while not self._settled:
            await asyncio.shield(self._settle_soon())

    async def sample(self, prompt: Sequence[int], params: SamplingParams) -> Completion:
        """Continues `prompt`.

        Raises:
            ConfigError: parameters that cannot work.
            PolicyFault: a prompt that is empty, does not fit the context or holds unknown ids; or no server could answer.
        """
        check(params, self._vocab_size, _served)
        await self.settle()
        context = self.fleet.context
        check_ids(prompt, self._vocab_size, context)
        ids, since, key = tuple(prompt), self._version, params.cache_key
        consumed: list[int] = []

        async def sample(n: int, sofar: tuple[int, ...], most: int, stops: tuple[int, ...]) -> Said:
            seed = params.seed if n == 0 else stream(params.seed, "part", n)
            said = await self._ask(self._asked(sofar, params, most, stops, seed), since, key)
            if not n and said.prompt is not None:
                consumed.append(prompt_crc(said.prompt[: len(ids)]))
            return said

        parts = await splice(ids, params, context, sample)
        await self._look(ids, parts, params, since)
        versions = [v for said in parts.answers for v in self._versions(said, since)] or [since]
        self.sampled += sum(parts.sampled)
        return Completion(
            ids=tuple(parts.ids),
            sampled=tuple(parts.sampled),
            logprobs=tuple(parts.logprobs),
            finish=parts.finish,
            version=(min(versions), max(versions)),
            prompt_crc=consumed[0] if consumed else prompt_crc(ids),
            cached_tokens=min(parts.answers[0].cached, len(ids)) if parts.answers else 0,
        )

    async def score(self, ids: Sequence[int], temperature: float = 1.0) -> tuple[float, ...]:
        """Nats `[len(ids) - 1]`: entry t is log p(ids[t+1] | ids[:t+1]).

        At temperature 1 (or 0, which means 1) one request; at any other, one of a single id per entry.

        Raises:
            ConfigError: a temperature below 0.
            PolicyFault: ids that cannot be, or no server could answer.
        """
        if not 0 <= temperature < float("inf"):
            raise ConfigError(f"temperature must be at least 0 and finite, got {temperature!r}")
        await self.settle()
        check_ids(ids, self._vocab_size, self.fleet.context)
        if len(ids) == 1:
            return ()
        params = SamplingParams(max_tokens=1, temperature=temperature or 1.0)
        return await self._looked(tuple(ids), range(1, len(ids)), params, self._version)

    def _asked(self, prompt: tuple[int, ...], p: SamplingParams, most: int, stops: tuple[int, ...], seed: int) -> Ask:
        return Ask(
            prompt=prompt, max_tokens=most, context=self.fleet.context, seed=seed & (2**63 - 1), temperature=p.temperature,
            top_p=p.top_p, top_k=p.top_k, min_p=p.min_p, stop_ids=stops, stop_strings=p.stop_strings, salt=self._salt,
        )  # fmt: skip

    @property
    def _salt(self) -> str | None:
        return None if self.fleet.target is None else self.fleet.target.label

    async def _ask(self, ask: Ask, since: int, key: str | None) -> Said:
        """One request, asked until the answer can be trusted."""

        async def once(server: Server) -> Said:
            said = await server.ask(ask)
            if (old := self._old(said, since)) is not None:
                self.fleet.outdated(server, old)
                raise EndpointFault(f"{server.url} sampled with weights {old!r}", url=server.url, reason="old_weights")
            return said

        return await self._tried(once, key)

    async def _tried(self, once: Callable[[Server], Awaitable[T]], key: str | None) -> T:
        """What a server answers, after as many attempts as it takes and is allowed.

        Raises:
            PolicyFault: none could be trusted.
        """
        avoid, last, fleet = frozenset[str](), None, self.fleet
        for attempt in range(fleet.config.attempts):
            if not fleet.ready:
                await fleet.wait()
            server = fleet.router.choose(key, fleet.ready, avoid)
            if server is None:
                continue
            if server.url in avoid:  # nobody else is left
                await asyncio.sleep(self._jitter.uniform(0.0, min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt)))
            try:
                return await once(server)
            except EndpointFault as error:
                if error.status is not None and error.status not in RETRIED:
                    raise
                self.retries[error.reason or "unknown"] += 1
                log.info("asking again: %s", error)
                if broken(error):
                    fleet.suspect(server, str(error))
                avoid, last = avoid | {server.url}, error
        tried = f"{fleet.config.attempts} attempts at {len(avoid)} servers"
        raise PolicyFault(f"no vLLM server gave an answer that can be trusted in {tried}; the last: {last}") from last

    def _old(self, said: Said, since: int) -> str | None:
        """A label of weights that are not ours or are older than `since`; None when all is well."""
        if self._save is None:
            return None
        for label in said.labels:
            name, _, number = label.rpartition(":")
            if name != self._name or not number.isdigit() or int(number) < since:
                return label
        return None

    def _versions(self, said: Said, since: int) -> list[int]:
        """Versions that took part; where the server does not say, all from the request to now."""
        if self._save is None:
            return [self._version]
        known = [int(label.rpartition(":")[2]) for label in said.labels] or [self._version]
        return [since, *known] if said.newest_only or not said.labels else known

    async def _look(self, prompt: tuple[int, ...], parts: Parts, params: SamplingParams, since: int) -> None:
        """Fills in the log-probabilities of forced ids."""
        forced = [t for t, sampled in enumerate(parts.sampled) if not sampled]
        if forced:
            whole = (*prompt, *parts.ids)
            found = await self._looked(whole, [len(prompt) + t for t in forced], params, since)
            for t, nats in zip(forced, found, strict=True):
                parts.logprobs[t] = max(nats, FLOOR)

    async def _looked(
        self, whole: tuple[int, ...], places: Sequence[int], params: SamplingParams, since: int
    ) -> tuple[float, ...]:
        """Nats of the ids at `places`, under the distribution that would have been sampled from."""
        p = params
        plain = p.temperature in (0.0, 1.0) and (p.temperature == 0 or (p.top_p == 1 and not p.top_k and not p.min_p))
        if plain and (len(places) > 1 or self.fleet.config.route != "tokens"):
            last = max(places)
            scores = await self._tried(lambda server: server.score(whole[: last + 1]), p.cache_key)
            return tuple(scores[at - 1] for at in places)
        if self.fleet.config.route != "tokens":
            raise ConfigError(
                f"forced ids at temperature {p.temperature!r} or with filters need engine.vllm.route = 'tokens': "
                f"{self.fleet.config.route!r} only scores ids at temperature 1"
            )

        async def one(at: int) -> float:
            asked = self._asked(whole[:at], p, 1, (), 0)
            said = await self._ask(_looking(asked, whole[at]), since, p.cache_key)
            return said.looked if said.looked is not None and said.looked > CLAMPED else FLOOR

        return tuple(await asyncio.gather(*(one(at) for at in places)))

    @property
    def _settled(self) -> bool:
        if not self.fleet.opened:
            return False
        return self._save is None or (self.fleet.target is not None and self.fleet.target.label == self._label)

    @property
    def _label(self) -> str:
        return f"{self._name}:{self._version}"

    def _write(self) -> Target:
        """The present weights on the disk, under their label."""
        assert self._save is not None
        if self._written is None or self._written.label != self._label or not self._written.folder.is_dir():
            folder = self.fleet.folders.write(f"{self._name}-{self._version}", self._save)
            self._written = Target(folder=folder, label=self._label, probe=self._probe())
        return self._written

    def _probe(self) -> Probe | None:
        if self._score is None:
            return None
        draw = rng(0, "vllm probe")
        ids = tuple(draw.randrange(self._vocab_size) for _ in range(PROBED))
        return Probe(ids=ids, nats=tuple(self._score(ids)))

    def _settle_soon(self) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        if self._settling is None or self._settling.done() or self._settling.get_loop() is not loop:
            self._settling = loop.create_task(self._settle())
            self._settling.add_done_callback(_seen)
        return self._settling

    async def _settle(self) -> None:
        target = None if self._save is None else self._write()
        await self.fleet.open(None if target is None else target.folder)
        while target is not None and not self._settled:
            target = self._write()
            seconds = await self.fleet.give(target)
            self.update_seconds.append(seconds)
            log.info("weights %s are on %d vLLM servers after %.3f s", target.label, len(self.fleet.ready), seconds)


def _looking(ask: Ask, look: int) -> Ask:
    return Ask(
        prompt=ask.prompt, max_tokens=1, context=ask.context, temperature=ask.temperature, top_p=ask.top_p, top_k=ask.top_k,
        min_p=ask.min_p, salt=ask.salt, look=look,
    )  # fmt: skip


def _served(ids: Sequence[int]) -> str:
    """Stop strings are found by the servers, which have the tokenizer."""
    return ""


def _seen(task: asyncio.Task[None]) -> None:
    """An update nobody waits for must not fail in silence; whoever samples next tries again."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("giving new weights to the vLLM servers failed: %s", error)
