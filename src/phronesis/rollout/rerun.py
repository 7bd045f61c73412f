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

from phronesis.credit.rule import value_of
from phronesis.errors import AllFaulted, ConfigError
from phronesis.records import Episode, EpisodeGroup
from phronesis.rollout.asking import Asking
from phronesis.rollout.play import Stage, Ticket, score
from phronesis.rollout.prefix import Cut, PlayOn, Scout, check_replay
from phronesis.seeding import stream


class Reruns(Asking):
    """Plays continuations on a stage and keeps their account; implements `phronesis.credit.rule.Rerun`, and
    `phronesis.credit.side.Asks` by `Asking`.

    Continuation i (counted over all calls for that turn) of an episode draws from ``stream(episode.seed, "rerun", turn, i)``,
    from inside a turn from ``stream(episode.seed, "rerun", turn, "token", token, i)``, so equal calls in equal order give equal
    rewards, and no draw is shared with the episode or another continuation.
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
        self._steps = 0
        self.faults = 0
        """Continuations that faulted; each was played again once."""
        self.missing = 0
        """Continuations that faulted twice, so that a mean is over fewer than were asked for."""
        self._on = PlayOn(stage, asyncio.Semaphore(concurrency))
        self._asked: Counter[tuple[str, int, int]] = Counter()

    async def __call__(self, episode: Episode, turn: int, n: int, *, greedy: bool = False, token: int = 0) -> tuple[float, ...]:
        """Rewards of `n` fresh continuations; see `phronesis.credit.rule.Rerun`.

        Raises:
            ConfigError: no such turn or token, or n below 1.
            EnvFault: the environment answered the recorded actions otherwise than recorded; names the turn.
            AllFaulted: every continuation faulted, twice; names the first cause.
        """
        if not 0 <= turn <= len(episode.turns) or n < 1:
            raise ConfigError(f"cannot re-run {episode.id!r} ({len(episode.turns)} turns) from turn {turn!r} {n!r} times")
        if turn == len(episode.turns):
            return (value_of(episode),) * n
        tokens = len(episode.turns[turn].completion)
        if not 0 <= token < max(tokens, 1):
            raise ConfigError(f"cannot re-run {episode.id!r} from token {token!r} of turn {turn!r}, which has {tokens}")
        cut = Cut(episode, turn, token)
        first = self._asked[episode.id, turn, token]
        self._asked[episode.id, turn, token] += n
        scout = await self._on.scout(cut)
        rewards: list[float] = []
        missing, failure = list(range(first, first + n)), None
        for again in (False, True):
            played = await asyncio.gather(*(self._one(cut, i, scout, again, greedy) for i in missing))
            for one in played:
                check_replay(cut, one.failure)
            group = EpisodeGroup(id=f"{episode.id}/rerun-{turn}", task=episode.task, episodes=tuple(played))
            scored = (await score(self.stage.spec, group, self.stage.limits_of(episode.task).rubric_seconds)).episodes
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

    @property
    def env_steps(self) -> int:
        """Steps the environments of continuations made, replayed ones included."""
        return self._steps + self._on.replayed

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

    async def _one(self, cut: Cut, index: int, scout: Scout | None, again: bool, greedy: bool) -> Episode:
        """One continuation, not scored yet."""
        episode, turn = cut.episode, cut.turn
        within = ("token", cut.token) if cut.token else ()
        names = (turn, *within, index, *(("again",) if again else ()))
        ticket = Ticket(
            id=f"{episode.id}/rerun-{'-'.join(map(str, names))}", task=episode.task, seed=episode.seed,
            group=episode.group, step=episode.step,
        )  # fmt: skip
        played = await self._on.play(cut, ticket, stream(episode.seed, "rerun", *names), greedy=greedy, scout=scout)
        self.episodes += 1
        self.tokens += sum(sum(t.sampled) for t in played.turns[turn:])
        self._steps += sum(t.reply is not None for t in played.turns[turn:])
        return played


def _counts(episode: Episode) -> bool:
    return not episode.stop.is_fault and episode.reward is not None and episode.reward.value is not None
