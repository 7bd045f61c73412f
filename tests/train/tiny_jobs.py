"""Whole runs of a second: a probe with demonstrations, a one-layer policy, a few steps; and what of two runs must agree."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
from msgspec.structs import replace

from phronesis.models.tiny import TinyModel
from phronesis.records import Episode
from phronesis.rollout.limits import Limits
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.config import EnvChoice, EvalConfig, ModelConfig, PrimeConfig, RunConfig
from phronesis.train.learner import LearnerConfig
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.progress import Progress
from phronesis.train.supervised import SupervisedConfig

SMALL = TinyModel(width=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_width=32, embed_std=0.4)


def config(**changes) -> RunConfig:
    """A primed copy probe: 4 steps of 2 x 4 episodes, a checkpoint every 2, evaluation before, in the middle and after."""
    base = RunConfig(
        name="tiny",
        env=EnvChoice(name="lessons:copy"),
        model=ModelConfig(tiny=SMALL, vocab_size=290),
        limits=Limits(max_turns=2, max_turn_tokens=5),
        prime=PrimeConfig(
            demonstrations=40,
            supervised=SupervisedConfig(batch_tokens=60, warmup=1, optimizer=AdamWConfig(lr=1e-2)),
        ),
        steps=4,
        groups=2,
        group_size=4,
        learner=LearnerConfig(optimizer=AdamWConfig(lr=1e-2), epochs=2, minibatches=2),
        evaluation=EvalConfig(tasks=3, every=2, greedy=True),
        checkpoint_every=2,
    )
    return replace(base, **changes)


class Stopped(Exception):
    """Raised by a listener to end a run where it stands."""


def stop_at(phase: str, done: int):
    """A listener that ends the run at a moment."""

    def listen(progress: Progress) -> None:
        if (progress.phase, progress.done) == (phase, done):
            raise Stopped(f"{phase} {done}")

    return listen


def weights(folder: Path, step: int) -> str:
    """Hash of a checkpoint's weights."""
    return hashlib.sha256((folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors").read_bytes()).hexdigest()


def bare(episode: Episode) -> bytes:
    """An episode without its times."""
    turns = tuple(replace(t, started=0.0, policy_seconds=0.0, env_seconds=0.0, cached_tokens=0) for t in episode.turns)
    return msgspec.json.encode(replace(episode, turns=turns, seconds=0.0))


def essence(folder: Path, steps: int) -> dict[str, object]:
    """All that two runs of one config must agree on: weights, metrics and episodes, without times."""
    with Run.open(folder) as run:
        rows = run.rows()
        assert len({(r.kind, r.id) for r in rows}) == len(rows)
        assert run.damage().bytes == 0
        timed = ("time/", "speed/")
        summary = run.summary() or {}
        return {
            "weights": weights(folder, steps),
            "metrics": {s.step: {k: v for k, v in s.values.items() if not k.startswith(timed)} for s in run.steps()},
            "episodes": {(r.kind, r.id): bare(run.read(r)) for r in rows},
            "results": {k: v for k, v in summary.items() if k not in ("seconds",) and not k.endswith("_per_second")},
        }


def events(folder: Path, kind: str) -> list[str]:
    """Messages of the events of one kind."""
    with Run.open(folder) as run:
        return [e.message for e in run.events() if e.kind == kind]


def main(arguments: list[str]) -> None:
    """``tiny_jobs.py FOLDER PHASE DONE``: a run that kills its own process at a moment, as a power cut would."""
    import os
    import signal

    folder, phase, done = arguments

    def listen(progress: Progress) -> None:
        if (progress.phase, progress.done) == (phase, int(done)):
            os.kill(os.getpid(), signal.SIGKILL)

    job.run(config(), Path(folder), listener=listen)
    print(json.dumps({"finished": folder}))


if __name__ == "__main__":
    import sys

    import torch

    torch.set_num_threads(1)
    main(sys.argv[1:])
