"""Plays a recorded episode on from inside it: a fresh world is brought to a point, then the agent goes on with other draws.

The world is brought there by a snapshot, or by the recorded actions again in a fresh instance whose every reply is compared
with the recorded one. The rule this module keeps: what is played on from is what happened, token for token, or it is said
that it is not.
"""

from __future__ import annotations

from dataclasses import replace as replace_data
from typing import NamedTuple

from msgspec.structs import replace

from phronesis.env import Env, EnvSpec, Expert, Legal, Snapshots
from phronesis.errors import ConfigError, EnvFault
from phronesis.policy import prompt_crc
from phronesis.records import Episode, Failure, Message, Reply, Stop, Task
from phronesis.rollout.deadlines import within
from phronesis.rollout.gates import Gate
from phronesis.rollout.play import Stage, Ticket, finish, open_attempt, tried
from phronesis.rollout.session import REPLAY_DIFFERS, Attempt, Begun, EpisodeOver, EpisodeSession


class Cut(NamedTuple):
    """A point of an episode."""

    episode: Episode
    """Finished."""
    turn: int
    """Index of the turn it lies before, or in."""
    token: int = 0
    """How many tokens of that turn's completion lie before it; they become the forced beginning of the turn."""
    route: tuple[int, ...] = ()
    """Ids that are forced behind them."""


class Scout(NamedTuple):
    """A session that stands just before a turn, and the snapshot of its environment."""

    session: EpisodeSession
    """Closed; only what it knows is used."""
    state: bytes
    """To restore fresh environments from."""


class PlayOn:
    """Plays on from inside episodes on a stage, and counts the environment steps that bringing worlds there took."""

    def __init__(self, stage: Stage, gate: Gate) -> None:
        """
        Args:
            stage: what the episodes were played on.
            gate: entered by every play.
        """
        self.stage = stage
        self.gate = gate
        self.replayed = 0
        """Recorded actions done again in fresh worlds."""

    async def scout(self, cut: Cut) -> Scout | None:
        """A snapshot just before the cut's turn, for several plays from there; None where each must replay for itself.

        A scout that fails otherwise than by a differing replay is left to the plays to count.

        Raises:
            EnvFault: the environment answered the recorded actions otherwise than recorded.
        """
        if cut.turn == 0:
            return None
        attempt = self._attempt(cut, Ticket(id=f"{cut.episode.id}/scout-{cut.turn}", task=cut.episode.task, seed=0), 0)
        async with self.gate:
            try:
                session = EpisodeSession(attempt, await attempt.open_env())
                if not isinstance(session.env, Snapshots):
                    return None
                await self._replay(session, cut)
                state = await session.snapshot()
                return None if state is None else Scout(session, state)
            except EpisodeOver:
                check_replay(cut, attempt.failure)
                return None
            finally:
                await attempt.close()

    async def play(self, cut: Cut, ticket: Ticket, draws: int, *, greedy: bool = False, scout: Scout | None = None) -> Episode:
        """Plays on to the end; not scored yet. The record holds the turns before the cut's turn, and then its own.

        Limits are those of one episode, of which what lies before the cut has used its share.

        Args:
            cut: where.
            ticket: of the new episode. The environment's seed is that of the old one.
            draws: seed of what the policy draws.
            greedy: at temperature 0.
            scout: of the same turn; None replays.
        """
        ticket = replace_data(ticket, seed=cut.episode.seed)

        async def once() -> Episode:
            attempt = self._attempt(cut, ticket, draws, greedy)

            async def begin() -> EpisodeSession:
                session = EpisodeSession(attempt, await attempt.open_env())
                if scout is None:
                    await self._replay(session, cut)
                else:
                    await session.restore(*scout)
                session.begun = begun(cut)
                return session

            return await finish(self.stage, ticket, attempt, begin)

        return await tried(self.stage, ticket, self.gate, once)

    def _attempt(self, cut: Cut, ticket: Ticket, draws: int, greedy: bool = False) -> Attempt:
        stage, episode = self.stage, cut.episode
        if greedy:
            stage = replace_data(stage, sampling=replace(stage.sampling, temperature=0.0))
        attempt = open_attempt(stage, replace_data(ticket, seed=episode.seed))
        attempt.resume(episode, cut.turn, draws)
        if cut.token:
            attempt.sampled_tokens += sum(episode.turns[cut.turn].sampled[: cut.token])
        return attempt

    async def _replay(self, session: EpisodeSession, cut: Cut) -> None:
        """Brings a fresh session to just before the cut's turn.

        Raises:
            EpisodeOver: the environment failed, or answered otherwise than recorded, or the policy would be shown another
                prompt; `check_replay` tells these apart.
        """
        episode, turn = cut.episode, cut.turn
        line = episode.line(turn)[:-1]
        try:
            await session.replay(line)
        finally:
            self.replayed += len(line)
        if prompt_crc(session.prompt) != episode.turns[turn].prompt_crc:
            message = f"turn {turn} would be shown another prompt than recorded: this is not the chat format it was played with"
            raise session.attempt.end(Stop.env_fault, Failure(where="chat.extend", kind=REPLAY_DIFFERS, message=message))


