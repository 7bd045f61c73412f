"""Which corrections survive which sampler: lag K x arithmetic of the sampler x method, on one probe world.

    python -m bench stability [--quick] [--out FOLDER] [--lr RATE] [--steps N] [--seeds N ...] [--lags N ...]
                              [--mismatches NAME ...] [--methods NAME ...] [--draws N ...]

Every run starts from the same primed policy of its seed and is the plain synchronous loop (play, credit, one optimiser step),
except that the sampler holds the weights of exactly K updates ago (`bench.lagged`), perturbed by its arithmetic. The learner
computes in float32. Nothing is tuned per method. Each finished run is one line of FOLDER/runs.jsonl; runs found there are not
done again, so an interrupted study goes on. Seeds are the outer loop: after a third of the time there is a whole picture.

A run *survives* (defined before any run of the grid) when it
* ends near the control: its mean reward over the last tenth of the steps is at least 0.9 times that of the control, which is
  the plain method with neither lag nor mismatch, of the same seed;
* never collapsed: once a mean of five steps has reached 0.9 times the control's end, none falls below the middle between
  chance and the control's end;
* made no error (a loss or gradient that is not finite).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import get_args

import msgspec
import torch

from bench.heatmap import draw
from bench.lagged import Mismatch
from bench.measure import RESULTS
from bench.survival import controls, details, fallen, judged, picture, pooled, same_control, survivors
from bench.trial import METHODS, Cell, Outcome, Settings, Start, Trial, world

LAGS = (0, 1, 2, 4, 8)
"""K: updates between the weights that sampled and those that learn."""
MISMATCHES: tuple[Mismatch, ...] = ("none", "bf16", "int8")
"""Arithmetic of the sampler."""
SEEDS = (0, 1, 2)
"""Seeds."""


def cells(
    lags: Sequence[int],
    mismatches: Sequence[Mismatch],
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    draws: Sequence[int] = (0,),
) -> list[Cell]:
    """The grid, seed by seed, each seed beginning with its control."""
    grid = [
        Cell(method=method, lag=lag, mismatch=mismatch, seed=seed, draw=draw)
        for seed in seeds
        for draw in draws
        for mismatch in mismatches
        for lag in lags
        for method in methods
    ]
    controls = [Cell(method="plain", lag=0, mismatch="none", seed=seed) for seed in seeds]
    return sorted(dict.fromkeys([*controls, *grid]), key=lambda c: (seeds.index(c.seed), c not in controls))


def study(path: Path, settings: Settings, wanted: Sequence[Cell]) -> list[Outcome]:
    """Runs what the file lacks, appending a line for each, and returns the outcomes of all wanted cells in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.write_bytes(_whole(path))
    done = {o.cell: o for o in outcomes(path) if o.settings == settings}
    start: Start | None = None
    for n, cell in enumerate(wanted):
        if cell in done:
            continue
        if start is None or start.config.seed != cell.seed:
            start = Start(settings, cell.seed)
        done[cell] = asyncio.run(Trial(start, cell, settings).run())
        with path.open("ab") as file:
            file.write(msgspec.json.encode(done[cell]) + b"\n")
        said = f"{n + 1}/{len(wanted)} {cell.method}, lag {cell.lag}, {cell.mismatch}, seed {cell.seed}.{cell.draw}"
        print(f"{said}: {fmean(done[cell].rewards[-5:]):.3f} ({done[cell].cpu_seconds} CPU-s)", file=sys.stderr, flush=True)
    return [done[cell] for cell in wanted]


def outcomes(path: Path) -> list[Outcome]:
    """The lines of a file; a last line that was cut off is left out, and the run it belongs to is done again."""
    lines = _whole(path).splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=Outcome) for line in lines]


def _whole(path: Path) -> bytes:
    """A file up to the end of its last whole line."""
    before, newline, _ = path.read_bytes().rpartition(b"\n")
    return before + newline


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench stability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "stability", help="folder of runs.jsonl and stability.svg")
    parser.add_argument("--quick", action="store_true", help="one seed, 30 steps, lags 0 and 8, no bf16: a minute")
    parser.add_argument("--lr", type=float, default=Settings().lr)
    parser.add_argument("--steps", type=int, default=Settings().steps)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--draws", type=int, nargs="+", default=[0], help="other tasks and samples from the same starts")
    parser.add_argument("--lags", type=int, nargs="+", default=list(LAGS))
    parser.add_argument("--mismatches", nargs="+", default=list(MISMATCHES), choices=get_args(Mismatch))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    given = parser.parse_args(arguments)
    if given.quick:
        given.steps, given.seeds, given.lags, given.mismatches = 30, [0], [0, 8], ["none", "int8"]
    torch.set_num_threads(1)
    settings = Settings(lr=given.lr, steps=given.steps)
    mismatches: list[Mismatch] = [m for m in get_args(Mismatch) if m in given.mismatches]
    wanted = cells(given.lags, mismatches, given.methods, given.seeds, draws=given.draws)
    report(study(given.out / "runs.jsonl", settings, wanted), given.out / "stability.svg")


def report(runs: Sequence[Outcome], image: Path) -> None:
    """Prints the tables of runs with the same settings, and draws the picture."""
    settings = runs[0].settings
    spec = world(settings)
    chance, optimum = spec.chance_reward or 0.0, spec.oracle_reward or 1.0
    found = judged(runs, chance, optimum)
    told = {o.cell.seed for rows in found.values() for o, _ in rows}
    for seed, end in controls(runs).items():
        if seed not in told:
            print(f"seed {seed}: left out, since its control did not learn (it ends at {end:.2f})")
    lags = sorted({o.cell.lag for o in runs})
    mismatches = [m for m in get_args(Mismatch) if any(o.cell.mismatch == m for o in runs)]
    for mismatch in mismatches:
        print(f"\nsampler {mismatch}: seeds that survived (final reward)\n\n{survivors(found, lags, mismatch)}")
    print(f"\nall samplers together: survived\n\n{pooled(found, lags)}\n")
    print(f"of those that learned: collapsed afterwards\n\n{fallen(found, lags)}\n\n{details(found)}\n")
    for seed, same in same_control(runs).items():
        print(f"seed {seed}: without lag and mismatch all methods have {'the same curve' if same else 'DIFFERENT CURVES'}")
    title = f"Which method survives which sampler: {len({o.cell.seed for o in runs})} seeds, learning rate {settings.lr:g}"
    image.write_text(draw(picture(found, lags, mismatches, title)), encoding="utf-8")
    print(f"drawn: {image.name}; {sum(o.cpu_seconds for o in runs) / 60:.1f} CPU-minutes in {len(runs)} runs")
