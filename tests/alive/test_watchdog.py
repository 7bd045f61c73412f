"""The thread that watches: what it writes, that it never hurts, and that it leaves other people's signals alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from phronesis.alive import dump, process, record
from phronesis.alive.watchdog import SECONDS, Watchdog
from phronesis.log import Heartbeat, doing, under_way


def said(folder, ready, seconds: float = 20.0) -> record.Status:
    """The status, once it is `ready`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = record.read(folder)
        if found is not None and ready(found):
            return found
        time.sleep(0.01)
    raise AssertionError(record.read(folder))


def test_what_a_loop_awaits_is_written_with_where(tmp_path):
    async def work(dog: Watchdog) -> record.Status:
        dog.told("train", 1, 4)
        dog.told("train", 2, 4)
        dog.sources = lambda: {"wiki": {"groups that play": 3}}
        beat = Heartbeat("batch", every=100.0)
        ready = asyncio.to_thread(said, tmp_path, lambda s: s.waits and s.places and s.loop is not None and s.sources)
        return await beat.watch(ready, lambda: "3 of 8 groups are finished")

    with Watchdog(tmp_path, "train", every=0.02) as dog:
        found = asyncio.run(dog.guard(work(dog)))
    assert (found.phase, found.done, found.total, found.command) == ("train", 2, 4, "train")
    assert [(w.name, w.reason, w.computes) for w in found.waits] == [("batch", "3 of 8 groups are finished", False)]
    assert any("Heartbeat.watch > log.py:" in p.where for p in found.places)
    assert found.sources == {"wiki": {"groups that play": 3}} and found.process == process.myself()
    ended = record.read(tmp_path)
    assert ended is not None and ended.ended == "finished" and ended.waits == () and under_way() == []
    assert not (tmp_path / record.STACKS).exists()


@pytest.mark.parametrize(("error", "ended"), [(ValueError("a"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_how_it_ended(tmp_path, error, ended):
    with pytest.raises(type(error)), Watchdog(tmp_path, "train", every=0.02):
        raise error
    found = record.read(tmp_path)
    assert found is not None and found.ended == ended and (found.error or "").startswith(type(error).__name__)


def test_a_loop_that_is_blocked_is_seen_from_the_thread(tmp_path):
    async def block() -> record.Status:
        return said(tmp_path, lambda s: s.loop is not None and s.loop.blocked > 0.1)

    with Watchdog(tmp_path, "train", every=0.02) as dog:
        found = asyncio.run(dog.guard(block()))
    assert found.loop is not None and found.loop.at is not None and found.loop.at.file == "tests/alive/test_watchdog.py"


def test_a_thread_that_waits_inside_what_it_should_compute(tmp_path):
    gate = threading.Event()

    def update():
        with doing("update"):
            gate.wait()

    thread = threading.Thread(target=update)
    with Watchdog(tmp_path, "train", every=0.02):
        thread.start()
        found = said(tmp_path, lambda s: any((w.idle or 0) > 0.2 for w in s.waits))
        gate.set()
        thread.join()
    assert found.waits[0].name == "update" and found.waits[0].computes
    assert found.waits[0].at is not None and found.waits[0].at.function.endswith("update")


def test_a_folder_that_is_gone_hurts_nobody(tmp_path, caplog):
    folder = tmp_path / "run"
    folder.mkdir()
    with Watchdog(folder, "train", every=0.01) as dog:
        said(folder, lambda s: True)
        (folder / record.STATUS).unlink(missing_ok=True)
        for _ in range(2000):
            try:
                for left in folder.iterdir():
                    left.unlink(missing_ok=True)
                folder.rmdir()
                break
            except OSError:
                continue
        time.sleep(0.1)
        assert asyncio.run(dog.guard(asyncio.sleep(0.01, "done"))) == "done"
    assert [r.message for r in caplog.records if "status.json cannot be written" in r.message][1:] == []  # said once


def test_a_signal_of_somebody_else_is_left_alone(tmp_path):
    heard = list[int]()
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with Watchdog(tmp_path, "train", every=0.02):
            found = said(tmp_path, lambda s: True)
            assert found.signal is None and dump.ask(tmp_path, found) == ()
            os.kill(os.getpid(), signal.SIGUSR1)
        assert heard == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_no_signal_goes_to_a_process_that_it_would_end(tmp_path):
    """Neither to one that took the number over, nor to the same one once it has no handler any more."""
    with subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline()
        me = process.myself()
        status = record.Status(
            command="train", process=record.Identity(pid=other.pid, host=me.host, boot=me.boot, space=me.space, started=1),
            began="", time="", every=2.0, signal=int(signal.SIGUSR1),
        )  # fmt: skip
        (tmp_path / record.STACKS).write_text("")
        assert process.runs(status.process) is False and dump.ask(tmp_path, status) == ()
        same = record.Identity(pid=other.pid, host=me.host, boot=me.boot, space=me.space, started=process.started(other.pid))
        assert process.runs(same) is True and process.catches(other.pid, signal.SIGUSR1) is False
        assert dump.ask(tmp_path, record.Status(command="", process=same, began="", time="", every=2.0, signal=10)) == ()
        assert other.poll() is None
        other.kill()


def test_a_process_of_another_machine_or_start_is_not_taken_for_one_here():
    me = process.myself()
    assert process.runs(me) is True
    assert process.runs(record.Identity(pid=me.pid, host="elsewhere", boot=me.boot, space=me.space, started=me.started)) is None
    assert process.runs(record.Identity(pid=me.pid, host=me.host, boot="before", space=me.space, started=me.started)) is False


def test_the_environment_sets_the_pace(tmp_path, monkeypatch):
    for text, seconds in (("0.5", 0.5), ("no number", 2.0), ("-1", 2.0)):
        monkeypatch.setenv(SECONDS, text)
        assert Watchdog(tmp_path, "train").every == seconds
