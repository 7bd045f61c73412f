"""Where tasks and threads stand, counted: coroutines in coroutines, asynchronous generators, threads that wait."""

from __future__ import annotations

import asyncio
import threading

from phronesis.alive import stacks
from phronesis.alive.dump import parse
from phronesis.alive.stacks import Frame


async def answer(gate: asyncio.Event) -> None:
    await gate.wait()


async def ask(gate: asyncio.Event) -> None:
    await answer(gate)


async def replies(gate: asyncio.Event):
    await gate.wait()
    yield 1


async def listen(gate: asyncio.Event) -> None:
    async for _ in replies(gate):
        pass


def line_of(function) -> int:
    """The line of the only statement that awaits."""
    return function.__code__.co_firstlineno + 1


async def seen(work, count: int) -> tuple[int, list[tuple[int, str]]]:
    gate = asyncio.Event()
    held = [asyncio.create_task(work(gate)) for _ in range(count)]
    await asyncio.sleep(0)
    found = await asyncio.to_thread(stacks.tasks, asyncio.get_running_loop())
    gate.set()
    await asyncio.gather(*held)
    return found[0], [(p.count, p.where) for p in found[1]]


def test_tasks_at_one_place_are_counted_together():
    number, places = asyncio.run(seen(ask, 412))
    assert number == 413
    assert places[0] == (412, f"ask > answer > tests/alive/test_stacks.py:{line_of(answer)} (Event.wait)")
    assert places[1][0] == 1 and "seen > tests/alive/test_stacks.py:" in places[1][1]


def test_a_generator_on_the_way_is_seen_through():
    _, places = asyncio.run(seen(listen, 7))
    assert places[0] == (7, f"listen > replies > tests/alive/test_stacks.py:{line_of(replies)} (Event.wait)")


def test_more_places_than_are_listed_are_counted(monkeypatch):
    monkeypatch.setattr(stacks, "MOST_PLACES", 1)

    async def mixed(gate):
        await (ask(gate) if len(asyncio.all_tasks()) % 2 else listen(gate))

    async def both():
        gate = asyncio.Event()
        held = [asyncio.create_task(work(gate)) for work in (ask, ask, ask, listen)]
        await asyncio.sleep(0)
        found = stacks.tasks(asyncio.get_running_loop())[1]
        gate.set()
        await asyncio.gather(*held)
        return found

    found = asyncio.run(both())
    assert [p.count for p in found] == [3, 2] and found[1].where == "at 2 other places"


def test_no_loop_has_no_tasks():
    assert stacks.tasks(None) == (0, ())


def test_threads_and_where_they_stand():
    lock, begun = threading.Lock(), threading.Event()

    def wait_for_it():
        begun.set()
        with lock:
            pass

    with lock:
        thread = threading.Thread(target=wait_for_it, name="waiter")
        thread.start()
        begun.wait()
        found = {t.name: t for t in stacks.threads(threading.get_ident())}
        at = stacks.stands(thread.ident)
    thread.join()
    assert found["waiter"].thread == thread.native_id and "MainThread" not in found
    assert at is not None and at.function.endswith("wait_for_it") and at.file == "tests/alive/test_stacks.py"
    assert stacks.stands(thread.ident) is None  # it has ended


def test_whose_line_is_blamed():
    library, mine = Frame(file="socket.py", line=1, function="recv", foreign=True), Frame(file="a.py", line=2, function="f")
    assert stacks.own((library, mine)) == mine and stacks.own((library,)) == library and stacks.own(()) is None


DUMP = """Fatal Python error: no

Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "/srv/our/project/worlds/far.py", line 5 in work

Current thread 0x00007f02 [python] (most recent call first):
  File "/srv/our/project/worlds/my_env.py", line 12 in step
  File "<string>", line ??? in <module>
"""


def test_what_faulthandler_writes_is_read_main_thread_first():
    main, other = parse(DUMP)
    assert main.name == "python" and [str(f) for f in main.frames] == [
        "project/worlds/my_env.py:12 step",
        "<string>:0 <module>",
    ]
    assert other.name == "thread 0x00007f01" and other.frames[1].function == "work"
