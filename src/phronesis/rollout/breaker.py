"""Circuit breakers: whoever only faults is left alone for a while, then tried with one group, then used again.

A *source* is whatever play depends on as a whole: an environment of the run by its name, its rubric, the policy. Its breaker
is ``closed`` while it works; ``open`` once most of its latest attempts were faults, so that nothing is asked of it; and after
a pause ``half_open``: one group goes through as a probe. A success closes it, another fault opens it for twice as long.

Pure bookkeeping on an injected clock; only `Breakers.enter` waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from copy import copy
from enum import StrEnum
from math import ceil

from msgspec import Struct

from phronesis.errors import ConfigError, SourceDown

POLICY = "/policy"
"""Name of the source that every episode depends on: who answers for the policy. No environment of a mixture has a slash."""

_RUBRIC = "/rubric"


def rubric_of(env: str) -> str:
    """Name of an environment's rubric as a source of its own, since it may fail while the environment works."""
    return env + _RUBRIC


def title(source: str) -> str:
    """A source, for people.

    >>> title("wiki"), title(rubric_of("wiki")), title(POLICY)
    ("source 'wiki'", "the rubric of 'wiki'", 'the policy')
    """
    if source == POLICY:
        return "the policy"
    env = source.removesuffix(_RUBRIC)
    return f"source {env!r}" if env == source else f"the rubric of {env!r}"


class BreakerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a source is left alone, and for how long. By default after 8 faults in a row, or 26 among the last 32 attempts; to a
    source that faults by chance 30 times in a hundred, the one happens once in 20,000 attempts, the other practically never."""

    window: int = 32
    """Latest finished attempts looked at, at least 1."""
    least: int = 16
    """Attempts there must be before their share is looked at, in [1, window]."""
    share: float = 0.8
    """Faults among them that open it, in (0, 1]."""
    streak: int = 8
    """Faults in a row that open it whatever came before, at least 1: an outage is noticed before episodes have used up their
    attempts. Attempts that still go on speak for the source: the faults must be `share` of them and these together."""
    seconds: float = 5.0
    """First pause before a probe, above 0; doubles with every probe that faults."""
    cap_seconds: float = 120.0
    """Longest pause, at least `seconds`."""
    patience: float = 900.0
    """Seconds of nothing but faults after which the run gives up, above 0. Only a source that has worked before is waited
    for; one that never did fails the run as soon as a whole step is faults."""
    park_seconds: float = 30.0
    """How long an episode waits for a source that the run could do without, before it ends as a fault; at least 0."""

    def validate(self) -> None:
        """Raises ConfigError for a number out of range."""
        if self.window < 1 or not 1 <= self.least <= self.window or not 0 < self.share <= 1 or self.streak < 1:
            raise ConfigError(
                f"breaker needs window >= 1, least in [1, window], share in (0, 1] and streak >= 1, got {self.window!r}, "
                f"{self.least!r}, {self.share!r} and {self.streak!r}"
            )
        if not 0 < self.seconds <= self.cap_seconds or self.patience <= 0 or self.park_seconds < 0:
            raise ConfigError(
                f"breaker needs 0 < seconds <= cap_seconds, patience > 0 and park_seconds >= 0, got {self.seconds!r}, "
                f"{self.cap_seconds!r}, {self.patience!r} and {self.park_seconds!r}"
            )


class State(StrEnum):
    """Whether a source is used."""

    closed = "closed"
    """It works."""
    open = "open"
    """It is left alone until the next probe."""
    half_open = "half_open"
    """One group tries it."""


class Breaker:
    """The bookkeeping of one source.

    Window 4, least 2, share .5, pause 10 s: attempts ok, fault at 0 s leave half of two, which opens it. At 9 s nobody may
    begin; at 10 s one group may, and the next may not. A fault opens it again until 30 s; a success closes it.
    """

    def __init__(self, config: BreakerConfig, clock: Callable[[], float] = time.monotonic):
        self.config = config
        self.state = State.closed
        self.worked = False
        """Whether it ever did."""
        self.since: float | None = None
        """First fault after the latest success; None while the latest attempt was a success, or none was made."""
        self.opened = 0
        """How often it went from closed to open."""
        self.probe_at = 0.0
        """When the next probe may begin, while open."""
        self.under_way = 0
        """Attempts that are being made now. Faults end sooner than successes: of sixty attempts begun at once, three in ten of
        which fault at their first action, the first eighteen to end are all faults. So those that go on count as sound."""
        self._clock = clock
        self._latest: deque[bool] = deque(maxlen=config.window)
        self._streak = 0
        self._pauses = 0
        self._probe: str | None = None

    @property
    def faults(self) -> tuple[int, int]:
        """Faults among the latest attempts, and how many of these there are."""
        return sum(not ok for ok in self._latest), len(self._latest)

    @property
    def faulting(self) -> float:
        """Seconds of nothing but faults; 0 while it works."""
        return 0.0 if self.since is None else self._clock() - self.since

    def allows(self, group: str | None = None) -> bool:
        """Whether a group may begin now; asking changes nothing.

        Args:
            group: its id; the group that probes is always let through.
        """
        if self.state is State.open:
            return self._clock() >= self.probe_at
        return self.state is State.closed or (group is not None and group == self._probe)

    def begin(self, group: str) -> None:
        """A group begins; where the breaker is open and a probe is due, as the probe."""
        if self.state is State.open and self.allows():
            self.state, self._probe = State.half_open, group

    def withdraw(self, group: str) -> None:
        """A group ended without saying anything about the source. If it was the probe, another one may try at once."""
        if self.state is State.half_open and group == self._probe:
            self.state, self._probe, self.probe_at = State.open, None, self._clock()

    def record(self, ok: bool, group: str | None = None) -> None:
        """An attempt has finished.

        Args:
            ok: False for a fault.
            group: whose it was. While a probe is out only its own outcome counts, and while the breaker is open none does:
                what began before says little about now. None stands for the probe.
        """
        now = self._clock()
        if ok:
            self.worked, self.since = True, None
        elif self.since is None:
            self.since = now
        if self.state is State.half_open and (group is None or group == self._probe):
            self._probe = None
            if ok:
                self.state, self._pauses = State.closed, 0
                self._latest.clear()
                self._latest.append(True)
            else:
                self._open(now)
        elif self.state is State.closed:
            self._latest.append(ok)
            self._streak = 0 if ok else self._streak + 1
            faults, n = self.faults
            many = n >= self.config.least and self._outweigh(faults, n + min(self.under_way, self.config.window))
            if many or (self._streak >= self.config.streak and self._outweigh(self._streak, self._streak + self.under_way)):
                self.opened += 1
                self._open(now)

    def why(self) -> str:
        """What is wrong, since when, and when it is tried again; empty while closed."""
        if self.state is State.closed:
            return ""
        faults, n = self.faults
        left = max(self.probe_at - self._clock(), 0.0)
        soon = "a probe is out" if self.state is State.half_open else f"next probe in {left:.0f} s"
        return f"{faults} of its last {n} attempts faulted, nothing but faults for {self.faulting:.0f} s, {soon}"

    def _outweigh(self, faults: int, attempts: int) -> bool:
        return faults >= ceil(self.config.share * attempts - 1e-9)

    def _open(self, now: float) -> None:
        self.state, self._streak = State.open, 0
        self.probe_at = now + min(self.config.seconds * 2.0 ** min(self._pauses, 60), self.config.cap_seconds)
        self._pauses += 1


Pause = Callable[[asyncio.Event, float], Awaitable[None]]
"""Waits until the event is set, but not longer than so many seconds."""


async def pause(event: asyncio.Event, seconds: float) -> None:
    """Waits until `event` is set, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


