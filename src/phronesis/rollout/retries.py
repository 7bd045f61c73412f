"""Infrastructure faults are tried again, from the start: same task, same seed, same episode id, a new environment instance.

Every random number of an episode is a function of its seed, so a retry that succeeds gives the very episode that a clean first
try would have given, and a run with faults learns what the run without them learns. What retries must not do is make an
outage worse, so there are three brakes: few attempts per episode, a budget per run (`Budget`), and a breaker per source
(`phronesis.rollout.breaker`), behind which episodes wait instead of failing. Waiting never holds the gate that limits episodes
in flight.

What still faults stays a fault: it is stored, counted, and reaches no baseline and no mean.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeVar

from msgspec import Struct

from phronesis.errors import ConfigError, TrainingError, UserError
from phronesis.records import Episode, EpisodeGroup, Failure, Stop
from phronesis.rollout.breaker import POLICY, BreakerConfig, Breakers, State, rubric_of, title
from phronesis.seeding import rng

T = TypeVar("T")

Incomplete = Literal["learn_from_rest", "drop_group", "refill"]
"""What becomes of a group some members of which still fault; see `phronesis.rollout.repair`."""


class RetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often, and how soon, an episode that ended in a fault is played again."""

    attempts: int = 3
    """Attempts at an episode in all, at least 1; 1 retries nothing."""
    share: float = 0.5
    """Retries may be this share of the episodes begun, at least 0. 30 % faults by chance need .3 + .09 = .39."""
    reserve: int = 16
    """Retries allowed besides, at least 0, so that the first episodes of a run have some."""
    seconds: float = 0.25
    """Pause before the first retry of an episode; doubles with each."""
    cap_seconds: float = 10.0
    """Longest such pause, at least `seconds`."""
    jitter: float = 0.5
    """Share of a pause that is left to chance, in [0, 1], so that what failed together does not come back together."""
    incomplete: Incomplete = "learn_from_rest"
    """What becomes of a group some of whose episodes still fault: learn from the rest where at least two are sound, drop all of
    it, or play as many others with new seeds."""
    breaker: BreakerConfig = BreakerConfig()
    """When an environment or the policy is left alone."""

    def validate(self) -> None:
        """Raises ConfigError for a number out of range."""
        self.breaker.validate()
        if self.attempts < 1 or self.share < 0 or self.reserve < 0:
            raise ConfigError(
                f"retry needs attempts >= 1, share >= 0 and reserve >= 0, got {self.attempts!r}, {self.share!r} and "
                f"{self.reserve!r}"
            )
        if not 0 <= self.seconds <= self.cap_seconds or not 0 <= self.jitter <= 1:
            raise ConfigError(
                f"retry needs 0 <= seconds <= cap_seconds and jitter in [0, 1], got {self.seconds!r}, {self.cap_seconds!r} and "
                f"{self.jitter!r}"
            )

    def pause(self, seed: int, id: str, failed: int) -> float:
        """Seconds before the next attempt: ``min(cap, seconds 2^(failed - 1)) (1 - jitter u)``, u in [0, 1) from the stream
        ("retry", id, failed). Without jitter, .25 and 10: .25, .5, 1, 2, 4, 8, 10, 10.

        Args:
            seed: the run's.
            id: of the episode.
            failed: attempts that failed so far, at least 1.
        """
        longest = min(self.seconds * 2.0 ** min(failed - 1, 60), self.cap_seconds)
        return longest * (1.0 - self.jitter * rng(seed, "retry", id, failed).random())


class Budget:
    """Retries a run may make: ``share x begun + reserve``, counted over the whole process.

    A service that answers every tenth request is retried freely; one that is dead gets at most (1 + share) times the
    requests it would get without retries.   Idea: Finagle's RetryBudget.

    >>> budget = Budget(share=0.5, reserve=1)
    >>> budget.begin(), budget.begin(), [budget.spend() for _ in range(4)]
    (None, None, [True, True, False, False])
    """

    def __init__(self, share: float, reserve: int):
        self.share, self.reserve = share, reserve
        self.begun = 0
        """Episodes begun."""
        self.spent = 0
        """Retries made."""

    def begin(self) -> None:
        """An episode begins."""
        self.begun += 1

    def spend(self) -> bool:
        """Takes one retry; False, and nothing taken, where none is left."""
        allowed = self.spent + 1 <= self.share * self.begun + self.reserve
        self.spent += allowed
        return allowed