def begun(cut: Cut) -> Begun:
    """The forced beginning of the cut's turn, and how many sampled tokens of a thought it holds."""
    if not cut.token and not cut.route:
        return Begun()
    turn = cut.episode.turns[cut.turn]
    thought = sum(
        turn.sampled[t] for span in turn.spans if span.kind == "think" for t in range(span.start, min(span.end, cut.token))
    )
    return Begun((*turn.completion[: cut.token], *cut.route), thought)


def check_replay(cut: Cut, failure: Failure | None) -> None:
    """Refuses to go on where bringing a world to the cut failed because it is not what was recorded.

    Raises:
        EnvFault: names episode and turn, and what to do.
    """
    if failure is not None and failure.kind == REPLAY_DIFFERS:
        raise EnvFault(
            f"cannot re-run {cut.episode.id!r} from turn {cut.turn}: {failure.message}. Make the environment a function of its "
            "task and seed, or choose a credit rule and a player that do not re-run"
        )


async def check_world(spec: EnvSpec, task: Task, seed: int, steps: int = 3, seconds: float = 120.0) -> None:
    """Refuses a world that answers the same actions otherwise in a fresh instance. One that fails is left for play to find.

    Args:
        spec: the environment.
        task: any of its tasks.
        seed: any.
        steps: actions to try: the expert's or the first legal one where the world knows one, else an empty message.
        seconds: how long an instance may take in all.

    Raises:
        ConfigError: names the first reply that differs.
    """
    actions: list[Message] = []

    async def replies(env: Env) -> list[Reply]:
        found = [await env.reset(task, seed)]
        for k in range(steps):
            if found[-1].done:
                break
            if len(actions) == k:
                actions.append(await _some_action(env))
            found.append(await env.step(actions[k]))
        return [replace(r, metrics={}) for r in found]

    async def instance() -> list[Reply]:
        env = spec.of(task).make()
        try:
            return await replies(env)
        finally:
            await env.close()

    rows: list[list[Reply]] = []
    for _ in range(2):
        try:
            rows.append(await within(seconds, instance(), EnvFault, "the environment"))
        except Exception:  # foreign code; an episode reports it with its trace
            return
    for k, (one, other) in enumerate(zip(*rows, strict=False)):
        if one != other:
            where = f"step {k}" if k else "reset"
            raise ConfigError(
                f"environment {spec.of(task).name!r} cannot be played on from inside an episode: its {where} "
                "answered otherwise in a fresh instance with the same task and seed; make it a function of them, or set "
                'player.type = "alone"'
            )


async def _some_action(env: Env) -> Message:
    if isinstance(env, Expert):
        return await env.expert()
    legal = await env.legal() if isinstance(env, Legal) else ()
    return legal[0] if legal else Message(role="assistant")
