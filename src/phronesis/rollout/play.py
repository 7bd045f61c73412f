"""Play episodes: one, or groups of them at once. A failure is part of the episode; play itself never raises for one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Protocol, runtime_checkable

import msgspec

from phronesis.agent import Agent
from phronesis.chat.format import ChatFormat
from phronesis.env import EnvSpec
from phronesis.errors import AllFaulted, EnvFault
from phronesis.policy import Chats, Policy, Releases
from phronesis.records import Episode, EpisodeGroup, Failure, Reward, Stop, Task
from phronesis.rollout.breaker import POLICY, rubric_of
from phronesis.rollout.failures import FOREIGN, describe, hung, is_cancelled
from phronesis.rollout.gates import Gate, Gates
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.pace import Pace
from phronesis.rollout.repair import faulty, refill_id, was_left_alone
from phronesis.rollout.retries import RUBRIC, Retries, Work, episode_fault, rubric_fault
from phronesis.rollout.session import Attempt, EpisodeOver, EpisodeSession
from phronesis.rollout.waiting import Waiting
from phronesis.seeding import stream

LONG_SECONDS = 10.0
"""A call that lasts longer is named where episodes say what they wait for."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Everything an episode needs besides its task and seed."""

    spec: EnvSpec
    """The environment."""
    policy: Policy | Chats
    """Who continues the ids, or the conversation."""
    chat: ChatFormat
    """How messages become ids."""
    agent: Agent
    """How policy calls are spent."""
    limits: Limits = field(default_factory=Limits)
    """What an episode may use."""
    own_limits: Mapping[str, Limits] = field(default_factory=dict[str, Limits])
    """What episodes of a source with limits of its own may use, by `Task.env`."""
    sampling: Sampling = field(default_factory=Sampling)
    """How turns are sampled."""
    vocabulary: int | None = None
    """How many ids the policy chooses from; None where that is not known."""
    waiting: Waiting = field(default_factory=Waiting)
    """Episode id -> what it awaits right now, e.g. ``env.step``; for heartbeats."""
    retries: Retries | None = None
    """Plays faults again, for the whole run; None keeps them as they come."""
    elsewhere: Elsewhere | None = None
    """Who plays and judges instead of this process; None does both here."""

    def limits_of(self, task: Task) -> Limits:
        """What an episode of a task may use."""
        return self.own_limits.get(task.env, self.limits)

    def waits(self) -> str:
        """Who waits for what, in words: ``12 in policy.sample, 1 in env.step``."""
        counts = Counter(self.waiting.values())
        said = ", ".join(f"{n} in {where}" for where, n in counts.most_common()) or "nothing is awaited"
        away = "" if self.retries is None else self.retries.breakers.why()
        return f"{said}; {away}" if away else said


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """One episode to play."""

    id: str
    """Episode id, unique within the run."""
    task: Task
    """What to attempt."""
    seed: int
    """Seed of the episode: the environment's and every turn's seed derive from it."""
    group: str | None = None
    """Group it belongs to."""
    step: int | None = None
    """Training step; None outside training."""


class Elsewhere(Protocol):
    """Another process that plays episodes and judges them, as `play` and `score` do it here."""

    async def play_one(self, stage: Stage, ticket: Ticket) -> Episode:
        """Plays one episode to its end. It is not scored yet."""
        ...

    async def score_group(self, stage: Stage, group: EpisodeGroup, seconds: float) -> EpisodeGroup:
        """The group with rewards, for which the rubric has so many seconds."""
        ...


@runtime_checkable
class GroupPlayer(Protocol):
    """How the attempts of a group come about, for one run; see `phronesis.reason.players`."""

    async def play(self, stage: Stage, name: str, tickets: Sequence[Ticket], gate: Gate) -> EpisodeGroup:
        """One group, scored.

        Args:
            stage: what is played on.
            name: id of the group.
            tickets: one for each attempt the group may have; each gives an id, and a seed that no other attempt has.
            gate: entered by every play.
        """
        ...

    def settle(self, groups: Sequence[EpisodeGroup]) -> None:
        """Takes note of groups played at once, in their order, when all are done."""
        ...

    def metrics(self) -> dict[str, float]:
        """What was done since this was last asked, under metric keys."""
        ...