class Tried(Struct, frozen=True, kw_only=True):
    """A failed attempt, for the run's events."""

    id: str
    """Episode, or group whose rubric failed."""
    attempt: int
    """Counts its attempts from 1."""
    failure: Failure
    """What went wrong."""
    next: Literal["again", "parked", "given up", "over budget", "hopeless"]
    """What follows: another attempt after a pause; another one once its source works again; nothing, since the attempts or
    the budget are used up or it would only fail again."""

    @property
    def said(self) -> str:
        """One line for people."""
        f = self.failure
        return f"{self.id}, attempt {self.attempt}: {f.kind} in {f.where}: {f.message[:200]} ({self.next})"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is tried."""

    id: str
    """Names it, also for its jitter."""
    group: str
    """Group it belongs to."""
    sources: Sequence[str]
    """What it depends on as a whole."""
    gate: AbstractAsyncContextManager[object] | None = None
    """Entered by every attempt; None where nothing limits how many there are."""
    waiting: dict[str, str] | None = None
    """Where to say what it waits for, by its id."""


class Retries:
    """The retries of a run: its budget, its breakers, its account."""

    def __init__(
        self,
        config: RetryConfig,
        *,
        seed: int,
        breakers: Breakers | None = None,
        note: Callable[[Tried], None] = lambda tried: None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ):
        """Nothing was tried yet.

        Args:
            config: how often.
            seed: the run's, for the jitter.
            breakers: of the run; None makes some that tell nobody.
            note: told about every failed attempt.
            sleep: waits.

        Raises:
            ConfigError: a number out of range.
        """
        config.validate()
        self.config = config
        self.breakers = Breakers(config.breaker) if breakers is None else breakers
        self.budget = Budget(config.share, config.reserve)
        self._seed, self._note, self._sleep = seed, note, sleep
        self._counts = Counter[str]()

    async def run(self, work: Work, once: Callable[[], Awaitable[T]], failure: Callable[[T], Failure | None]) -> T | Failure:
        """Tries until it succeeds or is not worth trying.

        Args:
            work: what is tried, and what it depends on.
            once: one attempt with fresh state; must not raise for a fault.
            failure: the fault an attempt ended in; None for a success.

        Returns:
            The last attempt, be it a fault; or, where its source was left alone so that there was none, why.

        Raises:
            SourceDown: see `Breakers.enter`.
        """
        self.budget.begin()
        failed, tries, last, since = 0, 0, None, None
        while True:
            refused = await self._enter(work, since)
            if refused is not None:
                self._counts["lost"] += 1
                return refused if last is None else last
            attempted = await self._attempt(work, once)
            if attempted is None:
                continue
            last = attempted[0]
            fault = failure(last)
            tries += 1
            blamed = self._record(work, fault)
            if fault is None:
                self._counts["saved"] += tries > 1
                return last
            then = self._next(fault, failed, blamed)
            self._told(Tried(id=work.id, attempt=tries, failure=fault, next=then))
            if then == "parked":
                since = self.breakers.now() if since is None else since
            elif then == "again":
                failed, since = failed + 1, None
                await self._back_off(work, failed)
            else:
                self._counts["lost"] += 1
                return last

    def aside(self) -> Retries:
        """The same retries, budget and breakers with an account of its own, for an evaluation while training plays on: there no
        source can take another's place, so that one which is left alone is waited for."""
        other = Retries(self.config, seed=self._seed, breakers=self.breakers.patient(), note=self._note, sleep=self._sleep)
        other.budget = self.budget
        return other

    def metrics(self) -> dict[str, float]:
        """What was retried since this was last asked, and the breakers, under metric keys; empty where nothing failed."""
        found = {f"retries/{key}": float(n) for key, n in sorted(self._counts.items()) if n}
        self._counts.clear()
        return found | self.breakers.metrics()

    def count(self, key: str, n: int = 1) -> None:
        """Counts what became of faults elsewhere, e.g. ``refilled``; under ``retries/``."""
        self._counts[key] += n

    async def _enter(self, work: Work, since: float | None) -> Failure | None:
        if work.waiting is not None and not self.breakers.admits(work.sources, work.group):
            work.waiting[work.id] = "wait for a source"
        try:
            source = await self.breakers.enter(work.sources, work.group, since=since)
        finally:
            if work.waiting is not None:
                work.waiting.pop(work.id, None)
        if source is None:
            return None
        why = self.breakers.of(source).why()
        return Failure(where="breaker", kind="LeftAlone", message=f"{title(source)} is left alone: {why}")

    async def _attempt(self, work: Work, once: Callable[[], Awaitable[T]]) -> tuple[T] | None:
        """One attempt; None where a source was found to be down before it began."""
        try:
            async with nullcontext() if work.gate is None else work.gate:
                if not self.breakers.admits(work.sources, work.group):  # it may have waited long for the gate
                    return None
                with self.breakers.under_way(work.sources):
                    return (await once(),)
        except BaseException:
            for source in work.sources:
                self.breakers.withdraw(source, work.group)
            raise

    def _record(self, work: Work, fault: Failure | None) -> str | None:
        """Tells the breakers how an attempt went; whom it blames."""
        blamed = None if fault is None else blame(fault, work.sources)
        for source in work.sources:
            if fault is None or source == blamed:
                self.breakers.record(source, fault is None, work.group)
            else:
                self.breakers.withdraw(source, work.group)
        return blamed

    def _next(
        self, fault: Failure, failed: int, blamed: str | None
    ) -> Literal["again", "parked", "given up", "over budget", "hopeless"]:
        if is_hopeless(fault):
            return "hopeless"
        if blamed is not None and self.config.attempts > 1:
            breaker = self.breakers.of(blamed)
            if breaker.state is not State.closed and breaker.worked:
                return "parked"  # the source failed, not this episode, so that it costs no attempt
        if failed + 1 >= self.config.attempts:
            return "given up"
        return "again" if self.budget.spend() else "over budget"

    def _told(self, tried: Tried) -> None:
        counts = self._counts
        counts["faults"] += 1
        counts[place(tried.failure)] += 1
        counts[manner(tried.failure)] += 1
        counts["again"] += tried.next in ("again", "parked")
        counts["refused"] += tried.next == "over budget"
        self._note(tried)

    async def _back_off(self, work: Work, failed: int) -> None:
        if work.waiting is not None:
            work.waiting[work.id] = "back-off before a retry"
        try:
            await self._sleep(self.config.pause(self._seed, work.id, failed))
        finally:
            if work.waiting is not None:
                work.waiting.pop(work.id, None)