class Breakers:
    """The breakers of a run, one per source, each made when it is first heard of."""

    def __init__(
        self,
        config: BreakerConfig,
        *,
        sources: Sequence[str] = (),
        note: Callable[[str, State, str], None] = lambda source, state, why: None,
        clock: Callable[[], float] = time.monotonic,
        wait: Pause = pause,
    ):
        """No source has been heard of.

        Args:
            config: for each of them.
            sources: environments that the run can play instead of one another. It waits patiently for one only while none of
                the others can be played, and always for the policy.
            note: told when a breaker changes: its source, its new state, and `Breaker.why`.
            clock: seconds, growing.
            wait: how to wait for a change.
        """
        config.validate()
        self.config, self.sources = config, tuple(sources)
        self.parked: dict[str, int] = {}
        """Source -> episodes that wait for it now."""
        self._note, self._clock, self._wait = note, clock, wait
        self._breakers: dict[str, Breaker] = {}
        self._changed = asyncio.Event()

    def patient(self) -> Breakers:
        """The same breakers for play in which no source can take another's place, e.g. an evaluation: all are waited for."""
        other = copy(self)
        other.sources = ()
        return other

    def of(self, source: str) -> Breaker:
        """The breaker of a source."""
        return self._breakers.setdefault(source, Breaker(self.config, self._clock))

    def allows(self, source: str) -> bool:
        """Whether a group of this environment may begin now: it, its rubric and the policy are not left alone."""
        return all(b.allows() for name, b in self._breakers.items() if name in (source, rubric_of(source), POLICY))

    def probes(self, source: str) -> bool:
        """Whether a group of this environment that begins now is a probe: it, its rubric or the policy was left alone. Who
        draws tasks for many groups at once asks, so that one probe is drawn and not many."""
        shut = [b for name, b in self._breakers.items() if name in (source, rubric_of(source), POLICY)]
        return any(b.state is not State.closed for b in shut)

    def begin(self, source: str, group: str) -> None:
        """A group begins at a source, as its probe where it is one."""
        self._change(source, lambda b: b.begin(group))

    @contextmanager
    def under_way(self, sources: Sequence[str]) -> Generator[None]:
        """The time of one attempt at these sources."""
        breakers = [self.of(s) for s in sources]
        for breaker in breakers:
            breaker.under_way += 1
        try:
            yield
        finally:
            for breaker in breakers:
                breaker.under_way -= 1

    def record(self, source: str, ok: bool, group: str | None = None) -> None:
        """An attempt has finished; see `Breaker.record`."""
        self._change(source, lambda b: b.record(ok, group))

    def withdraw(self, source: str, group: str) -> None:
        """A group ended without saying anything; see `Breaker.withdraw`."""
        self._change(source, lambda b: b.withdraw(group))

    def admits(self, sources: Sequence[str], group: str) -> bool:
        """Whether a group may use these sources now."""
        return all(self.of(s).allows(group) for s in sources)

    def now(self) -> float:
        """The clock."""
        return self._clock()

    async def enter(self, sources: Sequence[str], group: str, *, since: float | None = None) -> str | None:
        """Waits until a group may use all of these sources, and begins it there.

        Args:
            sources: names.
            group: id of the group.
            since: when it began to wait; None means now.

        Returns:
            None; or the source that is not to be waited for, since it never worked or others can be played meanwhile.

        Raises:
            SourceDown: a source that the run cannot do without gave nothing but faults for too long.
        """
        since = self._clock() if since is None else since
        while not self.admits(sources, group):
            source = next(s for s in sources if not self.of(s).allows(group))
            left = self._patience(source, since)
            if left <= 0:
                return source
            breaker = self.of(source)
            until = left if breaker.state is State.half_open else min(left, breaker.probe_at - self._clock())
            self.parked[source] = self.parked.get(source, 0) + 1
            try:
                await self._wait(self._changed, max(until, 0.001))
            finally:
                self.parked[source] -= 1
        for source in sources:
            self.begin(source, group)
        return None

    async def any_of(self, sources: Sequence[str]) -> None:
        """Waits until a group of one of these environments may begin.

        Raises:
            SourceDown: all of them, or the policy, gave nothing but faults for longer than the run is patient.
        """
        while not any(self.allows(s) for s in sources):
            shut = {s: [(n, b) for n in (s, rubric_of(s), POLICY) if not (b := self.of(n)).allows()] for s in sources}
            worst = [max(found, key=lambda pair: pair[1].faulting) for found in shut.values()]
            name, breaker = min(worst, key=lambda pair: pair[1].faulting)
            left = self.config.patience - breaker.faulting
            if left <= 0:
                raise self._down(name)
            due = [b.probe_at - self._clock() for found in shut.values() for _, b in found if b.state is State.open]
            await self._wait(self._changed, max(min([left, *due]), 0.001))

    def why(self) -> str:
        """Which sources are left alone, since when, and when each is tried again; empty where all are used."""
        told = [(name, b.why(), self.parked.get(name, 0)) for name, b in sorted(self._breakers.items())]
        return "; ".join(f"{title(name)}: {why}, {n} episodes wait for it" for name, why, n in told if why)

    def metrics(self) -> dict[str, float]:
        """Breakers not closed now, and openings so far, under metric keys; empty where none ever opened."""
        opened = sum(b.opened for b in self._breakers.values())
        if not opened:
            return {}
        away = sum(b.state is not State.closed for b in self._breakers.values())
        return {"breaker/open": float(away), "breaker/opened": float(opened)}

    def _patience(self, source: str, since: float) -> float:
        """Seconds that an episode parked at `since` still waits for a source.

        Raises:
            SourceDown: there are none left, and the run cannot do without it.
        """
        breaker, config = self.of(source), self.config
        if not breaker.worked:
            return 0.0
        env = source.removesuffix(_RUBRIC)
        if source == POLICY or not any(self.allows(other) for other in self.sources if other != env):
            left = config.patience - breaker.faulting
            if left <= 0:
                raise self._down(source)
            return left
        return config.park_seconds - (self._clock() - since)

    def _down(self, source: str) -> SourceDown:
        return SourceDown(
            f"{title(source)} gave nothing but faults for {self.of(source).faulting:.0f} s; mend it and resume the run, or "
            "raise retry.breaker.patience"
        )

    def _change(self, source: str, change: Callable[[Breaker], None]) -> None:
        breaker = self.of(source)
        before = breaker.state
        change(breaker)
        if breaker.state is not before:
            self._note(source, breaker.state, breaker.why())
            self._changed.set()
            self._changed = asyncio.Event()
