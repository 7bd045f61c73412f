"""Play episodes: one, or groups of them at once. A failure is part of the episode; play itself never raises for one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Protocol, runtime_checkable

import msgspec

from phronesis.agent import Agent
from phronesis.chat.format import ChatFormat
from phronesis.env import EnvSpec
from phronesis.errors import AllFaulted, EnvFault
from phronesis.policy import Chats, Policy, Releases
from phronesis.records import Episode, EpisodeGroup, Reward, Stop, Task
from phronesis.rollout.failures import FOREIGN, describe, hung, is_cancelled
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.session import Attempt, EpisodeOver, EpisodeSession
from phronesis.seeding import stream


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
    sampling: Sampling = field(default_factory=Sampling)
    """How turns are sampled."""
    vocabulary: int | None = None
    """How many ids the policy chooses from; None where that is not known."""
    waiting: dict[str, str] = field(default_factory=dict[str, str])
    """Episode id -> what it awaits right now, e.g. ``env.step``; for heartbeats."""

    def waits(self) -> str:
        """Who waits for what, in words: ``12 in policy.sample, 1 in env.step``."""
        counts = Counter(self.waiting.values())
        return ", ".join(f"{n} in {where}" for where, n in counts.most_common()) or "nothing is awaited"


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


@runtime_checkable
class GroupPlayer(Protocol):
    """How the attempts of a group come about, for one run; see `phronesis.reason.players`."""

    async def play(self, stage: Stage, name: str, tickets: Sequence[Ticket], gate: asyncio.Semaphore) -> EpisodeGroup:
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
        make_env=stage.spec.make,
        policy=stage.policy,
        chat=stage.chat,
        limits=stage.limits,
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
        session = await begin()
        if not session.done:
            await stage.agent.run(session)
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
    try:
        async with deadline:
            rewards = check_rewards(await spec.rubric.score(group), group)
    except FOREIGN as error:
        if is_cancelled(error):
            raise
        late = isinstance(error, TimeoutError) and deadline.expired()
        failure = hung("rubric.score", seconds) if late else describe("rubric.score", error)
        episodes = tuple(
            e if e.stop.is_fault else msgspec.structs.replace(e, stop=Stop.env_fault, failure=failure) for e in group.episodes
        )
    else:
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
        first, failure = episodes[0], episodes[0].failure
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
    concurrency: int = 256,
    on_episode: Callable[[Episode], None] | None = None,
    player: GroupPlayer | None = None,
) -> list[EpisodeGroup]:
    """Plays `size` episodes of every task at once and scores them, in the order of `tasks`.

    Args:
        seed: the run's seed; member m of group g gets ``stream(seed, stream_name, step, g, m)``, with -1 for no step.
        name: what the episodes are for, e.g. ``train`` or ``heldout_after``; part of their ids.
        stream_name: names the seeds, so that two plays with other names can share them; None means `name`.
        first: number of the first group, for a step that plays several times.
        concurrency: most episodes in flight.
        on_episode: called with each scored episode as its group finishes.
        player: how the attempts of a group come about; None plays each by itself, from the start.
    """
    gate = asyncio.Semaphore(concurrency)
    naming = Naming(name=name, seed=seed, size=size, step=step, stream_name=stream_name)

    async def group(g: int, task: Task) -> EpisodeGroup:
        scored = await play_group(stage, naming.tickets(g, task), gate, player)
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


async def play_group(
    stage: Stage, tickets: Sequence[Ticket], gate: asyncio.Semaphore, player: GroupPlayer | None = None
) -> EpisodeGroup:
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

    async def member(ticket: Ticket) -> Episode:
        async with gate:
            return await play(stage, ticket)

    episodes = await asyncio.gather(*(member(t) for t in tickets))
    finished = EpisodeGroup(id=id, task=first.task, episodes=tuple(episodes))
    return await score(stage.spec, finished, stage.limits.rubric_seconds)
