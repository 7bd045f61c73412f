import asyncio
import io
import json
import logging
import math
from collections.abc import Iterator

import pytest

from phronesis.log import Column, Heartbeat, log_step, setup, step_line

COLUMNS = [
    Column("reward/mean", "reward"),
    Column("play/success", "success", "6.1%"),
    Column("eval/success", "held-out", "6.1%"),
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def clean_root() -> Iterator[None]:
    root = logging.getLogger("phronesis")
    before = (root.handlers[:], root.level, root.propagate)
    yield
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def test_columns_stay_in_place_whatever_is_missing():
    full = step_line(3, 120, {"reward/mean": -0.5, "play/success": 1.0, "eval/success": 0.25}, COLUMNS)
    part = step_line(119, 120, {"reward/mean": 10.25, "play/success": None}, COLUMNS)
    assert full == "step   3/120  reward  -0.500  success 100.0%  held-out  25.0%"
    assert part == "step 119/120  reward  10.250  success      -  held-out      -"


def test_a_terminal_gets_text_and_a_pipe_gets_json():
    terminal, pipe = Terminal(), io.StringIO()
    log_step(setup(stream=terminal), 1, 9, {"reward/mean": 0.5, "x/y": math.nan}, COLUMNS[:1])
    assert terminal.getvalue() == "step 1/9  reward   0.500\n"
    log_step(setup(stream=pipe), 1, 9, {"reward/mean": 0.5, "x/y": math.nan, "z/w": None}, COLUMNS[:1])
    row = json.loads(pipe.getvalue())
    assert {k: row[k] for k in ("step", "total", "reward/mean", "x/y", "z/w", "level", "logger")} == {
        "step": 1,
        "total": 9,
        "reward/mean": 0.5,
        "x/y": "nan",
        "z/w": None,
        "level": "info",
        "logger": "phronesis",
    }
    assert row["message"] == "step 1/9  reward   0.500"
    assert terminal.getvalue().count("\n") == 1, "the earlier stream must not get the later lines"


def test_json_can_be_asked_for_and_carries_tracebacks():
    stream = Terminal()
    logger = setup(as_json=True, stream=stream)
    try:
        raise ValueError("boom")
    except ValueError:
        logger.exception("it failed")
    row = json.loads(stream.getvalue())
    assert row["level"] == "error" and "ValueError: boom" in row["traceback"]


def test_text_names_the_level_unless_it_is_info():
    stream = Terminal()
    logger = setup(as_json=False, stream=stream)
    logger.getChild("train").warning("nothing learned for %d steps", 5)
    logger.info("fine")
    logger.debug("hidden")
    assert stream.getvalue() == "warning: nothing learned for 5 steps\nfine\n"


def test_a_heartbeat_speaks_only_while_nothing_comes():
    now = 0.0
    heard: list[tuple[str, float]] = []
    stream = io.StringIO()
    setup(as_json=False, stream=stream)
    beat = Heartbeat("play", every=10.0, listener=lambda r, s: heard.append((r, s)), clock=lambda: now)
    said: list[bool] = []
    for at in (3.0, 9.0, 10.0, 12.0, 20.0):
        now = at
        said.append(beat.waiting("3 episodes wait for the policy"))
    assert said == [False, False, True, False, True]
    assert heard == [("3 episodes wait for the policy", 10.0), ("3 episodes wait for the policy", 20.0)]
    beat.progress()
    now = 29.0
    assert not beat.waiting("again") and beat.waited == 9.0
    now = 30.5
    assert beat.waiting("again") and heard[-1] == ("again", 10.5)
    assert stream.getvalue().splitlines() == [
        "play has waited 10 s: 3 episodes wait for the policy",
        "play has waited 20 s: 3 episodes wait for the policy",
        "play has waited 10 s: again",
    ]


def test_watching_returns_the_result_passes_errors_and_speaks_meanwhile():
    heard: list[str] = []
    beat = Heartbeat("play", every=0.001, listener=lambda reason, _: heard.append(reason))

    async def scene() -> int:
        released = asyncio.Event()

        async def slow() -> int:
            await released.wait()
            return 7

        async def fails() -> int:
            raise KeyError("x")

        def reason() -> str:
            if len(heard) >= 2:
                released.set()
            return f"reason {len(heard)}"

        result = await beat.watch(slow(), reason)
        with pytest.raises(KeyError):
            await beat.watch(fails(), reason)
        return result

    setup(stream=io.StringIO())
    assert asyncio.run(scene()) == 7
    assert heard[:2] == ["reason 0", "reason 1"]


@pytest.mark.parametrize("closing", [False, True])
def test_giving_up_a_watch_waits_until_what_was_watched_has_cleaned_up(closing: bool):
    """Also when the event loop ends, which cancels every task: what cleans up is not disturbed by a second time."""
    done: list[str] = []

    async def lasting() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            done.append("cleaned up")

    async def scene() -> None:
        watching = asyncio.create_task(Heartbeat("play").watch(asyncio.gather(lasting(), lasting()), str))
        for _ in range(5):
            await asyncio.sleep(0)
        if closing:
            return  # the loop ends and cancels what is left, in any order
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        assert done == ["cleaned up"] * 2

    asyncio.run(scene())
    assert done == ["cleaned up"] * 2