def _names(*roots: type[BaseException]) -> frozenset[str]:
    found = set[str]()
    todo = list(roots)
    while todo:
        kind = todo.pop()
        found.add(kind.__name__)
        todo += kind.__subclasses__()
    return frozenset(found)


HOPELESS = _names(UserError, TrainingError, ImportError, SyntaxError) | {"ReplayDiffers"}
"""Kinds of failure that another attempt can only repeat: someone has to change something. Every other kind is retried: an
environment that breaks its contract by a bug will break it again, but a flaky service behind it looks the same from here."""


def is_hopeless(failure: Failure) -> bool:
    """Whether another attempt can only fail in the same way."""
    return failure.kind in HOPELESS


def episode_fault(episode: Episode) -> Failure | None:
    """The fault an episode ended in; None for an episode that says something about the policy, and for one that somebody asked
    to stop."""
    if episode.stop not in (Stop.env_fault, Stop.infra_fault):
        return None
    return episode.failure or Failure(where="play", kind="Unknown", message="a fault without a record")


def rubric_fault(group: EpisodeGroup) -> Failure | None:
    """The fault of the rubric that judged a group; None where it judged."""
    found = (e.failure for e in group.episodes if e.failure is not None)
    return next((f for f in found if f.where == RUBRIC), None)


RUBRIC = "rubric.score"
"""Where a rubric's failures are caught."""


def place(failure: Failure) -> str:
    """Which part failed: env, policy, rubric or agent; the last of a metric's key."""
    return {"env": "env", "chat": "env", "policy": "policy", "rubric": "rubric"}.get(failure.where.partition(".")[0], "agent")


def manner(failure: Failure) -> str:
    """How it failed: hung (no answer in time), contract (an answer that breaks the rules), or raised."""
    if failure.kind == "Hung":
        return "hung"
    return "contract" if failure.kind in ("EnvFault", "TokenMismatch", "ReplayDiffers") else "raised"


def blame(failure: Failure, sources: Sequence[str]) -> str | None:
    """The one of `sources` a failure speaks against; None for the agent's own, which says nothing about any."""
    part = place(failure)
    if part == "policy":
        return POLICY if POLICY in sources else None
    rubrics = [s for s in sources if s.endswith(rubric_of(""))]
    others = [s for s in sources if s != POLICY and s not in rubrics]
    found = {"env": others, "rubric": rubrics}.get(part, [])
    return found[0] if found else None
