"""The page of `phronesis status`: the judgement first, then what it rests on, in the order a person asks for it."""

from __future__ import annotations

import time

from phronesis.alive.record import Status, Wait, moment
from phronesis.alive.stacks import ThreadStack
from phronesis.alive.verdict import Facts, Verdict

MOST_PLACES = 12
"""Most places of tasks that are shown; ``--json`` has more."""
THREAD_FRAMES = 5
"""Innermost calls of a thread that are shown."""
_LIVING = ("running", "waiting", "wedged", "stopped", "unseen")
_QUIET_THREADS = ("ThreadPoolExecutor", "asyncio_")  # workers without work are not worth a line
_RESTING = "_worker"
_LITTLE_SPACE = 10**9


def page(verdict: Verdict, now: float | None = None) -> str:
    """The whole page as text.

    Args:
        verdict: what is the matter.
        now: seconds since 1970; None asks the clock.
    """
    now = time.time() if now is None else now
    facts, status = verdict.facts, verdict.facts.status
    at = f" at {verdict.at}" if verdict.at is not None else ""
    lines = [f"{facts.run}: {verdict.state}", f"  {verdict.why}{at}"]
    if verdict.todo:
        lines.append(f"  {verdict.todo}")
    rows: list[tuple[str, str]] = []
    if status is not None:
        rows += _progress(status, now, verdict.state in _LIVING)
        if verdict.state in _LIVING:
            rows += _work(status)
        rows.append(("process", _process(status, now, living=verdict.state in _LIVING)))
    rows += _folder(facts)
    lines += ["", *(f"{name:<11}{text}" for name, text in rows)]
    if status is not None and verdict.state in _LIVING:
        lines += _stacks(status, facts.dumped, now)
    return "\n".join(lines)


def ago(seconds: float) -> str:
    """A duration for people.

    >>> ago(12.3), ago(150), ago(7300)
    ('12 s', '2 min 30 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _progress(status: Status, now: float, living: bool) -> list[tuple[str, str]]:
    if not status.phase:
        return [("progress", "none reported yet")]
    text = f"{status.phase}: {status.done} of {status.total}" if status.total else f"{status.phase}: {status.done}"
    if status.last is not None and living:
        text += f", the last {ago(now - moment(status.last))} ago"
    if status.unit_seconds is not None:
        text += f"; {status.unit_seconds:.3g} s each"
        if status.total > status.done and living:
            text += f", about {ago(status.unit_seconds * (status.total - status.done))} left"
    return [("progress", text)]


def _work(status: Status) -> list[tuple[str, str]]:
    rows = [("does", _wait(w)) for w in reversed(status.waits)]
    rows += [("source", f"{name}: {', '.join(f'{n} {what}' for what, n in c.items())}") for name, c in status.sources.items()]
    if (loop := status.loop) is not None:
        if loop.blocked:
            rows.append(("event loop", f"blocked for {loop.blocked:.1f} s at {loop.at}"))
        else:
            rows.append(("event loop", f"keeps up: {1000 * loop.lag:.1f} ms late, at worst {1000 * loop.worst:.1f} ms"))
    if status.quiet >= 1:
        rows.append(("last sign", f"of life {ago(status.quiet)} before it wrote this"))
    return rows


def _wait(wait: Wait) -> str:
    text = f"{wait.name}, for {ago(wait.seconds)}"
    if wait.reason:
        text += f": {wait.reason}"
    if wait.at is not None:
        text += f", at {wait.at}"
    if wait.idle:
        text += f" (no processor time for {ago(wait.idle)})"
    return text


def _process(status: Status, now: float, *, living: bool) -> str:
    text = f"{status.process.pid} on {status.process.host}, {status.command}, since {status.began}"
    if living:
        text += f" ({ago(now - moment(status.began))})"
    if status.memory is not None:
        text += f", {status.memory / 1e6:,.0f} MB"
    return text + (f"; said so {ago(max(0.0, now - moment(status.time)))} ago" if living else f"; last wrote {status.time}")


def _folder(facts: Facts) -> list[tuple[str, str]]:
    step = facts.checkpoint
    rows = [("checkpoint", "none yet" if step is None else f"of step {step}")]
    if facts.free_bytes is not None and facts.free_bytes < _LITTLE_SPACE:
        rows.append(("disk", f"only {facts.free_bytes / 1e6:,.0f} MB are free where the run lies"))
    return rows


def _stacks(status: Status, dumped: tuple[ThreadStack, ...], now: float) -> list[str]:
    lines: list[str] = []
    if status.places:
        taken = "" if status.stacks_time is None else f", {ago(max(0.0, now - moment(status.stacks_time)))} ago"
        lines += ["", f"{status.tasks} tasks{taken}"]
        width = len(str(status.places[0].count))
        lines += [f"  {p.count:>{width}} x {p.where}" for p in status.places[:MOST_PLACES]]
        if len(status.places) > MOST_PLACES:
            lines.append(f"  and {sum(p.count for p in status.places[MOST_PLACES:])} elsewhere")
    shown = dumped or tuple(t for t in status.threads if not _rests(t))
    if shown:
        lines += ["", "threads, as the signal found them" if dumped else "threads"]
        for thread in shown:
            lines.append(f"  {thread.name}")
            lines += [f"    {frame}" for frame in thread.frames[:THREAD_FRAMES]]
    return lines


def _rests(thread: ThreadStack) -> bool:
    """Whether a thread of a pool has nothing to do."""
    return bool(thread.frames) and thread.frames[0].function.endswith(_RESTING) and thread.name.startswith(_QUIET_THREADS)
