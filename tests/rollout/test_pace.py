from __future__ import annotations

import asyncio
import time

from phronesis.rollout.pace import MOST, Pace

WORK = 0.001


def busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def passes_of(workers: int, work: float) -> tuple[list[int], list[int]]:
    """In which pass of the loop each worker did its work, in order of starting and of doing."""

    async def main():
        done, at = [], 0
        stop = asyncio.Event()

        async def count():
            nonlocal at
            while not stop.is_set():
                at += 1
                await asyncio.sleep(0)

        async def one(i):
            await Pace.of_loop().turn()
            busy(work)
            done.append((i, at))

        counting = asyncio.create_task(count())
        await asyncio.gather(*(one(i) for i in range(workers)))
        stop.set()
        await counting
        return [i for i, _ in done], [p for _, p in done]

    return asyncio.run(main())


def test_a_burst_of_work_is_spread_over_passes_in_order():
    order, passes = passes_of(100, WORK)
    assert order == list(range(100)), "first come, first served"
    most = max(passes.count(p) for p in set(passes))
    assert most * WORK <= 4 * MOST, "no pass does much more than its share, though 100 ms were asked for at once"


def test_light_work_goes_on_at_once(monkeypatch):
    monkeypatch.setattr("phronesis.rollout.pace.MOST", 10.0)  # however long a busy machine lets this process wait
    _, passes = passes_of(20, 0.0)
    assert set(passes) == {passes[0]}


def test_one_that_is_given_up_takes_no_turn_from_the_others():
    async def main():
        pace, done = Pace.of_loop(), []

        async def one(i):
            await pace.turn()
            busy(0.006)
            done.append(i)

        tasks = [asyncio.create_task(one(i)) for i in range(6)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return done

    assert asyncio.run(main()) == [0, 1, 2, 4, 5]


def test_many_that_are_given_up_take_no_pass_from_the_others():
    async def main():
        pace, passes, at = Pace.of_loop(), [], 0

        async def one(i):
            await pace.turn()
            busy(0.006)
            passes.append(at)

        tasks = [asyncio.create_task(one(i)) for i in range(1002)]
        await asyncio.sleep(0)
        for task in tasks[1:-1]:
            task.cancel()
        while not tasks[-1].done():
            at += 1
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        return passes

    assert asyncio.run(main())[-1] <= 5, "not one pass for every few of the thousand"


def test_each_loop_has_its_own_pace():
    async def own():
        return Pace.of_loop(), Pace.of_loop()

    one, other = asyncio.run(own()), asyncio.run(own())
    assert one[0] is one[1] and one[0] is not other[0]
