"""The plain synchronous loop: play groups, assign credit, update, repeat.

This file is documentation and oracle: everything that happens in a step is visible here, in order, without hooks. Every
random number of step k is a function of (seed, k), so a run resumed at step k continues bit for bit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from phronesis.credit.rule import CreditRule
from phronesis.env import TaskSource
from phronesis.errors import ConfigError, Overdue
from phronesis.log import Heartbeat, doing
from phronesis.records import Batch, Credit, Episode, EpisodeGroup
from phronesis.rollout.deadlines import within
from phronesis.rollout.play import GroupPlayer, LeavesOut, Stage, check_played, play_groups
from phronesis.rollout.repair import left_out
from phronesis.rollout.rerun import Reruns
from phronesis.store.run import RunWriter
from phronesis.train import worlds
from phronesis.train.batching import build_batch
from phronesis.train.config import RunConfig
from phronesis.train.crediting import assign
from phronesis.train.dynamic import Sampled, sample
from phronesis.train.faults import draw
from phronesis.train.learner import UpdateMetrics
from phronesis.train.learning import Learns
from phronesis.train.lessons.lesson import Lesson
from phronesis.train.measures import episode_metrics, update_metrics
from phronesis.train.silence import Silence
from phronesis.train.twins import AnyCritic


@dataclass(frozen=True, kw_only=True)
class Loop:
    """The parts a step works with."""

    config: RunConfig
    """Settings."""
    stage: Stage
    """Environment, policy, chat format, agent, limits."""
    source: TaskSource
    """Where tasks come from."""
    credit: CreditRule
    """Who earned the reward."""
    learner: Learns
    """Shares its weights with the stage's policy."""
    run: RunWriter
    """Where everything is written."""
    push: Callable[[], object]
    """Gives the new weights to the policy."""
    after_step: Callable[[int, dict[str, float]], Awaitable[None]]
    """Called with the number of finished steps and the step's metrics: progress, checkpoints, evaluation."""
    player: GroupPlayer | None = None
    """How the attempts of a group come about; None plays each by itself."""
    critic: AnyCritic | None = None
    """For credit rules over values; learns beside the policy."""
    lesson: Lesson | None = None
    """Takes the place of learning from credit."""
    aside: bool = False
    """Update in a thread of its own, so that playing goes on; then the stage's policy must hold weights of its own."""

    def heartbeat(self, step: int, what: str) -> Heartbeat:
        """Says why, whenever something takes long."""
        return Heartbeat(what, listener=lambda why, waited: self.run.event("heartbeat", why, step=step, waited=waited))


class Learned(NamedTuple):
    """What became of a step's groups."""

    update: UpdateMetrics
    """The change of the weights."""
    credits: list[Credit]
    """One per group learned from."""
    extra: dict[str, float]
    """Metrics of re-runs, the critic and the lesson."""
    warming: bool
    """True while a critic warms up, so that there was nothing to learn from."""


async def train(loop: Loop, start: int = 0) -> None:
    """Trains from step `start` to the configured number of steps.

    Raises:
        TrainingError: numbers the learner cannot trust.
        AllFaulted: every episode of a step is a fault.
    """
    silence = Silence(loop.run, start, loop.config.silent_steps)
    for step in range(start, loop.config.steps):
        began = time.monotonic()
        sampled = await play_step(loop, step)
        played = time.monotonic()
        learned = await learn(loop, step, sampled)
        loop.push()
        done = time.monotonic()
        metrics = measured(loop, sampled, learned)
        metrics |= {"time/play": played - began, "time/learn": done - played, "time/step": done - began}
        metrics["speed/play_tokens"] = metrics["tokens/sampled"] / (played - began)
        metrics["speed/learn_tokens"] = learned.update.computed_tokens / (done - played)
        loop.run.metrics(step, metrics)
        silence.look(step, sampled.groups, learned=bool(learned.update.steps or learned.warming))
        await loop.after_step(step + 1, metrics)


