"""Groups between their start and their batch: who may start, and which ones are learned from next.

Pure bookkeeping without clocks or coroutines, so that its promise can be tested as a property.

**The promise.** Let B be the groups of a batch, eta the staleness allowed, and v the number of batches learned so far, which
is also the version of the weights. A group *born* at version b (it starts then) is *due* at b + eta. Two rules:

1. Pacing: a group may start only while fewer than (eta + v + 1) B groups were started and not left out. (And, so that what
   is learned from stays as young as it can: only while fewer than `lead` whole batches lie ready.)
2. Due in time: let N(u) be how many groups under way are due at u or before. The batch of version v holds, for every u from v
   to v + eta, at least N(u) - (u - v) B of these; the rest of it are others in the order in which they finished. While too few
   of them have finished, the batch waits.

Then no group is more than eta versions old when it is learned from. *Proof.* We show N(u) <= (u - v + 1) B for all u >= v
whenever a batch is made. For u = v this says that the groups due now fit the batch, and rule 2 takes all of them. By rule 1 at
most (eta + v + 1) B groups were started, v B of them are in earlier batches, so N(v + eta) <= (eta + 1) B; and of those born
before v, when at most (eta + v) B were started, N(v + eta - 1) <= eta B. For smaller u the groups counted were born before
v - 1, so they were under way when the batch before was made; that one left at most (u - (v - 1)) B of them by rule 2, which is
the claim. And rule 2 asks for at most B groups: N(u) - (u - v) B <= B. A group that is left out, or that a restart gives a
later birth, only lowers some N(u). QED.

Nothing is thrown away for it. A group may overtake others as long as these can still be learned from in time; at eta = 0 every
batch is exactly the groups started since the last one, which is the synchronous loop.

Source: the pacing rule is AReaL's (arXiv 2505.24298; formula [capacity]); the bound there holds for batches in the order of
their start, here for batches that need not wait for their slowest group until it is due.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from phronesis.errors import ConfigError
from phronesis.records import EpisodeGroup, Task
from phronesis.train.asynchrony import AsyncConfig, capacity


class Started(Struct, kw_only=True):
    """A group that was started and not learned from yet; a checkpoint keeps all of it but the episodes."""

    number: int
    """Counts groups from 0 over the whole run; names it and seeds it."""
    task: Task
    """What it attempts."""
    born: int
    """Version of the weights when it started."""
    group: EpisodeGroup | None = None
    """Its episodes; None while they are played."""
    finished: int | None = None
    """Counts finished groups; None while it is played."""


class Buffer:
    """All groups that were started and not learned from yet."""

    def __init__(self, batch: int, staleness: int, *, lead: int | None = None, max_age: int | None = None):
        """An empty buffer.

        Args:
            batch: groups of a batch, at least 1.
            staleness: eta, at least 0.
            lead: whole batches that may lie ready before no further group starts, at least 1; None means any number.
            max_age: leave out groups whose oldest token is older than this when their batch is made; None keeps all.

        Raises:
            ConfigError: a number out of range.
        """
        if batch < 1 or staleness < 0 or (lead is not None and lead < 1) or (max_age is not None and max_age < 0):
            raise ConfigError(
                f"need batch >= 1, staleness >= 0, lead >= 1, max_age >= 0; got {batch!r}, {staleness!r}, {lead!r}, {max_age!r}"
            )
        self.batch, self.staleness, self.lead, self.max_age = batch, staleness, lead, max_age
        self.version = 0
        """Batches learned so far."""
        self.taken = 0
        """Groups in batches so far, the one being learned from included."""
        self.started = 0
        """Number of the next group."""
        self.left_out = 0
        """Groups left out so far because they had grown too old."""
        self.held: dict[int, Started] = {}
        """Groups that play or wait, by number."""
        self._finished = 0

    @staticmethod
    def of(batch: int, config: AsyncConfig) -> Buffer:
        """An empty buffer for a run's settings."""
        return Buffer(batch, config.staleness, lead=config.lead, max_age=config.max_age)

    @property
    def room(self) -> int:
        """Groups that may start now; never below 0."""
        if self.lead is not None and self.waiting >= self.lead * self.batch:
            return 0
        free = capacity(
            batch=self.batch,
            eta=self.staleness,
            version=self.version,
            accepted=self.taken + self.waiting,
            running=self.playing,
            max_concurrent=self.playing + (self.staleness + 1) * self.batch,
        )
        return max(free, 0)

    @property
    def playing(self) -> int:
        """Groups that play."""
        return len(self.held) - self.waiting

    @property
    def waiting(self) -> int:
        """Groups that finished and wait for a batch."""
        return sum(s.group is not None for s in self.held.values())

    @property
    def late(self) -> list[Started]:
        """Groups of earlier versions that play, some of which the next batch cannot do without, in the order of their start;
        empty where it waits for any."""
        for limit, needed in self._needs():
            if limit < self.version and len([s for s in self._ready() if s.born <= limit]) < needed:
                return [s for _, s in sorted(self.held.items()) if s.group is None and s.born <= limit]
        return []

    def start(self, task: Task) -> Started:
        """Enters a group that starts now.

        Raises:
            ConfigError: there is no room for it.
        """
        if self.room < 1:
            raise ConfigError(f"no group may start at version {self.version}: {len(self.held)} are under way")
        entry = Started(number=self.started, task=task, born=self.version)
        self.held[entry.number] = entry
        self.started += 1
        return entry

    def finish(self, number: int, group: EpisodeGroup) -> None:
        """A group has been played and scored."""
        self.held[number].group = group
        self.held[number].finished = self._finished
        self._finished += 1

    def take(self, *, partial: bool = False) -> list[Started] | None:
        """The batch of the present version, in the order of start, once it is whole; None while it is not.

        Groups beyond `max_age` are left out and counted first, which makes room for others.

        Args:
            partial: take what there is once nothing plays any more, since no other group will start.
        """
        self._leave_out()
        ready, chosen = self._ready(), list[Started]()
        for limit, needed in self._needs():
            able = [s for s in ready if s.born <= limit and s not in chosen]
            chosen += able[: max(needed - len(chosen), 0)]
            if len(chosen) < needed:
                return None
        chosen += [s for s in ready if s not in chosen][: self.batch - len(chosen)]
        if len(chosen) < self.batch and not (partial and not self.playing):
            return None
        for entry in chosen:
            del self.held[entry.number]
        self.taken += len(chosen)
        return sorted(chosen, key=lambda s: s.number)

    def learned(self) -> None:
        """The batch that was taken has become new weights."""
        self.version += 1

    def restore(self, entries: Iterable[Started], *, version: int, started: int) -> None:
        """Takes over what a checkpoint kept: finished groups with their episodes; others start anew at this version.

        Args:
            entries: all groups under way then.
            version: batches learned until then.
            started: number of the next group then.
        """
        self.version, self.taken, self.started = version, version * self.batch, started
        for entry in sorted(entries, key=lambda s: (s.finished is None, s.finished, s.number)):
            self.held[entry.number] = entry
            if entry.group is None:
                entry.born, entry.finished = self.version, None
            else:
                entry.finished, self._finished = self._finished, self._finished + 1

    def _ready(self) -> list[Started]:
        """Groups that wait, in the order in which they finished."""
        found = [(s.finished, s) for s in self.held.values() if s.finished is not None]
        return [s for _, s in sorted(found, key=lambda pair: pair[0])]

    def _needs(self) -> list[tuple[int, int]]:
        """(b, n): the next batch must hold at least n of the groups born at b or before; rule 2."""
        found: list[tuple[int, int]] = []
        for ahead in range(self.staleness + 1):
            limit = self.version - self.staleness + ahead
            due = sum(s.born <= limit for s in self.held.values())
            found.append((limit, max(due - ahead * self.batch, 0)))
        return found

    def _leave_out(self) -> None:
        if self.max_age is None:
            return
        for _, entry in sorted(self.held.items()):
            if entry.group is not None and self.version - oldest(entry.group, entry.born) > self.max_age:
                del self.held[entry.number]
                self.left_out += 1


def oldest(group: EpisodeGroup, born: int) -> int:
    """Version of the weights that sampled the oldest token of a group; `born` where nothing was sampled."""
    return min((t.version[0] for e in group.episodes for t in e.turns if any(t.sampled)), default=born)
