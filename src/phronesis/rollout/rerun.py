"""Re-runs: plays finished episodes on from just before one of their turns, with other draws of the policy.

This is the loop's side of `phronesis.credit.rule.Rerun`. The environment gets the episode's own seed and is brought to the
turn by a snapshot where it has them, else by replaying the recorded actions in every continuation; either way each reply
is compared with the recorded one. A continuation has what the episode had left of its limits. The rule this module keeps:
a continuation that faults is counted and never stands for a reward.

The agent starts in the middle, so it must take all it knows from its session, as `ReAct` does. Continuations are not
stored. A rubric judges the continuations of one call as a group of their own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace as replace_data

from msgspec.structs import replace

from phronesis.credit.rule import value_of
from phronesis.env import Snapshots
from phronesis.errors import AllFaulted, ConfigError, EnvFault
from phronesis.policy import prompt_crc
from phronesis.records import Episode, EpisodeGroup, Failure, Stop
from phronesis.rollout.asking import Asking
from phronesis.rollout.play import Stage, Ticket, finish, open_attempt, score
from phronesis.rollout.session import REPLAY_DIFFERS, Attempt, EpisodeOver, EpisodeSession
from phronesis.seeding import stream


class Reruns(Asking):
    """Plays continuations on a stage and keeps their account; implements `phronesis.credit.rule.Rerun`, and
    `phronesis.credit.side.Asks` by `Asking`.

    Continuation i (counted over all calls for that turn) of an episode draws from ``stream(episode.seed, "rerun", turn, i)``,
    so equal calls in equal order give equal rewards, and no draw is shared with the episode or another continuation.
    """

    def __init__(self, stage: Stage, *, concurrency: int = 256):
        """Costs nothing until it is called.

        Args:
            stage: what the episodes were played on, weights included.
            concurrency: most continuations in flight, at least 1.
        """
        self.stage = stage
        self.episodes = 0
        """Continuations played, faulted ones included."""
        self.tokens = 0
        """Tokens sampled in them, behind the prefix."""
        self.env_steps = 0
        """Steps their environments made, replayed ones included."""
        self.faults = 0
        """Continuations that faulted; each was played again once."""
        self.missing = 0
        """Continuations that faulted twice, so that a mean is over fewer than were asked for."""
        self._gate = asyncio.Semaphore(concurrency)
        self._asked: Counter[tuple[str, int]] = Counter()

    async def __call__(self, episode: Episode, turn: int, n: int, *, greedy: bool = False) -> tuple[float, ...]:
        """Rewards of `n` fresh continuations; see `phronesis.credit.rule.Rerun`.

        Raises:
            ConfigError: no such turn, or n below 1.
            EnvFault: the environment answered the recorded actions otherwise than recorded; names the turn.
            AllFaulted: every continuation faulted, twice; names the first cause.
        """
        if not 0 <= turn <= len(episode.turns) or n < 1:
            raise ConfigError(f"cannot re-run {episode.id!r} ({len(episode.turns)} turns) from turn {turn!r} {n!r} times")
        if turn == len(episode.turns):
            return (value_of(episode),) * n
        stage = replace_data(self.stage, sampling=replace(self.stage.sampling, temperature=0.0)) if greedy else self.stage
        first = self._asked[episode.id, turn]
        self._asked[episode.id, turn] += n
        async with self._gate:
            scout = await self._scout(stage, episode, turn)
        rewards: list[float] = []
        missing, failure = list(range(first, first + n)), None
        for again in (False, True):
            played = await asyncio.gather(*(self._one(stage, episode, turn, i, scout, again) for i in missing))
            for one in played:
                _check(episode, turn, one.failure)
            group = EpisodeGroup(id=f"{episode.id}/rerun-{turn}", task=episode.task, episodes=tuple(played))
            scored = (await score(stage.spec, group, stage.limits.rubric_seconds)).episodes
            rewards += [value_of(e) for e in scored if _counts(e)]
            missing = [i for i, e in zip(missing, scored, strict=True) if not _counts(e)]
            self.faults += len(missing)
            failure = failure or next((e.failure for e in scored if e.failure is not None), None)
            if not missing:
                break
        self.missing += len(missing)
        if not rewards:
            cause = f"{failure.kind} in {failure.where}: {failure.message}" if failure else "the rubric gave no score"
            raise AllFaulted(f"all {n} re-runs of {episode.id!r} from turn {turn} faulted; the first: {cause}")
        return tuple(rewards)

    def progress(self) -> str:
        """What has been played so far, in words."""
        return f"{self.episodes} re-runs finished; {self.stage.waits()}"

    def metrics(self) -> dict[str, float]:
        """What it has cost so far, under metric keys; empty when nothing was re-run."""
        if not self.episodes:
            return {}
        return {
            "rerun/episodes": float(self.episodes),
            "rerun/tokens": float(self.tokens),
            "rerun/env_steps": float(self.env_steps),
            "rerun/faults": float(self.faults),
            "rerun/missing": float(self.missing),
        }

    async def _scout(self, stage: Stage, episode: Episode, turn: int) -> tuple[EpisodeSession, bytes] | None:
        """A session just before the turn and the snapshot of its environment; None where every continuation must replay.

        A scout that fails otherwise than by a differing replay is left to the continuations to count.
        """
        if turn == 0:
            return None
        attempt = _attempt(stage, episode, turn, f"{episode.id}/rerun-{turn}", 0)
        try:
            session = EpisodeSession(attempt, await attempt.open_env())
            if not isinstance(session.env, Snapshots):
                return None
            await self._replay(session, episode, turn)
            state = await session.snapshot()
            return None if state is None else (session, state)
        except EpisodeOver:
            _check(episode, turn, attempt.failure)
            return None
        finally:
            await attempt.close()

    async def _one(
        self, stage: Stage, episode: Episode, turn: int, index: int, scout: tuple[EpisodeSession, bytes] | None, again: bool
    ) -> Episode:
        """One continuation, not scored yet."""
        names = (turn, index, "again") if again else (turn, index)
        ticket = Ticket(
            id=f"{episode.id}/rerun-{'-'.join(map(str, names))}", task=episode.task, seed=episode.seed,
            group=episode.group, step=episode.step,
        )  # fmt: skip
        attempt = _attempt(stage, episode, turn, ticket.id, stream(episode.seed, "rerun", *names))

        async def begin() -> EpisodeSession:
            session = EpisodeSession(attempt, await attempt.open_env())
            if scout is None:
                await self._replay(session, episode, turn)
            else:
                await session.restore(*scout)
            return session

        async with self._gate:
            played = await finish(stage, ticket, attempt, begin)
        self.episodes += 1
        self.tokens += sum(sum(t.sampled) for t in played.turns[turn:])
        self.env_steps += sum(t.reply is not None for t in played.turns[turn:])
        return played

    async def _replay(self, session: EpisodeSession, episode: Episode, turn: int) -> None:
        """Brings a fresh session to just before a turn.

        Raises:
            EpisodeOver: the environment failed, or answered otherwise than recorded, or the policy would be shown another
                prompt; `_check` tells these apart.
        """
        line = episode.line(turn)[:-1]
        try:
            await session.replay(line)
        finally:
            self.env_steps += len(line)
        if prompt_crc(session.prompt) != episode.turns[turn].prompt_crc:
            message = f"turn {turn} would be shown another prompt than recorded: this is not the chat format it was played with"
            raise session.attempt.end(Stop.env_fault, Failure(where="chat.extend", kind=REPLAY_DIFFERS, message=message))


def _attempt(stage: Stage, episode: Episode, turn: int, key: str, draws: int) -> Attempt:
    attempt = open_attempt(stage, Ticket(id=key, task=episode.task, seed=episode.seed))
    attempt.resume(episode, turn, draws)
    return attempt


def _counts(episode: Episode) -> bool:
    return not episode.stop.is_fault and episode.reward is not None and episode.reward.value is not None


def _check(episode: Episode, turn: int, failure: Failure | None) -> None:
    """Raises EnvFault when what failed is the replay itself: then no continuation means anything."""
    if failure is not None and failure.kind == REPLAY_DIFFERS:
        raise EnvFault(
            f"cannot re-run {episode.id!r} from turn {turn}: {failure.message}. Make the environment a function of its task "
            "and seed, or choose a credit rule that does not re-run"
        )