async def learn(loop: Loop, step: int, sampled: Sampled) -> Learned:
    """Credit for a step's groups, and the update they make.

    Raises:
        ConfigError: nothing was played, because the source has no task left.
        Overdue: credit or the lesson took longer than it may.
    """
    groups, steps = sampled.groups, loop.config.steps
    if not sampled.played:
        raise ConfigError(
            f"no task is left for step {step} of {steps}; set steps={step}, or train on tasks that do not run out"
        )
    reruns = Reruns(loop.stage, concurrency=loop.config.concurrency)
    patience = loop.config.deadlines
    assigning = within(
        patience.credit_seconds, assign(loop.credit, groups, reruns, loop.critic), Overdue,
        "a step's credit (deadlines.credit_seconds)",
    )  # fmt: skip
    credits, extra, warming = await loop.heartbeat(step, "credit").watch(assigning, reruns.progress)
    for group in sampled.played:
        loop.source.report(group.task, group)
    if loop.lesson is None:
        batch = build_batch(groups, credits, loop.config.batch)
        if loop.aside:
            update = await loop.heartbeat(step, "update").watch(_update_aside(loop.learner, batch), lambda: _COMPUTES)
        else:
            update = _update(loop.learner, batch)
    else:
        learning = within(
            patience.lesson_seconds, loop.lesson.learn(step, groups, credits), Overdue,
            "a step's lesson (deadlines.lesson_seconds)",
        )  # fmt: skip
        update, said = await loop.heartbeat(step, "lesson").watch(learning, loop.stage.waits)
        extra |= said
    return Learned(update, credits, extra, warming)


_COMPUTES = "the learner computes in its thread, however long that takes; playing goes on"


def _update(learner: Learns, batch: Batch) -> UpdateMetrics:
    with doing("update"):
        return learner.update(batch)


async def _update_aside(learner: Learns, batch: Batch) -> UpdateMetrics:
    """An update in a thread; a run that is stopped meanwhile (Ctrl-C) does not wait for all of it."""
    try:
        return await asyncio.to_thread(_update, learner, batch)
    except asyncio.CancelledError:
        learner.abandon()
        raise


def measured(loop: Loop, sampled: Sampled, learned: Learned) -> dict[str, float]:
    """A step's metrics, without times."""
    extra = learned.extra
    extra |= sampled.metrics() if loop.config.dynamic is not None else {}
    extra |= loop.player.metrics() if loop.player is not None else {}
    extra |= loop.stage.retries.metrics() if loop.stage.retries is not None else {}
    broken = sum(left_out(group, loop.config.retry.incomplete) for group in sampled.spare)
    extra |= {"retries/dropped": float(broken)} if broken else {}
    return episode_metrics(loop.stage.spec, sampled.played, learned.credits) | update_metrics(learned.update) | extra


async def play_step(loop: Loop, step: int) -> Sampled:
    """The step's groups, played and scored; every episode is stored as soon as its group is done."""
    config, episodes, begun = loop.config, list[Episode](), 0
    ordered: list[Episode] = []  # by group, while those finish in any order

    def reason() -> str:
        return f"step {step}: {len(episodes)} of {begun} episodes finished; {loop.stage.waits()}"

    def store(episode: Episode) -> None:
        episodes.append(episode)
        loop.run.append(episode)

    async def play(n: int, first: int) -> list[EpisodeGroup]:
        nonlocal begun
        begun += n * config.group_size
        groups = await play_groups(
            loop.stage, await draw(loop.source, n, loop.stage.retries), size=config.group_size, seed=config.seed, name="train",
            step=step, first=first, concurrency=worlds.gates(config), on_episode=store, player=loop.player,
        )  # fmt: skip
        ordered.extend(e for group in groups for e in group.episodes)
        check_played(f"step {step}", ordered)
        return groups

    def usable(group: EpisodeGroup) -> bool:
        out = isinstance(loop.player, LeavesOut) and loop.player.leaves_out(group)
        return not out and not left_out(group, config.retry.incomplete)

    playing = sample(play, config.groups, 1 if config.dynamic is None else config.dynamic.max_rounds, usable)
    return await loop.heartbeat(step, "play").watch(playing, reason)
