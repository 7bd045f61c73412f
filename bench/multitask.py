"""What playing while the policy learns saves where tools take their time: the recipe of three worlds, in turns and overlapped.

Every answer of every world takes 50 to 500 ms, drawn evenly; both sides start from one primed policy and play equal episodes.
In turns a step costs its slowest episode and the update. The ideal of the overlap is the larger of two bounds: the update and
the sampling that keep the processor busy, and the run's episodes played (staleness + 1) batches at a time without ever waiting
for an update.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.measure import ROOT, Row, compare, quick
from phronesis.config import load
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.config import RunConfig

RECIPE = ROOT / "recipes" / "multitask.toml"
ROUNDS, STEPS = 3, 20
LATENCY = "[0.05, 0.5]"


def settings(*overrides: str) -> RunConfig:
    """The recipe, shortened, behind slow tools."""
    slow = [f"sources.{name}.trouble={{ latency = {LATENCY} }}" for name in load(RunConfig, [RECIPE]).sources]
    return load(RunConfig, [RECIPE], [f"steps={STEPS}", "evaluation.tasks=0", "silent_steps=1000", *slow, *overrides])


def primed(folder: Path) -> Path:
    """A policy primed once, for both sides."""
    job.run(settings("steps=0", *(["prime=none"] if quick() else [])), folder)
    return folder / "checkpoints" / "step-00000000"


def seconds(config: RunConfig) -> float:
    """Wall seconds of training."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        job.run(config, out)
        with Run.open(out) as run:
            return sum(s.values["time/step"] or 0.0 for s in run.steps() if s.step >= 0)


def multitask() -> list[Row]:
    """The recipe against itself in turns, and at no latency: what the processor alone needs."""
    rounds, steps = (1, 2) if quick() else (ROUNDS, STEPS)
    with tempfile.TemporaryDirectory() as folder:
        start = primed(Path(folder) / "primed")
        given = ("prime=none", f"model.path={start}", f"steps={steps}")
        turns, overlapped, busy = list[float](), list[float](), list[float]()
        for _ in range(rounds):
            turns.append(seconds(settings(*given, "asynchrony=none")))
            overlapped.append(seconds(settings(*given)))
            plain = [f"sources.{name}.trouble=none" for name in load(RunConfig, [RECIPE]).sources]
            busy.append(seconds(settings(*given, "asynchrony=none", *plain)))
    what = f"three worlds, {steps} steps of 64 episodes, replies after 50-500 ms"
    return [
        compare("multitask", f"{what}, overlapped", overlapped, turns, unit="s", peer_name="in turns"),
        compare("multitask", f"{what}: the bound, replies at once", busy, overlapped, unit="s", peer_name="overlapped"),
    ]
