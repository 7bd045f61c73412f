from __future__ import annotations

import asyncio
import time

from phronesis.records import say
from phronesis.rollout.opening import LONG, opened
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


def test_light_work_goes_on_at_once():
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


def test_each_loop_has_its_own_pace():
    async def own():
        return Pace.of_loop(), Pace.of_loop()

    one, other = asyncio.run(own()), asyncio.run(own())
    assert one[0] is one[1] and one[0] is not other[0]


class Slow:
    """A chat format that counts what it encodes."""

    def __init__(self):
        self.texts = []

    def open(self, messages, tools=()):
        self.texts.append(messages[0].text)
        time.sleep(0.02)
        if messages[0].text.startswith("bad"):
            raise ValueError("no such role")
        return (len(messages[0].text),)


def test_a_long_prompt_is_encoded_once_for_all_and_outlives_one_that_gives_up():
    async def main():
        chat = Slow()
        long, bad = say("user", "x" * LONG), say("user", "bad" + "x" * LONG)
        first = asyncio.create_task(opened(chat, [long], ()))
        others = [asyncio.create_task(opened(chat, [long], ())) for _ in range(3)]
        failing = [asyncio.create_task(opened(chat, [bad], ())) for _ in range(2)]
        await asyncio.sleep(0)
        first.cancel()
        found = await asyncio.gather(first, *others, *failing, return_exceptions=True)
        short = await opened(chat, [say("user", "hi")], ())
        return chat.texts, found, short

    texts, found, short = asyncio.run(main())
    assert [t[:3] for t in texts] == ["xxx", "bad", "hi"]
    assert isinstance(found[0], asyncio.CancelledError) and found[1:4] == [(LONG,)] * 3 and short == (2,)
    assert [str(e) for e in found[4:]] == ["no such role"] * 2
