"""The judgement as a function of what can be seen, case by case; and what a person reads."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from phronesis.alive.process import Identity
from phronesis.alive.record import LoopState, Status, Wait
from phronesis.alive.stacks import Frame, Place, ThreadStack
from phronesis.alive.verdict import EXIT_CODES, Facts, judge
from phronesis.view.alive import page

HERE = Identity(pid=47, host="box", boot="b", space="s", started=9)
AT = Frame(file="worlds/my_env.py", line=12, function="MyEnv.step")
LOOP = LoopState(lag=0.001, worst=0.002, blocked=0.0, idle=0.0)
PLAY = Wait(name="play", seconds=31.0, reason="step 3: 5 of 16 episodes finished; 11 in env.step")
STATUS = Status(
    command="train", process=HERE, began="2026-01-01T10:00:00.000+00:00", time="2026-01-01T10:10:00.000+00:00", every=2.0,
    signal=10, phase="train", done=3, total=10, last="2026-01-01T10:09:00.000+00:00", unit_seconds=60.0, quiet=1.0,
    waits=(PLAY,), loop=LOOP, memory=2_000_000_000, tasks=12, places=(Place(count=11, where="a > b.py:1"),),
    threads=(ThreadStack(name="MainThread", frames=(AT,)),), stacks_time="2026-01-01T10:09:58.000+00:00",
    sources={"wiki": {"groups that play": 2}},
)  # fmt: skip
FACTS = Facts(run="runs/a", status=STATUS, age=1.0, runs=True, process_state="S", held=True, holder=47, checkpoint=2)


def seen(**changes) -> Facts:
    """The facts with changes; those of the status by its fields."""
    own = {k: v for k, v in changes.items() if k in Status.__struct_fields__ and k not in Facts.__struct_fields__}
    rest = {k: v for k, v in changes.items() if k not in own}
    return replace(FACTS, **({"status": replace(STATUS, **own)} | rest))


UPDATE = Wait(name="update", seconds=90.0, computes=True, idle=0.0, at=AT)
CASES = {
    "running": ({}, "play for 31 s: step 3: 5 of 16 episodes finished; 11 in env.step"),
    "a slow update": ({"waits": (UPDATE,), "quiet": 90.0}, "update for 90 s, at worlds/my_env.py:12 MyEnv.step"),
    "an update that blocks the loop": (
        {"waits": (UPDATE,), "quiet": 90.0, "loop": replace(LOOP, blocked=90.0, at=AT)},
        "update",
    ),
    "imports": ({"loop": replace(LOOP, blocked=30.0, idle=0.0, at=AT)}, "computes, which blocks the event loop for 30 s"),
}


@pytest.mark.parametrize("name", CASES)
def test_at_work(name):
    changes, why = CASES[name]
    found = judge(seen(**changes))
    assert (found.state, found.exit_code) == ("running", 0) and found.why.startswith(why)


STUCK = {
    "nothing moves": ({"quiet": 25.0}, "waiting", "nothing has moved for 25 s: play for 31 s"),
    "a sleep": ({"loop": replace(LOOP, blocked=25.0, idle=25.0, at=AT)}, "wedged", "the event loop is blocked for 25 s"),
    "an endless loop": ({"loop": replace(LOOP, blocked=61.0, idle=0.0, at=AT)}, "wedged", "the event loop is blocked for 61 s"),
    "a lock": ({"waits": (replace(UPDATE, idle=30.0),)}, "wedged", "update has not used the processor for 30 s"),
    "stopped": ({"process_state": "T"}, "stopped", "the process was stopped"),
    "no word": ({"age": 30.0}, "wedged", "it has said nothing for 30 s, and cannot be made"),
    "no word and no space": ({"age": 30.0, "free_bytes": 0}, "wedged", "the disk is full: what it says for 30 s"),
    "no interpreter": (
        {"age": 30.0, "dumped": (ThreadStack(name="main", frames=(AT,)),)}, "wedged",
        "no thread of it has come to run Python for 30 s",
    ),
    "a disk that hangs": (
        {"age": 30.0, "dumped": (ThreadStack(name="t", frames=(Frame(file="alive/record.py", line=3, function="write"),)),)},
        "wedged", "its status is 30 s old: writing in the run folder hangs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STUCK)
def test_stuck(name):
    changes, state, why = STUCK[name]
    found = judge(seen(**changes))
    assert (found.state, found.exit_code) == (state, EXIT_CODES[state]) and found.why.startswith(why), found
    if found.state == "wedged":
        assert found.todo.startswith("stop it (kill 47") and found.todo.endswith("--resume (from the checkpoint of step 2)")


GONE = {"runs": False, "held": False}
OVER = {
    "killed": (GONE, "killed", "process 47 is gone without a word"),
    "killed, its child not": ({"runs": False, "held": True}, "killed", "process 47 is gone"),
    "complete": (GONE | {"ended": "finished", "summed_up": True}, "finished", "the run is complete"),
    "failed": (GONE | {"ended": "failed", "failure": "TrainingError: no"}, "failed", "TrainingError: no"),
    "failed, and only the status says so": (GONE | {"ended": "failed", "error": "X: y"}, "failed", "X: y"),
    "interrupted": (GONE | {"ended": "interrupted"}, "interrupted", "somebody stopped it"),
    "a gateway that was told to stop": (
        GONE | {"ended": "finished", "command": "gateway"},
        "finished",
        "the gateway has ended",
    ),
    "no status": (GONE | {"status": None}, "killed", "no process works at it"),
    "old and complete": (GONE | {"status": None, "summed_up": True}, "finished", "the run is complete"),
    "begun": ({"status": None}, "starting", "a process has begun"),
    "begun again": ({"runs": False, "holder": 48}, "starting", "a process has begun"),
    "begun again after a failure": ({"ended": "failed", "holder": 48, "runs": False}, "starting", "a process has begun"),
    "elsewhere and silent": ({"runs": None, "held": False, "age": 60.0}, "unseen", "process 47 on box said nothing for 60 s"),
    "elsewhere and alive": ({"runs": None, "held": False}, "running", "play for 31 s"),
}


@pytest.mark.parametrize("name", OVER)
def test_over_or_elsewhere(name):
    changes, state, why = OVER[name]
    found = judge(seen(**changes))
    assert (found.state, found.exit_code) == (state, EXIT_CODES[state]) and found.why.startswith(why), found
    if state in ("killed", "failed", "interrupted"):
        assert "phronesis train runs/a --resume" in found.todo


def test_patience_is_the_callers():
    assert judge(seen(quiet=25.0), patience=30.0).state == "running"
    assert judge(seen(quiet=25.0), patience=5.0).state == "waiting"


def test_no_page_hides_what_is_known():
    now = 1767262201.0  # 10:10:01
    text = page(judge(seen(quiet=25.0)), now)
    for part in (
        "runs/a: waiting", "nothing has moved for 25 s", "train: 3 of 10, the last 61 s ago; 60 s each, about 7 min 0 s left",
        "play, for 31 s: step 3", "wiki: 2 groups that play", "keeps up: 1.0 ms late, at worst 2.0 ms", "47 on box", "2,000 MB",
        "of step 2", "12 tasks, 3 s ago", "11 x a > b.py:1", "worlds/my_env.py:12 MyEnv.step",
    ):  # fmt: skip
        assert part in text, (part, text)


def test_every_case_has_a_page():
    for changes, *_ in itertools.chain(CASES.values(), STUCK.values(), OVER.values()):
        found = judge(seen(**changes))
        lines = page(found, 1767262201.0).splitlines()
        assert lines[0] == f"runs/a: {found.state}" and lines[1].strip().startswith(found.why)
