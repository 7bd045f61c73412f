"""A whole measurement: every side does every piece of work in turns, in rounds; medians, and ratios with their range."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from phronesis.engine.speed.bound import Rates, seconds
from phronesis.engine.speed.process import Process, Refused
from phronesis.engine.speed.workload import Work, check
from phronesis.errors import ConfigError


class Line(Struct, frozen=True, kw_only=True):
    """One piece of work, done by one side in every round."""

    work: Work
    """What was done."""
    side: str
    """Who did it."""
    name: str
    """Its full name."""
    seconds: tuple[float, ...] = ()
    """Wall seconds by round; empty when it was refused."""
    rates: tuple[float, ...] = ()
    """Sampled ids a second by round."""
    ratios: tuple[float, ...] = ()
    """How many times faster ours was in the same round; empty for ours itself."""
    share: float | None = None
    """Median part of the roofline reached; None when it was refused."""
    refused: str | None = None
    """Why there are no numbers."""

    @property
    def rate(self) -> float:
        """Median ids a second."""
        return statistics.median(self.rates)

    @property
    def ratio(self) -> float:
        """Median of how many times faster ours was."""
        return statistics.median(self.ratios)


class Measured(Struct, frozen=True, kw_only=True):
    """A whole run."""

    threads: int
    """Every side computed with."""
    rounds: int
    """Counted rounds, after one that is not."""
    machine: Rates
    """The best seen before any piece of work."""
    lines: tuple[Line, ...]
    """By work, then by side, ours first."""


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure."""

    works: tuple[Work, ...]
    """Pieces of work, in order; best grouped by size."""
    sides: tuple[str, ...] = ("ours", "generate")
    """Names of `process.SIDES`, ours first."""
    threads: int = 2
    """For every side."""
    rounds: int = 5
    """Counted ones."""
    slowest: float = 120.0
    """Seconds after which a side is not asked for the rest of its rounds of a piece of work."""


def measure(plan: Plan, progress: Callable[[str], None] = lambda text: None) -> Measured:
    """Runs the plan.

    Raises:
        ConfigError: ours is not the first side, or counts below 1.
    """
    if plan.sides[:1] != ("ours",) or len(set(plan.sides)) != len(plan.sides):
        raise ConfigError(f"the first side must be ours and none may come twice, got {plan.sides!r}")
    if min(plan.rounds, plan.threads) < 1 or not plan.works:
        raise ConfigError("rounds and threads must be at least 1, and there must be work")
    for work in plan.works:
        check(work)
    processes: list[Process] = []
    try:
        processes += [Process(side, plan.threads) for side in ("bound", *plan.sides)]
        found, machine = list[Line](), list[Rates]()
        took: list[tuple[dict[str, list[float]], dict[str, str]]] = []
        for n, work in enumerate(plan.works):
            progress(f"{n + 1}/{len(plan.works)}: {describe(work)}")
            machine.append(msgspec.convert(processes[0].rates(), Rates))
            took.append(_rounds(processes[1:], work, plan))
        top = Rates(flops=max(m.flops for m in machine), memory=max(m.memory for m in machine))
        for work, (times, refused) in zip(plan.works, took, strict=True):
            found += [_line(work, process, times, refused, top) for process in processes[1:]]
    finally:
        for process in processes:
            process.close()
    return Measured(threads=plan.threads, rounds=plan.rounds, machine=top, lines=tuple(found))


def describe(work: Work) -> str:
    """One line about a piece of work."""
    turns = f", {work.turns} turns" if work.turns > 1 else ""
    shared = f" ({work.shared} shared)" if work.shared else ""
    return f"{work.size}, {work.batch} sequences, prompt {work.prompt}{shared}, {work.new} new{turns}"


def _rounds(processes: Sequence[Process], work: Work, plan: Plan) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds by side, and why a side refused; the first round is not counted."""
    took: dict[str, list[float]] = {p.side: [] for p in processes}
    refused: dict[str, str] = {}
    for number in range(plan.rounds + 1):
        for process in processes:
            side = process.side
            if side in refused or (took[side] and took[side][-1] > plan.slowest):
                continue
            try:
                answer = process.run(work)
            except Refused as error:
                refused[side] = str(error)
                continue
            if number:
                took[side].append(answer.seconds)
    return took, refused


def _line(work: Work, process: Process, took: dict[str, list[float]], refused: dict[str, str], machine: Rates) -> Line:
    mine, ours, least = took[process.side], took["ours"], seconds(work, machine)
    return Line(
        work=work,
        side=process.side,
        name=process.name,
        seconds=tuple(mine),
        rates=tuple(work.tokens / s for s in mine),
        ratios=() if process.side == "ours" else tuple(s / o for s, o in zip(mine, ours, strict=False)),
        share=least / statistics.median(mine) if mine else None,
        refused=refused.get(process.side),
    )