@runtime_checkable
class LeavesOut(Protocol):
    """A player that plays groups nothing is to be learned from."""

    def leaves_out(self, group: EpisodeGroup) -> bool:
        """Whether a group it played since `GroupPlayer.metrics` was last asked is one of these."""
        ...


async def play(stage: Stage, ticket: Ticket) -> Episode:
    """Plays one episode to its end. It is not scored yet.

    Raises:
        asyncio.CancelledError: the caller gave up; environments are closed first.
    """
    if stage.elsewhere is not None:
        return await stage.elsewhere.play_one(stage, ticket)
    attempt = open_attempt(stage, ticket)

    async def begin() -> EpisodeSession:
        session = EpisodeSession(attempt, await attempt.open_env())
        await session.reset()
        return session

    return await finish(stage, ticket, attempt, begin)


def open_attempt(stage: Stage, ticket: Ticket) -> Attempt:
    """The record of an episode that has not begun."""
    return Attempt(
        task=ticket.task,
        seed=ticket.seed,
        make_env=lambda: stage.spec.of(ticket.task).make(),
        policy=stage.policy,
        chat=stage.chat,
        limits=stage.limits_of(ticket.task),
        sampling=stage.sampling,
        key=ticket.id,
        waiting=stage.waiting,
    )


async def finish(stage: Stage, ticket: Ticket, attempt: Attempt, begin: Callable[[], Awaitable[EpisodeSession]]) -> Episode:
    """Lets the agent play from where `begin` puts it to the end, and closes everything.

    Raises:
        asyncio.CancelledError: the caller gave up; environments are closed first.
    """
    try:
        await Pace.of_loop().turn()
        session = await begin()
        if not session.done:
            await attempt.by_agent(stage.agent.run(session))
        attempt.end(session.over or attempt.verdict or Stop.parse)
    except EpisodeOver:
        pass
    except FOREIGN as error:  # an agent is user code too
        if is_cancelled(error):
            raise
        attempt.end(Stop.infra_fault, describe("agent.run", error))
    finally:
        await attempt.close()
        if isinstance(stage.policy, Releases):
            for branch in range(attempt.branches):
                stage.policy.release(f"{attempt.key}/{branch}")
    return Episode(
        id=ticket.id,
        task=ticket.task,
        seed=ticket.seed,
        opening=attempt.opening,
        tools=attempt.tools,
        turns=tuple(attempt.turns),
        stop=attempt.stop or Stop.cancelled,
        failure=attempt.failure,
        group=ticket.group,
        step=ticket.step,
        seconds=attempt.elapsed,
    )


async def score(spec: EnvSpec, group: EpisodeGroup, seconds: float = Limits().rubric_seconds) -> EpisodeGroup:
    """The group with rewards. A rubric that raises, hangs or breaks its contract makes every episode of the group an
    environment fault; an episode that ended in a fault gets no reward, whatever the rubric says.

    Args:
        spec: its rubric judges.
        group: finished episodes.
        seconds: how long the rubric may take.
    """
    deadline = asyncio.timeout(seconds)
    await Pace.of_loop().turn()
    try:
        async with deadline:
            rewards = check_rewards(await spec.rubric.score(group), group)
    except FOREIGN as error:
        if is_cancelled(error):
            raise
        late = isinstance(error, TimeoutError) and deadline.expired()
        return faulted(group, hung(RUBRIC, seconds) if late else describe(RUBRIC, error))
    episodes = tuple(
        e if e.stop.is_fault else msgspec.structs.replace(e, reward=r) for e, r in zip(group.episodes, rewards, strict=True)
    )
    return msgspec.structs.replace(group, episodes=episodes)


