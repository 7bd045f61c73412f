"""Held-out results of a summary as numbers with intervals, whatever spelling the summary uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from phronesis.evals.pick import value
from phronesis.evals.statistics import PairedDifference, paired_difference, wilson
from phronesis.records import Episode
from phronesis.view.folder import Run


class Outcome(NamedTuple):
    """One evaluation."""

    success: float
    """Share of successes, in [0, 1]."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    n: int
    """Episodes counted."""
    turns: float | None = None
    """Mean turns per episode; None when not written."""
    tokens: float | None = None
    """Mean sampled tokens per episode; None when not written."""
    reward: float | None = None
    """Mean reward; None when not written."""
    faults: int = 0
    """Episodes left out because something broke."""
    temperature: float | None = None
    """0 means greedy; None when not written."""
    levels: Mapping[str, tuple[float, int]] = {}
    """(success, n) by difficulty."""


def get(entry: Mapping[str, object] | None, *names: str) -> float | None:
    """The first of these entries that is a number; None when there is none."""
    for name in names:
        found = (entry or {}).get(name)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return float(found)
    return None


def mapping(entry: Mapping[str, object] | None, *names: str) -> Mapping[str, object] | None:
    """The first of these entries that is an object; None when there is none."""
    for name in names:
        found = (entry or {}).get(name)
        if isinstance(found, Mapping):
            return cast(Mapping[str, object], found)
    return None


def outcome(summary: Mapping[str, object] | None, name: str) -> Outcome | None:
    """One evaluation of the summary; None when it is absent or has no success and count."""
    entry = mapping(summary, name)
    success, n = get(entry, "success", "success_rate"), get(entry, "n", "episodes")
    if entry is None or success is None or n is None or not 0 <= success <= 1 or n < 0:
        return None
    low, high = wilson(success * n, int(n))
    given = get(entry, "ci_low", "low"), get(entry, "ci_high", "high")
    return Outcome(
        success=success,
        low=low if given[0] is None else given[0],
        high=high if given[1] is None else given[1],
        n=int(n),
        turns=get(entry, "mean_turns", "turns"),
        tokens=get(entry, "mean_tokens", "tokens"),
        reward=get(entry, "mean_reward", "reward"),
        faults=int(get(entry, "faults") or 0),
        temperature=get(entry, "temperature"),
        levels=_levels(mapping(entry, "by_difficulty", "difficulty")),
    )


def _levels(entry: Mapping[str, object] | None) -> dict[str, tuple[float, int]]:
    levels: dict[str, tuple[float, int]] = {}
    for level, found in (entry or {}).items():
        if isinstance(found, Mapping):
            inner = cast(Mapping[str, object], found)
            pair = get(inner, "success"), get(inner, "n", "episodes")
        elif isinstance(found, Sequence) and not isinstance(found, str) and len(cast(Sequence[object], found)) == 2:
            numbers = {str(i): v for i, v in enumerate(cast(Sequence[object], found))}
            pair = get(numbers, "0"), get(numbers, "1")
        else:
            continue
        if pair[0] is not None and pair[1] is not None and 0 <= pair[0] <= 1 and pair[1] >= 0:
            levels[level] = pair[0], int(pair[1])
    return levels


def evaluations(run: Run) -> dict[str, Outcome]:
    """Every held-out evaluation of the summary by its key, in the order written."""
    found = {key: outcome(run.summary, key) for key in run.summary or {} if key.startswith("heldout")}
    return {key: entry for key, entry in found.items() if entry is not None}


def describe(key: str) -> str:
    """A summary key as a reader would say it.

    >>> describe("heldout_before"), describe("heldout_after_greedy"), describe("heldout_swapped")
    ('before training', 'after training, greedy', 'thoughts swapped')
    """
    rest = key.removeprefix("heldout").strip("_")
    words = [w for w in rest.split("_") if w]
    if "swapped" in words or "swap" in words:
        return "thoughts swapped"
    when = {"before": "before training", "after": "after training"}
    named = [when.get(w, w) for w in sorted(words, key=lambda w: w not in when)]
    return ", ".join(named) or "held-out"


def paired(run: Run, success: float) -> PairedDifference | None:
    """Held-out success after minus before over tasks both played; None when either side has no scored episode."""
    before, after = (_by_task(run.episodes.get("before", []), success), _by_task(run.episodes.get("after", []), success))
    difference = paired_difference(before, after)
    return difference if difference.tasks else None


def _by_task(episodes: Sequence[Episode], success: float) -> dict[str, list[float]]:
    outcomes: dict[str, list[float]] = {}
    for episode in episodes:
        reward = value(episode)
        if reward is not None and not episode.stop.is_fault:
            outcomes.setdefault(f"{episode.task.split}/{episode.task.id}", []).append(float(reward >= success))
    return outcomes
