"""What the runs of `bench.stability` say: verdict of every run, tables, and the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from bench.heatmap import Heatmap, Panel, Tile
from bench.lagged import Mismatch
from bench.trial import METHODS, Cell, Outcome

FINAL, NEAR, WINDOW = 0.1, 0.9, 5
"""Share of steps that are the end; share of the control's end that counts as near it; steps of a running mean."""

SHOWN: dict[Mismatch, str] = {
    "none": "sampler: float32",
    "bf16": "sampler: bfloat16",
    "int8": "sampler: int8 weights",
    "int4": "sampler: int4 weights",
}
"""Titles of the panels."""


class Verdict(NamedTuple):
    """What became of a run, against the control of its seed."""

    final: float
    """Mean reward of the last tenth; 0 after an error."""
    best: float
    """Largest mean of five steps."""
    reached: int | None
    """Step that ends the first mean of five near the control's end; None when there is none."""
    collapsed: int | None
    """First step that ends a mean of five below the middle between chance and the control's end, after one near the control's
    end; None when there is none."""
    survived: bool
    """It ended near the control, never collapsed and made no error."""


Group = dict[tuple[str, int, Mismatch], list[tuple[Outcome, Verdict]]]
"""Runs by method, lag and mismatch; one for each seed."""


def final(outcome: Outcome) -> float:
    """Mean reward over the last tenth of the steps asked for; 0 for a run that ended in an error."""
    n = max(1, round(FINAL * outcome.settings.steps))
    return 0.0 if outcome.error else fmean(outcome.rewards[-n:])


def judge(outcome: Outcome, control: float, chance: float) -> Verdict:
    """The verdict on one run.

    Rewards of six steps (.5, 1, 1, 1, 1, 1) with control 1 and chance .5: means of five .9 and 1, so it has reached .9 and
    never fell below .75; it survives.

    Args:
        outcome: the run.
        control: final reward of the control.
        chance: reward of random answers.
    """
    means = [fmean(outcome.rewards[i : i + WINDOW]) for i in range(len(outcome.rewards) - WINDOW + 1)]
    near = next((i for i, mean in enumerate(means) if mean >= NEAR * control - 1e-9), len(means))
    fallen = [i for i in range(near, len(means)) if means[i] < (chance + control) / 2]
    reached = near + WINDOW - 1 if near < len(means) else None
    collapsed = fallen[0] + WINDOW - 1 if fallen else None
    end = final(outcome)
    survived = end >= NEAR * control - 1e-9 and collapsed is None and outcome.error is None
    return Verdict(end, max(means, default=0.0), reached, collapsed, survived)


def controls(outcomes: Iterable[Outcome]) -> dict[int, float]:
    """Final reward of the control of each seed that is there."""
    return {o.cell.seed: final(o) for o in outcomes if o.cell == Cell(method="plain", lag=0, mismatch="none", seed=o.cell.seed)}


def judged(outcomes: Iterable[Outcome], chance: float, optimum: float = 1.0) -> Group:
    """All runs whose control is there and learned, by cell: beside a control that learned nothing, anything would survive."""
    runs = list(outcomes)
    learned = {seed: end for seed, end in controls(runs).items() if end >= NEAR * optimum}
    found: Group = {}
    for o in runs:
        if o.cell.seed in learned:
            key = (o.cell.method, o.cell.lag, o.cell.mismatch)
            found.setdefault(key, []).append((o, judge(o, learned[o.cell.seed], chance)))
    return found


def picture(found: Group, lags: Sequence[int], mismatches: Sequence[Mismatch], title: str) -> Heatmap:
    """How many seeds survived, and the final reward (mean over seeds)."""
    seeds = max((len(runs) for runs in found.values()), default=1)
    return Heatmap(
        title=title,
        note="In each cell: how many seeds survived (the colour), and the mean reward of the last tenth of the steps.",
        rows=list(METHODS),
        columns=[str(lag) for lag in lags],
        columns_title="lag K",
        panels=[
            Panel(SHOWN[mismatch], [[_tile(found.get((name, lag, mismatch), [])) for lag in lags] for name in METHODS])
            for mismatch in mismatches
        ],
        marks=[(n / seeds, f"{n}/{seeds}") for n in range(seeds + 1)],
    )


