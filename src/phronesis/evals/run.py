"""Evaluate a policy on tasks it was not trained on: how often it succeeds, with an interval, and what that costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from msgspec import Struct

from phronesis.env import EnvSpec
from phronesis.errors import ConfigError
from phronesis.evals.statistics import wilson
from phronesis.reason.swapped import SwappedThoughts, thoughts_of
from phronesis.records import Episode, EpisodeGroup, Task
from phronesis.rollout.gates import Gates
from phronesis.rollout.play import GroupPlayer, Stage, Ticket, check_played, judge, play, play_groups, tried


class EvalSummary(Struct, frozen=True, kw_only=True):
    """What an evaluation found."""

    success: float
    """Share of episodes that succeeded, in [0, 1]; faults are not counted in it."""
    n: int
    """Episodes counted."""
    ci_low: float
    """Lower end of the 95 % Wilson interval."""
    ci_high: float
    """Upper end of the 95 % Wilson interval."""
    mean_reward: float
    """Mean reward of the counted episodes."""
    mean_turns: float
    """Policy calls per episode."""
    mean_tokens: float
    """Sampled tokens per episode."""
    faults: int
    """Episodes left out because something broke."""
    temperature: float
    """0 means greedy."""
    by_difficulty: dict[str, tuple[float, int]] = {}
    """Success and episodes counted per difficulty level."""
    by_source: dict[str, tuple[float, int]] = {}
    """Success and episodes counted per environment, where several were played."""


def succeeded(spec: EnvSpec, episode: Episode) -> bool | None:
    """Whether the reward reaches the environment's bar; None when the episode was never scored."""
    value = None if episode.reward is None else episode.reward.value
    return None if value is None or episode.stop.is_fault else value >= spec.of(episode.task).success


def summarise(spec: EnvSpec, episodes: Sequence[Episode], temperature: float) -> EvalSummary:
    """Counts outcomes.

    Raises:
        AllFaulted: every episode is a fault.
        ConfigError: no episode could be counted, since none has a reward.
    """
    check_played(f"an evaluation of {spec.name!r}", episodes)
    counted = [(e, ok) for e in episodes if (ok := succeeded(spec, e)) is not None]
    if not counted:
        first = next((e.failure for e in episodes if e.failure is not None), None)
        cause = f"; the first failure was {first.kind} in {first.where}: {first.message}" if first is not None else ""
        raise ConfigError(f"none of {len(episodes)} evaluation episodes of {spec.name!r} has a reward{cause}")
    wins, n = sum(ok for _, ok in counted), len(counted)
    low, high = wilson(wins, n)
    levels: dict[str, tuple[float, int]] = {}
    sources: dict[str, tuple[float, int]] = {}
    for name in spec.parts:
        own = [ok for e, ok in counted if e.task.env == name]
        if own:
            sources[name] = (sum(own) / len(own), len(own))
    for level in sorted({e.task.difficulty for e, _ in counted if e.task.difficulty is not None}):
        mine = [ok for e, ok in counted if e.task.difficulty == level]
        levels[f"{level:g}"] = (sum(mine) / len(mine), len(mine))
    rewards = [e.reward.value for e, _ in counted if e.reward is not None and e.reward.value is not None]
    return EvalSummary(
        success=wins / n,
        n=n,
        ci_low=low,
        ci_high=high,
        mean_reward=sum(rewards) / n,
        mean_turns=sum(len(e.turns) for e, _ in counted) / n,
        mean_tokens=sum(e.sampled_tokens for e, _ in counted) / n,
        faults=len(episodes) - n,
        temperature=temperature,
        by_difficulty=levels,
        by_source=sources,
    )


async def evaluate(
    stage: Stage,
    tasks: Sequence[Task],
    *,
    seed: int,
    name: str,
    samples: int = 1,
    concurrency: int | Gates = 256,
    on_episode: Callable[[Episode], None] | None = None,
    player: GroupPlayer | None = None,
) -> tuple[EvalSummary, list[Episode]]:
    """Plays every task `samples` times. Episode seeds depend on `seed` and the task's place alone, so that two policies
    evaluated on the same tasks can be compared pair by pair.

    Args:
        stage: environment, policy, agent; its sampling's temperature is reported.
        tasks: held-out tasks.
        seed: the run's seed.
        name: what is evaluated; becomes part of the episodes' ids.
        samples: episodes per task.
        concurrency: most episodes in flight, or the gates they go through.
        on_episode: called with each scored episode.
        player: who plays them; None plays them here.
    """
    groups = await play_groups(
        stage, tasks, size=samples, seed=seed, name=name, stream_name="heldout", concurrency=concurrency,
        on_episode=on_episode, player=player,
    )  # fmt: skip
    episodes = [e for group in groups for e in group.episodes]
    return summarise(stage.spec, episodes, stage.sampling.temperature), episodes


async def evaluate_swapped(
    stage: Stage,
    episodes: Sequence[Episode],
    *,
    name: str,
    concurrency: int | Gates = 256,
    on_episode: Callable[[Episode], None] | None = None,
) -> tuple[EvalSummary, list[Episode]]:
    """Plays finished episodes again, each with the thoughts of another one of its environment and difficulty (see `donors`).

    Task, environment seed and policy seeds stay as they were; only the think blocks change hands.

    Raises:
        ConfigError: no two episodes can change thoughts.
    """
    gates = Gates(concurrency) if isinstance(concurrency, int) else concurrency

    async def one(episode: Episode, donor: Episode) -> Episode:
        id = f"{name}-{episode.id}"
        ticket = Ticket(id=id, task=episode.task, seed=episode.seed, group=id)
        swapped = replace(stage, agent=SwappedThoughts(thoughts_of(donor)))
        played = await tried(stage, ticket, gates.of(ticket.task), lambda: play(swapped, ticket))
        scored = await judge(stage, EpisodeGroup(id=id, task=episode.task, episodes=(played,)))
        if on_episode is not None:
            on_episode(scored.episodes[0])
        return scored.episodes[0]

    pairs = donors(episodes)
    if not pairs:
        raise ConfigError(f"no two of {len(episodes)} episodes attempt different tasks of one difficulty with thoughts to swap")
    swapped = await asyncio.gather(*(one(e, d) for e, d in pairs))
    return summarise(stage.spec, swapped, stage.sampling.temperature), list(swapped)


def donors(episodes: Sequence[Episode]) -> list[tuple[Episode, Episode]]:
    """Pairs each episode with the next one of its environment and difficulty (cyclically) that attempts another task.

    Episodes with no such partner are left out, and so are faulty ones and ones that never thought.
    """
    pairs: list[tuple[Episode, Episode]] = []
    thinking = [e for e in episodes if not e.stop.is_fault and any(thoughts_of(e))]
    for env, level in dict.fromkeys((e.task.env, e.task.difficulty) for e in thinking):
        peers = [e for e in thinking if e.task.env == env and e.task.difficulty == level]
        for i, episode in enumerate(peers):
            others = (peers[(i + k) % len(peers)] for k in range(1, len(peers)))
            donor = next((o for o in others if o.task.id != episode.task.id), None)
            if donor is not None:
                pairs.append((episode, donor))
    return pairs
