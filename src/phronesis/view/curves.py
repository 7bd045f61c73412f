"""Which curves a report shows, in which order, and how each is read. Definitions and units come from the metric table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from phronesis.evals.statistics import wilson
from phronesis.train.metrics import METRICS, definition
from phronesis.view.alarms import MISMATCH_NATS
from phronesis.view.chart import Chart, Line, Tone
from phronesis.view.folder import Run
from phronesis.view.outcome import get, mapping, outcome


class Group(NamedTuple):
    """Curves that answer one question."""

    question: str
    """Heading."""
    charts: Sequence[Chart]
    """In reading order; charts without values draw nothing."""


_TONES: tuple[Tone, ...] = ("a", "b", "c", "d")


def groups(run: Run) -> tuple[Group, ...]:
    """All charts of a run by question."""
    play = [
        _chart(run, "Turns", "episode/turns", floor=0),
        _chart(
            run,
            "Length",
            "episode/tokens",
            ("episode/think_tokens", "thinking"),
            ("episode/length_correct", "successful"),
            first="all",
            floor=0,
        ),
        _chart(run, "Tool mistakes", "episode/tool_errors", ("episode/parse_errors", "unparsed"), first="tool calls", floor=0),
    ]
    update = [
        _chart(
            run,
            "Entropy",
            "policy/entropy",
            ("policy/entropy_think", "thinking"),
            ("policy/entropy_act", "acting"),
            first="all",
            floor=0,
        ),
        _chart(run, "Sampler against learner, mean", "mismatch/kl", log=True),
        _chart(
            run,
            "Sampler against learner, worst",
            "mismatch/max_logprob_difference",
            log=True,
            references=(("bound", MISMATCH_NATS),),
        ),
        _chart(run, "Gradient norm", "update/grad_norm", floor=0),
        _chart(run, "Size of the step", "update/kl_k3", ("update/kl_k1", "k1"), first="k3"),
        _chart(run, "Clipped tokens", "update/clip_share", floor=0, ceiling=1),
        _chart(run, "Loss", "update/loss"),
    ]
    speed = [
        _chart(run, "Speed", "speed/play_tokens", ("speed/learn_tokens", "learning"), first="playing", floor=0),
        _chart(run, "Time per step", "time/play", ("time/learn", "learning"), first="playing", floor=0),
        _chart(run, "Tokens per step", "tokens/sampled", ("tokens/context", "given"), first="sampled", floor=0),
    ]
    prime = [
        _chart(run, "Priming loss", "prime/loss", x_title="supervised step", floor=0),
        _chart(run, "Priming accuracy", "prime/accuracy", x_title="supervised step", ceiling=1),
    ]
    return (
        Group("Is there a signal?", [_success(run), _reward(run), *_signal(run)]),
        Group("Is the update sane?", update),
        Group("What does the agent do?", play),
        Group("Where does the time go?", speed),
        Group("Supervised priming", prime),
    )


def others(run: Run) -> tuple[Chart, ...]:
    """Defined metrics that no chart of `groups` shows."""
    shown = {key for group in SHOWN for key in group}
    return tuple(_chart(run, key, key) for key in sorted(run.series) if definition(key) is not None and key not in shown)


SHOWN: tuple[tuple[str, ...], ...] = (
    ("success/rate", "heldout/success", "reward/mean", "reward/std", "heldout/reward", "heldout/episodes"),
    ("signal/zero_variance", "episode/truncated", "episode/faults"),
    ("policy/entropy", "policy/entropy_think", "policy/entropy_act", "mismatch/kl", "mismatch/max_logprob_difference"),
    ("update/grad_norm", "update/kl_k1", "update/kl_k3", "update/clip_share", "update/loss"),
    (
        "episode/turns",
        "episode/tokens",
        "episode/think_tokens",
        "episode/length_correct",
        "episode/tool_errors",
        "episode/parse_errors",
    ),
    ("speed/play_tokens", "speed/learn_tokens", "time/play", "time/learn", "tokens/sampled", "tokens/context"),
    ("prime/loss", "prime/accuracy"),
)
"""Keys that have their place in `groups`."""


def _chart(
    run: Run,
    title: str,
    key: str,
    *more: tuple[str, str],
    first: str | None = None,
    x_title: str = "training step",
    floor: float | None = None,
    ceiling: float | None = None,
    log: bool = False,
    references: Sequence[tuple[str, float]] = (),
) -> Chart:
    """A chart of one metric and of others with the same unit."""
    metric = definition(key)
    assert metric is not None, key
    keys = [(key, first or title.lower()), *more]
    lines = [Line(label=label, points=run.series.get(k, []), tone=_TONES[i]) for i, (k, label) in enumerate(keys)]
    return Chart(
        title=title,
        unit=metric.unit,
        definition=metric.definition,
        lines=lines,
        x_title=x_title,
        floor=floor,
        ceiling=ceiling,
        log=log,
        references=references,
    )


def _signal(run: Run) -> list[Chart]:
    return [
        _chart(run, "Groups without signal", "signal/zero_variance", floor=0, ceiling=1),
        _chart(run, "Cut short", "episode/truncated", ("episode/faults", "faults"), first="limits", floor=0, ceiling=1),
    ]


def references(run: Run) -> dict[str, float]:
    """Known rewards to compare with, e.g. optimum and chance, from `references` of the summary or the config."""
    found: dict[str, float] = {}
    for source in (run.config, run.summary):
        for name in ("optimum", "chance", "oracle", "null"):
            known = get(mapping(source, "references"), name)
            if known is not None:
                found[name] = known
    return found


def _reward(run: Run) -> Chart:
    metric = METRICS["reward/mean"]
    spread = dict(run.series.get("reward/std", []))
    points = run.series.get("reward/mean", [])
    band = [(x, y - spread[x], y + spread[x]) for x, y in points if x in spread and math.isfinite(y)]
    heldout = Line(label="held-out", points=run.series.get("heldout/reward", []), tone="b", marks=True)
    return Chart(
        title="Reward",
        unit=metric.unit,
        definition=metric.definition,
        lines=[Line(label="training", points=points, band=band), heldout],
        references=tuple(references(run).items()),
        spread="shaded: ± one standard deviation over episodes",
    )


def _success(run: Run) -> Chart:
    """Success in training with the held-out points and their intervals over it."""
    points, band = heldout_points(run)
    return Chart(
        title="Success",
        unit="share",
        definition=METRICS["success/rate"].definition + " Dots: held-out tasks with 95 % intervals.",
        lines=[
            Line(label="training", points=run.series.get("success/rate", [])),
            Line(label="held-out", points=points, band=band, tone="b", marks=True),
        ],
        floor=0,
        ceiling=1,
        wide=True,
    )


def heldout_points(run: Run) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """Held-out success by step with 95 % intervals: what the metrics say, else the two ends from the summary."""
    points = list(run.series.get("heldout/success", []))
    counts = dict(run.series.get("heldout/episodes", []))
    band: list[tuple[float, float, float]] = []
    for x, y in points:
        if counts.get(x, 0) >= 1 and 0 <= y <= 1:
            low, high = wilson(y * counts[x], int(counts[x]))
            band.append((x, low, high))
    if points:
        return points, band
    steps = [x for x, _ in run.series.get("success/rate", run.series.get("reward/mean", []))]
    for key, at in (("heldout_before", 0.0), ("heldout_after", max(steps, default=1.0) + 1)):
        found = outcome(run.summary, key)
        if found is not None:
            points.append((at, found.success))
            band.append((at, found.low, found.high))
    return points, band
