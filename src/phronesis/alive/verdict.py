"""What is the matter with a run: a judgement of what its process last said, of the process, and of the folder."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from phronesis.alive import dump, process
from phronesis.alive.record import Status, Wait, moment, read
from phronesis.alive.stacks import Frame, ThreadStack, own
from phronesis.store import Layout, Run
from phronesis.store.saved import saved, step_in

State = Literal["finished", "running", "starting", "waiting", "wedged", "stopped", "failed", "interrupted", "killed", "unseen"]

EXIT_CODES: dict[State, int] = {
    "finished": 0,
    "running": 0,
    "starting": 0,
    "failed": 3,
    "interrupted": 4,
    "killed": 4,
    "wedged": 5,
    "stopped": 5,
    "waiting": 6,
    "unseen": 7,
}
"""What `phronesis status` exits with."""

PATIENCE = 20.0
"""Seconds without a sign of life that are nothing unusual."""
_LONG = 3  # times the patience; more than that is no more taken for computing
_FULL = 2**20  # bytes
_STALE = 5  # writes that are missing before the process cannot speak for itself


class Facts(Struct, frozen=True, kw_only=True):
    """What can be seen from outside."""

    run: str
    """The run folder."""
    status: Status | None
    """What the process last said; None where it never said anything."""
    age: float | None
    """Seconds since then."""
    runs: bool | None
    """Whether that process runs; None where that cannot be seen from here."""
    process_state: str | None = None
    """The system's letter for what it does."""
    held: bool
    """Whether some process holds the folder."""
    holder: int | None = None
    """The number of the process that took it last."""
    summed_up: bool = False
    """Whether the run wrote its summary."""
    failure: str | None = None
    """The error it ended with, by its own events."""
    checkpoint: int | None = None
    """Step of the newest checkpoint."""
    free_bytes: int | None = None
    """Free space where the folder lies."""
    dumped: tuple[ThreadStack, ...] = ()
    """Its stacks, where it had to be asked by a signal."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What is the matter."""

    state: State
    """In a word."""
    exit_code: int
    """What the command exits with."""
    why: str
    """In a sentence."""
    seconds: float | None = None
    """For how long, where that has a meaning."""
    at: Frame | None = None
    """The line it stands at, where one is to blame."""
    todo: str = ""
    """What to do next; '' when nothing needs to be done."""
    facts: Facts
    """What this rests on."""


def look(folder: Path, patience: float = PATIENCE) -> Verdict:
    """Looks at a run and judges it; a process that does not speak is made to write its stacks.

    Raises:
        RunFolderError: there is no run in the folder.
    """
    seen = gather(folder)
    verdict = judge(seen, patience)
    if verdict.state == "wedged" and seen.status is not None and _stale(seen):
        verdict = judge(replace(seen, dumped=dump.ask(folder, seen.status)), patience)
    return verdict


def gather(folder: Path) -> Facts:
    """What can be seen of a run from outside.

    Raises:
        RunFolderError: there is no run in the folder.
    """
    with Run.open(folder) as run:
        status = read(folder)
        held, holder = run.active, _holder(run.layout)
        ends = [e for e in run.events() if e.kind in ("failure", "resume")]
        kept = saved(run.layout.checkpoints)
        return Facts(
            run=str(folder),
            status=status,
            age=None if status is None else max(0.0, time.time() - moment(status.time)),
            runs=None if status is None else process.runs(status.process),
            process_state=None if status is None or not process.here(status.process) else process.state(status.process.pid),
            held=held,
            holder=holder,
            summed_up=run.summary() is not None,
            failure=ends[-1].message if ends and ends[-1].kind == "failure" else None,
            checkpoint=step_in(kept[-1]) if kept else None,
            free_bytes=shutil.disk_usage(folder).free,
        )


def _holder(layout: Layout) -> int | None:
    """The process that took the folder last, by what it wrote into the lock."""
    try:
        words = layout.lock.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return None
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


def _stale(facts: Facts) -> bool:
    return facts.status is not None and facts.age is not None and facts.age > _STALE * facts.status.every


def judge(facts: Facts, patience: float = PATIENCE) -> Verdict:
    """What is the matter, by what can be seen. A pure function.

    Args:
        facts: what can be seen.
        patience: seconds without a sign of life that are nothing unusual, e.g. as long as a tool may take.
    """
    status = facts.status
    if status is None or (facts.held and facts.holder not in (None, status.process.pid) and _gone(facts, status)):
        if facts.held:
            return _verdict(facts, "starting", "a process has begun to write the run and has not said anything yet")
        return _over(facts)
    if status.ended is not None or facts.runs is False:
        return _over(facts)
    if facts.runs is None and not facts.held and _stale(facts):
        return _verdict(
            facts, "unseen", f"process {status.process.pid} on {status.process.host} said nothing for {facts.age:.0f} s",
            seconds=facts.age, todo=f"ask on {status.process.host}: whether the process runs cannot be seen from here",
        )  # fmt: skip
    return _living(facts, status, patience)


def _gone(facts: Facts, status: Status) -> bool:
    """Whether whoever wrote the status works no more."""
    return facts.runs is False or status.ended is not None