def check_played(what: str, episodes: Sequence[Episode]) -> None:
    """Refuses to go on where nothing but faults came of playing.

    Args:
        what: which episodes, for the message, e.g. ``step 3``.
        episodes: all of them, scored.

    Raises:
        AllFaulted: every one of them is a fault; names the first and its cause.
    """
    if episodes and all(e.stop.is_fault for e in episodes):
        first = next((e for e in episodes if not was_left_alone(e)), episodes[0])
        failure = first.failure
        cause = f"{failure.kind} in {failure.where}: {failure.message}" if failure else "cancelled"
        raise AllFaulted(f"all {len(episodes)} episodes of {what} faulted; the first ({first.id!r}): {cause}")


def check_rewards(rewards: Sequence[Reward], group: EpisodeGroup) -> Sequence[Reward]:
    """The rewards, known to be one per episode, finite, and of turns that exist.

    Raises:
        EnvFault: they are not; names the episode.
    """
    if len(rewards) != len(group.episodes):
        raise EnvFault(f"the rubric returned {len(rewards)} rewards for {len(group.episodes)} episodes")
    for reward, episode in zip(rewards, group.episodes, strict=True):
        if not isinstance(reward, Reward):  # pyright: ignore[reportUnnecessaryIsInstance] - rubrics are foreign code
            raise EnvFault(f"the rubric returned {type(reward).__name__!r} for {episode.id!r}, expected Reward")
        for part in reward.components:
            if part.score is not None and not isfinite(part.weight * part.score):
                raise EnvFault(f"component {part.name!r} of {episode.id!r} is {part.score!r}, expected a finite score")
            if part.turn is not None and not 0 <= part.turn < len(episode.turns):
                raise EnvFault(
                    f"component {part.name!r} of {episode.id!r} is for turn {part.turn!r} of {len(episode.turns)} turns"
                )
    return rewards


async def play_groups(
    stage: Stage,
    tasks: Sequence[Task],
    *,
    size: int,
    seed: int,
    name: str,
    step: int | None = None,
    stream_name: str | None = None,
    first: int = 0,
    concurrency: int | Gates = 256,
    on_episode: Callable[[Episode], None] | None = None,
    player: GroupPlayer | None = None,
) -> list[EpisodeGroup]:
    """Plays `size` episodes of every task at once and scores them, in the order of `tasks`.

    Args:
        seed: the run's seed; member m of group g gets ``stream(seed, stream_name, step, g, m)``, with -1 for no step.
        name: what the episodes are for, e.g. ``train`` or ``heldout_after``; part of their ids.
        stream_name: names the seeds, so that two plays with other names can share them; None means `name`.
        first: number of the first group, for a step that plays several times.
        concurrency: most episodes in flight, or the gates they go through.
        on_episode: called with each scored episode as its group finishes.
        player: how the attempts of a group come about; None plays each by itself, from the start.
    """
    gates = Gates(concurrency) if isinstance(concurrency, int) else concurrency
    naming = Naming(name=name, seed=seed, size=size, step=step, stream_name=stream_name)

    async def group(g: int, task: Task) -> EpisodeGroup:
        scored = await play_group(stage, naming.tickets(g, task), gates.of(task), player)
        for episode in scored.episodes:
            if on_episode is not None:
                on_episode(episode)
        return scored

    groups = list(await asyncio.gather(*(group(first + i, task) for i, task in enumerate(tasks))))
    if player is not None:
        player.settle(groups)
    return groups


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How groups and their episodes are named and seeded."""

    name: str
    """What the episodes are for, e.g. ``train``; part of their ids."""
    seed: int
    """The run's seed; member m of group g gets ``stream(seed, stream_name, step, g, m)``, with -1 for no step."""
    size: int
    """Episodes of a group, at least 1."""
    step: int | None = None
    """Training step."""
    stream_name: str | None = None
    """Names the seeds; None means `name`."""

    def tickets(self, group: int, task: Task) -> list[Ticket]:
        """The episodes of group number `group`."""
        own, step = self.stream_name or self.name, -1 if self.step is None else self.step
        id = f"{self.name}{'' if self.step is None else f'-{self.step}'}-{group}"
        return [
            Ticket(id=f"{id}-{m}", task=task, seed=stream(self.seed, own, step, group, m), group=id, step=self.step)
            for m in range(self.size)
        ]


