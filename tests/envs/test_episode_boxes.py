"""Boxes of episodes: fresh, bounded, counted, ended with the event loop; a broken one is a fault and no reward."""

import asyncio
import gc
import os
import signal

import pytest

from phronesis.envs import boxes
from phronesis.errors import SandboxFault
from phronesis.sandbox import BoxSpec, start

SMALL = BoxSpec(disk=4 << 20, files=256, memory=256 << 20)


def test_an_episode_has_a_box_of_its_own_and_leaves_nothing():
    async def play():
        one, two = boxes.Held(), boxes.Held()
        first, second = await one.open(SMALL), await two.open(SMALL)
        await first.write("note", b"mine")
        seen = [e.path for e in await second.entries()]
        during = (await boxes.shared()).counts()
        await one.close()
        again = await one.open(SMALL)
        seen += [e.path for e in await again.entries()]
        await one.close()
        await one.close()
        await two.close()
        return seen, during, (await boxes.shared()).counts()

    seen, during, after = asyncio.run(play())
    assert seen == []
    assert during.out == 2 and after.out == 0 and after.made >= 3 and after.faults == 0


def test_no_more_than_a_bound_are_out_at_once():
    async def play():
        made = boxes.Boxes(await start(), most=2, ready=1)
        most = 0

        async def one():
            nonlocal most
            async with made.box(SMALL) as box:
                most = max(most, made.out)
                await box.run(["true"])

        await asyncio.gather(*(one() for _ in range(6)))
        await made.close()
        return most, made.counts()

    most, counts = asyncio.run(play())
    assert most == 2 and counts.out == 0


def test_another_event_loop_has_boxes_of_its_own_and_none_outlive_it():
    async def play():
        async with boxes.fresh(SMALL) as box:
            return box.first, (await boxes.shared()).sandbox.process.pid, len(boxes._shared)

    first, maker, count = asyncio.run(play())
    _, other, _ = asyncio.run(play())
    assert count == 1 and maker != other and boxes._shared == {}
    for process in (first, maker, other):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    gc.collect()  # what was left open would warn, and a warning is an error


def test_a_loop_that_is_closed_without_being_shut_down_is_forgotten():
    async def play():
        return (await boxes.shared()).sandbox.process

    loop = asyncio.new_event_loop()
    process = loop.run_until_complete(play())
    loop.close()
    assert len(boxes._shared) == 1
    asyncio.run(play())
    assert boxes._shared == {} and process.poll() is not None


def test_a_box_that_dies_is_a_fault():
    async def play():
        held = boxes.Held()
        box = await held.open(SMALL)
        os.kill(box.first, signal.SIGKILL)
        ran = await box.run(["true"])
        with pytest.raises(SandboxFault):
            await box.read("note")
        await held.close()
        return ran, (await boxes.shared()).out

    ran, out = asyncio.run(play())
    assert ran.stopped == "died" and ran.code is None and out == 0


def test_what_makes_boxes_is_started_anew_when_it_was_killed():
    async def play():
        shared = await boxes.shared()
        shared.sandbox.process.kill()
        async with boxes.fresh(SMALL) as box:
            return (await box.run(["echo", "well"])).stdout.text, shared.counts().faults

    assert asyncio.run(play()) == ("well\n", 1)


def test_a_box_cannot_be_used_before_it_is_taken():
    with pytest.raises(RuntimeError, match="reset or restore"):
        _ = boxes.Held().box


def test_this_machine_can_make_boxes_also_when_a_loop_runs():
    async def inside():
        boxes.require.cache_clear()
        boxes.require()

    asyncio.run(inside())


def test_what_died_with_its_box_is_tried_once_more_and_what_kills_two_boxes_is_told():
    async def play(deaths):
        used = []

        async def use(box):
            used.append(box)
            if len(used) <= deaths:
                os.kill(box.first, signal.SIGKILL)
            return await box.run(["echo", "well"])

        ran = await boxes.tried(SMALL, use)
        return len(used), ran.stopped, ran.stdout.text

    assert asyncio.run(play(0)) == (1, None, "well\n")
    assert asyncio.run(play(1)) == (2, None, "well\n")
    assert asyncio.run(play(2))[:2] == (2, "died")