def _over(facts: Facts) -> Verdict:
    """Of a run that nobody works at."""
    status, resume = facts.status, f"continue with: phronesis train {facts.run} --resume"
    ended = None if status is None else status.ended
    if facts.failure is not None or ended == "failed":
        why = facts.failure or (status.error if status else None) or "the run ended with an error"
        return _verdict(facts, "failed", why, todo=f"once that is mended, {resume}{_from(facts)}")
    if facts.summed_up and ended in (None, "finished"):
        return _verdict(facts, "finished", "the run is complete")
    if status is not None and ended == "finished" and status.command != "train":
        return _verdict(facts, "finished", f"the {status.command} has ended as it should")
    if ended == "interrupted":
        return _verdict(facts, "interrupted", "somebody stopped it", todo=f"{resume}{_from(facts)}")
    if ended == "finished":
        return _verdict(facts, "interrupted", "it ended and wrote no summary", todo=f"{resume}{_from(facts)}")
    if status is None:
        return _verdict(facts, "killed", "no process works at it, and it is not complete", todo=f"{resume}{_from(facts)}")
    size = "" if status.memory is None else f", with {status.memory / 1e6:,.0f} MB of memory"
    why = f"process {status.process.pid} is gone without a word, killed or crashed; it last wrote at {status.time}{size}"
    if facts.held:
        resume = f"a process that it started still holds the folder: end that first, then {resume}"
    return _verdict(facts, "killed", why, todo=f"{resume}{_from(facts)}")


def _from(facts: Facts) -> str:
    if facts.checkpoint is None:
        return " (there is no checkpoint yet: it begins anew)"
    return f" (from the checkpoint of step {facts.checkpoint})"


def _living(facts: Facts, status: Status, patience: float) -> Verdict:
    """Of a run whose process lives."""
    pid = status.process.pid
    stop = f"stop it (kill {pid}, or kill -9 {pid}), mend that, then phronesis train {facts.run} --resume{_from(facts)}"
    if facts.process_state == "T":
        return _verdict(
            facts, "stopped", "the process was stopped by a signal, and waits to be continued", seconds=facts.age,
            todo=f"kill -CONT {status.process.pid}",
        )  # fmt: skip
    if _stale(facts):
        return _silent(facts, stop)
    busy = [w for w in status.waits if w.computes and (w.idle is None or w.idle < patience)]
    still = [w for w in status.waits if w.computes and w.idle is not None and w.idle >= patience]
    if still:
        worst = still[-1]
        why = f"{worst.name} has not used the processor for {worst.idle:.0f} s"
        return _verdict(facts, "wedged", why, seconds=worst.idle, at=worst.at, todo=stop)
    loop = status.loop
    computes = loop is not None and loop.idle is not None and loop.idle < patience
    if loop is not None and not busy and loop.blocked >= (_LONG * patience if computes else patience):
        return _verdict(
            facts, "wedged", f"the event loop is blocked for {loop.blocked:.0f} s", seconds=loop.blocked, at=loop.at, todo=stop,
        )  # fmt: skip
    said = _waits(status.waits)
    if loop is not None and loop.blocked and computes and not busy:
        return _verdict(facts, "running", f"computes, which blocks the event loop for {loop.blocked:.0f} s", at=loop.at)
    if status.quiet >= patience and not busy:
        why = f"nothing has moved for {status.quiet:.0f} s: {said or 'it does not say what it waits for'}"
        return _verdict(facts, "waiting", why, seconds=status.quiet)
    return _verdict(facts, "running", said or "at work")


def _silent(facts: Facts, stop: str) -> Verdict:
    """Of a process whose watching thread does not write any more."""
    writes = [t for t in facts.dumped if any(f.file == "alive/record.py" and f.function == "write" for f in t.frames)]
    if writes:
        why = f"its status is {facts.age:.0f} s old: writing in the run folder hangs"
        return _verdict(facts, "wedged", why, seconds=facts.age, todo=stop)
    keeper = next((t for t in facts.dumped if t.frames and t.frames[0].function not in _RESTING), None)
    at = None if keeper is None else own(keeper.frames)
    inside = "" if keeper is None or keeper.frames[0] == at else f" (in {keeper.frames[0]})"
    why = f"no thread of it has come to run Python for {facts.age:.0f} s: C code keeps the interpreter{inside}"
    if not facts.dumped:
        why = f"it has said nothing for {facts.age:.0f} s, and cannot be made to write its stacks"
        if facts.free_bytes is not None and facts.free_bytes < _FULL:
            why = f"the disk is full: what it says for {facts.age:.0f} s cannot be written"
    return _verdict(facts, "wedged", why, seconds=facts.age, at=at, todo=stop)


_RESTING = ("wait", "select", "_wait_for_tstate_lock", "_worker", "accept", "poll", "get")
"""Functions of Python's library in which threads rest while others work."""


def _waits(waits: tuple[Wait, ...]) -> str:
    """What it is about, the innermost first."""
    return "; ".join(
        f"{w.name} for {w.seconds:.0f} s{f': {w.reason}' if w.reason else f', at {w.at}' if w.at else ''}"
        for w in reversed(waits)
    )


def _verdict(
    facts: Facts, state: State, why: str, *, seconds: float | None = None, at: Frame | None = None, todo: str = ""
) -> Verdict:
    return Verdict(state=state, exit_code=EXIT_CODES[state], why=why, seconds=seconds, at=at, todo=todo, facts=facts)
