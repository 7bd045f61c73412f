"""What a person should be told before looking at any curve. Each check is a pure function of the run.

A check that has nothing to look at says so; a report never calls a run healthy for want of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from phronesis.train.metrics import undefined
from phronesis.view.folder import Run
from phronesis.view.outcome import outcome, paired
from phronesis.view.quantity import number, percent

Level = Literal["alarm", "note", "ok", "unknown"]

RECENT = 5
"""Steps at the end of the run that count as now."""
MOST_RAISED = 5
"""Most alarms of the run itself that are shown."""
MISMATCH_NATS = 0.01
"""Largest |Δ log p| between sampler and learner that is still called on-policy."""


class Finding(NamedTuple):
    """The result of one check."""

    check: str
    """What was checked."""
    level: Level
    """alarm: act; note: know; ok: fine; unknown: the run did not write what the check needs."""
    text: str
    """What was found and, for an alarm, what to do."""


def findings(run: Run) -> tuple[Finding, ...]:
    """All checks, alarms first."""
    rank = {"alarm": 0, "note": 1, "ok": 2, "unknown": 3}
    raised = [Finding("Raised by the run", "alarm", text) for text in list(dict.fromkeys(run.alarms))[:MOST_RAISED]]
    if len(run.alarms) > len(raised):
        raised.append(Finding("Raised by the run", "note", f"{len(run.alarms)} alarms, {len(raised)} shown"))
    raised += [Finding("Settings", "note", text) for text in run.settings]
    return tuple(sorted((*raised, *(check(run) for check in CHECKS)), key=lambda f: rank[f.level]))


def _values(run: Run, key: str) -> list[float]:
    return [y for _, y in run.series.get(key, [])]


def _recent(run: Run, key: str) -> float | None:
    """Mean of the last finite values; None when there is none."""
    finite = [v for v in _values(run, key)[-RECENT:] if math.isfinite(v)]
    return math.fsum(finite) / len(finite) if finite else None


def _improved(run: Run) -> Finding:
    name = "Held-out improvement"
    before, after = outcome(run.summary, "heldout_before"), outcome(run.summary, "heldout_after")
    if before is None or after is None:
        return Finding(name, "unknown", "no held-out evaluation before and after; whether the agent improved is not known")
    pairs = paired(run, run.success)
    if pairs is not None:
        rose, fell, how = pairs.low > 0, pairs.high < 0, "the paired 95 % interval of the difference"
    else:
        rose, fell, how = after.low > before.high, after.high < before.low, "the 95 % intervals before and after"
    if fell:
        return Finding(
            name, "alarm", f"held-out success fell ({how}): compare the learning rate and the reward with what was meant"
        )
    if not rose:
        return Finding(name, "alarm", f"no improvement is shown ({how}): train longer or evaluate more episodes")
    return Finding(name, "ok", f"held-out success rose ({how})")


def _gap(run: Run) -> Finding:
    name = "Training against held-out"
    after, training = outcome(run.summary, "heldout_after"), _recent(run, "success/rate")
    if after is None or training is None:
        return Finding(name, "unknown", "needs success in training and on held-out tasks")
    gap = training - after.success
    text = f"success in training {percent(training)}, held-out {percent(after.success)}"
    if gap > 0.15:
        return Finding(
            name, "alarm", f"{text}: the agent may be memorising tasks or exploiting the reward; read the failed episodes"
        )
    return Finding(name, "ok", text)


def _signal(run: Run) -> Finding:
    name, share = "Signal", _recent(run, "signal/zero_variance")
    if share is None:
        return Finding(name, "unknown", "no share of zero-variance groups was written")
    solved = (_recent(run, "success/rate") or 0.0) > 0.9
    if share >= 0.9:
        cure = (
            "the tasks are solved: make them harder or stop" if solved else "use larger groups, easier tasks or a denser reward"
        )
        return Finding(
            name, "note" if solved else "alarm", f"{percent(share, 0)} of groups carry no signal in the last steps: {cure}"
        )
    return Finding(name, "ok", f"{percent(share, 0)} of groups carry no signal in the last steps")


def _mismatch(run: Run) -> Finding:
    name = "Sampler and learner agree"
    finite = [v for v in _values(run, "mismatch/max_logprob_difference") if not math.isnan(v)]
    if not finite:
        return Finding(name, "unknown", "no log-probability difference was written")
    worst = max(finite)
    if worst > MISMATCH_NATS:
        return Finding(
            name,
            "alarm",
            f"log-probabilities differ by up to {number(worst)} nats (bound {MISMATCH_NATS}), so the gradient is off-policy: "
            "compare numerics and weight versions",
        )
    return Finding(name, "ok", f"log-probabilities differ by at most {number(worst)} nats")


def _finite(run: Run) -> Finding:
    name = "Finite numbers"
    watched = ("update/loss", "update/grad_norm", "prime/loss", "prime/grad_norm", "policy/entropy")
    seen = [k for k in watched if run.series.get(k)]
    broken = [k for k in seen if not all(math.isfinite(v) for v in _values(run, k))]
    if not seen:
        return Finding(name, "unknown", "no loss or gradient norm was written")
    if broken:
        return Finding(
            name, "alarm", f"{', '.join(broken)} became NaN or infinite: lower the learning rate and look at the step before"
        )
    return Finding(name, "ok", "loss, gradient and entropy stayed finite")


def _entropy(run: Run) -> Finding:
    name, last = "Exploration", _recent(run, "policy/entropy")
    values = [v for v in _values(run, "policy/entropy") if math.isfinite(v)]
    if last is None:
        return Finding(name, "unknown", "no entropy was written")
    first = math.fsum(values[:RECENT]) / len(values[:RECENT])
    text = f"entropy went from {number(first)} to {number(last)} nats per token"
    if first > 0 and last < 0.05 * first:
        return Finding(name, "alarm", f"{text}: the policy stopped exploring; raise the temperature or clip higher")
    return Finding(name, "ok", text)


def _clipping(run: Run) -> Finding:
    name, values = "Clipping", _values(run, "update/clip_share")
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return Finding(name, "unknown", "no clip share was written")
    if max(finite) == 0:
        return Finding(
            name, "note", "no ratio was ever clipped: with one update per batch that is expected, otherwise clipping is inert"
        )
    last = _recent(run, "update/clip_share") or 0.0
    if last > 0.3:
        return Finding(name, "alarm", f"{percent(last)} of tokens are clipped: the update steps are too large")
    return Finding(name, "ok", f"{percent(last)} of tokens are clipped")


def _limits(run: Run) -> Finding:
    name, share = "Limits", _recent(run, "episode/truncated")
    if share is None:
        return Finding(name, "unknown", "no share of truncated episodes was written")
    if share > 0.3:
        return Finding(
            name,
            "alarm",
            f"{percent(share, 0)} of episodes end at a limit: raise the limit that binds, or their reward says little",
        )
    return Finding(name, "ok", f"{percent(share, 0)} of episodes end at a limit in the last steps")


def _faults(run: Run) -> Finding:
    name, values = "Faults", [v for v in _values(run, "episode/faults") if math.isfinite(v)]
    if not values:
        return Finding(name, "unknown", "no share of faults was written")
    if max(values) > 0:
        mean = math.fsum(values) / len(values)
        level: Level = "alarm" if mean > 0.01 else "note"
        return Finding(
            name,
            level,
            f"{percent(mean, 2)} of episodes broke (at most {percent(max(values), 1)} in a step) and were left out: "
            "read the failed episode",
        )
    return Finding(name, "ok", "no episode broke")


def _readable(run: Run) -> Finding:
    name, unknown = "Records", undefined(run.series)
    notes = [*run.notes, *([f"metrics without a definition: {', '.join(unknown)}"] if unknown else [])]
    if notes:
        return Finding(name, "note", "; ".join(notes))
    return Finding(name, "ok", "everything in the run folder could be read")


CHECKS: Sequence[Callable[[Run], Finding]] = (
    _improved,
    _gap,
    _signal,
    _mismatch,
    _finite,
    _entropy,
    _clipping,
    _limits,
    _faults,
    _readable,
)
"""All checks, in the order a person would make them."""
