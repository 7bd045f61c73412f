"""What playing while the policy learns saves, where tools take their time: the same run in turns and overlapped.

A lookup world whose every reply takes 50 to 500 ms, drawn evenly; equal episodes on both sides. In turns a step costs its
slowest episode and the update. The ideal of an overlap with `staleness` eta is the larger of two bounds: what the update and
the sampling cost the processor, and the run's episodes played (eta + 1) batches at a time without waiting for an update.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from dataclasses import replace as replace_data
from pathlib import Path

from bench.measure import Row, compare
from phronesis.env import EnvSpec
from phronesis.envs.probes import memory
from phronesis.losses import LossConfig, PPOClipLoss
from phronesis.models.tiny import TinyModel
from phronesis.rollout.limits import Limits
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.batching import BatchConfig
from phronesis.train.config import EnvChoice, EvalConfig, ModelConfig, RunConfig
from phronesis.train.learner import LearnerConfig

ROUNDS = 3
STEPS = 24


def waiting(low: float = 0.05, high: float = 0.5) -> EnvSpec:
    """The memory probe behind a slow line."""
    spec = memory()

    def make():
        env = spec.make()
        step, pace = env.step, random.Random()

        async def go_on(action):
            await asyncio.sleep(pace.uniform(low, high))
            return await step(action)

        env.step = go_on  # pyright: ignore[reportAttributeAccessIssue]
        return env

    return replace_data(spec, make=make)


def config(asynchrony: AsyncConfig | None) -> RunConfig:
    """Equal episodes on every side."""
    return RunConfig(
        name="overlap",
        env=EnvChoice(name="bench.overlap:waiting"),
        model=ModelConfig(tiny=TinyModel(width=64, layers=2), vocab_size=320),
        limits=Limits(max_turns=3, max_turn_tokens=8),
        steps=STEPS,
        groups=8,
        group_size=8,
        learner=LearnerConfig(loss=LossConfig(objective=PPOClipLoss()), old="sampler"),
        evaluation=EvalConfig(tasks=0),
        batch=BatchConfig(drop_silent=False),  # an untrained policy earns nothing; its updates shall cost what they cost
        silent_steps=10**6,
        asynchrony=asynchrony,
        threads=1,
    )


def seconds(asynchrony: AsyncConfig | None) -> tuple[float, float]:
    """Wall seconds of training, and of them those in which learning waited for a batch or for play."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        job.run(config(asynchrony), out)
        with Run.open(out) as run:
            steps = [s.values for s in run.steps() if s.step >= 0]
    wait = "time/play" if asynchrony is None else "time/wait"
    return sum(s["time/step"] or 0.0 for s in steps), sum(s[wait] or 0.0 for s in steps)


def overlap() -> list[Row]:
    """All rows."""
    sides = {f"staleness {eta}": AsyncConfig(staleness=eta) for eta in (1, 2, 4)}
    ours: dict[str, list[float]] = {name: [] for name in sides}
    turns: list[float] = []
    for _ in range(ROUNDS):
        turns.append(seconds(None)[0])
        for name, side in sides.items():
            ours[name].append(seconds(side)[0])
    what = f"{STEPS} steps of 64 episodes, replies after 50-500 ms"
    return [compare("overlap", f"{what}, {name}", found, turns, unit="s", peer_name="in turns") for name, found in ours.items()]