async def play_group(stage: Stage, tickets: Sequence[Ticket], gate: Gate, player: GroupPlayer | None = None) -> EpisodeGroup:
    """Plays one group and scores it.

    Args:
        stage: what is played on.
        tickets: its episodes, at least one, all of one group and task.
        gate: entered by every play.
        player: how its attempts come about; None plays each by itself, from the start.
    """
    first = tickets[0]
    id = first.group or first.id
    if player is not None:
        return await player.play(stage, id, tickets, gate)

    episodes = await asyncio.gather(*(play_again(stage, t, gate) for t in tickets))
    episodes += await asyncio.gather(*(play_again(stage, t, gate) for t in _refills(stage, tickets, episodes)))
    finished = EpisodeGroup(id=id, task=first.task, episodes=tuple(episodes))
    return await judge(stage, finished)


async def play_again(stage: Stage, ticket: Ticket, gate: Gate) -> Episode:
    """Plays one episode through the gate; one that faults again, from the start, as often as the stage allows. It is not
    scored yet.

    Raises:
        asyncio.CancelledError: the caller gave up; environments are closed first.
        SourceDown: the run cannot do without what fails all the time.
    """
    return await tried(stage, ticket, gate, lambda: play(stage, ticket))


async def tried(stage: Stage, ticket: Ticket, gate: Gate, once: Callable[[], Awaitable[Episode]]) -> Episode:
    """What `once` plays, through the gate; where that faults, what it plays in another attempt, as `play_again`.

    Args:
        stage: says how often.
        ticket: of the episode.
        gate: entered by every attempt.
        once: one attempt with a fresh world.
    """
    if stage.retries is None:
        async with gate:
            return await once()
    sources = (ticket.task.env, POLICY)
    work = Work(id=ticket.id, group=ticket.group or ticket.id, sources=sources, gate=gate, waiting=stage.waiting)
    played = await stage.retries.run(work, once, episode_fault)
    if isinstance(played, Episode):
        return played
    return Episode(
        id=ticket.id, task=ticket.task, seed=ticket.seed, stop=Stop.infra_fault, failure=played, group=ticket.group,
        step=ticket.step,
    )  # fmt: skip


async def judge(stage: Stage, group: EpisodeGroup) -> EpisodeGroup:
    """The group with rewards, see `score`; a rubric that fails is asked again as often as the stage allows."""
    seconds = stage.limits_of(group.task).rubric_seconds
    if stage.retries is None:
        return await _score(stage, group, seconds)
    work = Work(id=f"{group.id}/rubric", group=group.id, sources=(rubric_of(group.task.env),), waiting=stage.waiting)
    judged = await stage.retries.run(work, lambda: _score(stage, group, seconds), rubric_fault)
    return judged if isinstance(judged, EpisodeGroup) else faulted(group, judged)


async def _score(stage: Stage, group: EpisodeGroup, seconds: float) -> EpisodeGroup:
    if stage.elsewhere is not None:
        return await stage.elsewhere.score_group(stage, group, seconds)
    return await score(stage.spec, group, seconds)


def faulted(group: EpisodeGroup, failure: Failure) -> EpisodeGroup:
    """The group as one nobody could judge: every episode that is none yet becomes an environment fault."""
    episodes = tuple(
        e if e.stop.is_fault else msgspec.structs.replace(e, stop=Stop.env_fault, failure=failure) for e in group.episodes
    )
    return msgspec.structs.replace(group, episodes=episodes)


def _refills(stage: Stage, tickets: Sequence[Ticket], episodes: Sequence[Episode]) -> list[Ticket]:
    """Others to play besides those that still fault, where the stage wants that and its budget allows it."""
    retries = stage.retries
    if retries is None or retries.config.incomplete != "refill":
        return []
    missing = {e.id for e in faulty(episodes)}
    found = [
        replace(t, id=refill_id(t.id), seed=stream(t.seed, "refill"))
        for t in tickets
        if t.id in missing and retries.budget.spend()
    ]
    retries.count("refilled", len(found))
    return found