def _tile(runs: Sequence[tuple[Outcome, Verdict]]) -> Tile:
    if not runs:
        return Tile(None, ("–",))
    alive = sum(v.survived for _, v in runs)
    mean = fmean(v.final for _, v in runs)
    return Tile(alive / len(runs), (f"{alive}/{len(runs)}", f"{mean:.2f}"))


def survivors(found: Group, lags: Sequence[int], mismatch: Mismatch) -> str:
    """One line per method: survivors and final reward at each lag."""
    lines = ["| method | " + " | ".join(f"K = {lag}" for lag in lags) + " |", "|---" * (len(lags) + 1) + "|"]
    for name in METHODS:
        shown = [" (".join(_tile(found.get((name, lag, mismatch), [])).lines) for lag in lags]
        lines.append(f"| {name} | " + " | ".join(f"{s})" if "(" in s else s for s in shown) + " |")
    return "\n".join(lines)


def pooled(found: Group, lags: Sequence[int]) -> str:
    """One line per method: at each lag, of the runs of all samplers together, how many survived."""
    return _by_lag(found, lags, lambda vs: f"{sum(v.survived for v in vs)}/{len(vs)}")


def fallen(found: Group, lags: Sequence[int]) -> str:
    """The same of the runs that reached the control's end: how many collapsed after that."""
    return _by_lag(
        found, lags, lambda vs: f"{sum(v.collapsed is not None for v in vs)}/{sum(v.reached is not None for v in vs)}"
    )


def _by_lag(found: Group, lags: Sequence[int], count: Callable[[Sequence[Verdict]], str]) -> str:
    lines = ["| method | " + " | ".join(f"K = {lag}" for lag in lags) + " |", "|---" * (len(lags) + 1) + "|"]
    for name in METHODS:
        runs = [[v for (n, k, _), rows in found.items() if (n, k) == (name, lag) for _, v in rows] for lag in lags]
        lines.append(f"| {name} | " + " | ".join(map(count, runs)) + " |")
    return "\n".join(lines)


def details(found: Group) -> str:
    """One line per cell, means over seeds (maxima where the name says so)."""
    lines = [
        "| sampler | K | method | final | best | survived | reached at | collapsed at | mismatch KL | max mismatch | drift KL "
        "| max ratio | left out |",
        "|---" * 13 + "|",
    ]
    for (name, lag, mismatch), runs in sorted(found.items(), key=_order):
        outcomes, verdicts = [o for o, _ in runs], [v for _, v in runs]
        columns = (
            mismatch,
            str(lag),
            name,
            f"{fmean(v.final for v in verdicts):.3f}",
            f"{fmean(v.best for v in verdicts):.3f}",
            f"{sum(v.survived for v in verdicts)}/{len(runs)}",
            ", ".join("–" if v.reached is None else str(v.reached) for v in verdicts),
            ", ".join(str(v.collapsed) for v in verdicts if v.collapsed is not None) or "–",
            f"{fmean(o.mismatch_kl for o in outcomes):.1e}" if mismatch != "none" else "0",
            f"{max(o.mismatch_max for o in outcomes):.2g}",
            f"{fmean(o.drift_kl for o in outcomes):.2g}",
            f"{max(o.ratio_max for o in outcomes):.3g}",
            f"{100 * fmean(o.left_out for o in outcomes):.1f} %",
        )
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def _order(item: tuple[tuple[str, int, Mismatch], object]) -> tuple[int, int, int]:
    (name, lag, mismatch), _ = item
    return list(SHOWN).index(mismatch), lag, list(METHODS).index(name)


def same_control(outcomes: Iterable[Outcome]) -> Mapping[int, bool]:
    """By seed: whether the reward curves of all methods are equal, number for number, without lag and mismatch."""
    curves: dict[int, list[list[float]]] = {}
    for o in outcomes:
        if (o.cell.lag, o.cell.mismatch, o.cell.draw) == (0, "none", 0):
            curves.setdefault(o.cell.seed, []).append(o.rewards)
    return {seed: all(c == rows[0] for c in rows) for seed, rows in curves.items()}
