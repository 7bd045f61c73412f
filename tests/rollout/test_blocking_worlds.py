"""Pins: user code that blocks without awaiting fails its own episode, whichever way it came in, and no other."""

import asyncio
import contextvars
import gc
import sqlite3
import threading
import time
from contextlib import contextmanager

import pytest
from rollout_worlds import calling, policy_of, stage_of

from phronesis.envs.blocking import SyncEnv, Worker
from phronesis.envs.from_tools import from_tools
from phronesis.envs.native import from_env
from phronesis.envs.trl_style import from_class
from phronesis.errors import UserError
from phronesis.records import Reply, Stop, say
from phronesis.rewards import FunctionRubric
from phronesis.rollout.play import Ticket, play

LONG = 1.5


class Plain:
    """A class with reset, step and close."""

    def reset(self, task, seed):
        self.long = task.payload["long"]
        return Reply(messages=task.messages)

    def step(self, action):
        time.sleep(LONG if self.long else 0)
        return Reply(done=True)

    def close(self):
        pass


class TrlStyle:
    """A class with tools."""

    def reset(self, long: bool):
        self.long = long

    def step(self) -> str:
        """Steps."""
        time.sleep(LONG if self.long else 0)
        return "stepped"

    def get_reward(self):
        return 1.0


def tools_of(task):
    def step() -> str:
        """Steps."""
        time.sleep(LONG if task.payload["long"] else 0)
        return "stepped"

    return [step]


ROWS = {"train": [{"prompt": "go", "long": True}, {"prompt": "go", "long": False}]}
WAYS = {
    "native": lambda: from_env(Plain, ROWS),
    "class": lambda: from_class(TrlStyle, rows=ROWS),
    "tools": lambda: from_tools("t", tools_of, FunctionRubric(lambda e: 1.0), ROWS),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_blocks_fails_its_own_episode_and_no_other(way):
    spec = WAYS[way]()
    ended = []

    async def one(index):
        stage = stage_of(spec.make, policy_of(calling("step"), say("assistant", "done")), env_seconds=0.2)
        episode = await play(stage, Ticket(id=str(index), task=spec.task("train", index), seed=1))
        ended.append(index)
        return episode

    async def both():
        return await asyncio.gather(one(0), one(1))

    stuck, other = asyncio.run(both())
    assert (stuck.stop, stuck.failure.where, stuck.failure.kind) == (Stop.env_fault, "env.step", "Hung")
    assert (other.stop, other.failure) == (Stop.completed, None)
    assert ended == [1, 0]


def test_stop_iteration_from_a_thread_is_an_error_and_no_hang():
    class Runs(Plain):
        def step(self, action):
            return next(iter(()))

    spec = from_env(Runs, ROWS)
    episode = asyncio.run(
        play(stage_of(spec.make, policy_of(calling("step"))), Ticket(id="a", task=spec.task("train", 0), seed=1))
    )
    assert (episode.failure.where, episode.failure.kind) == ("env.step", "RuntimeError")


class Base(Plain):
    """Keeps its state where only the thread that opened it may look."""

    def __init__(self):
        self.base = sqlite3.connect(":memory:")
        self.base.execute("create table heard (text)")

    def step(self, action):
        self.base.execute("insert into heard values (?)", [action.text])
        return Reply(reward=float(self.base.execute("select count(*) from heard").fetchone()[0]), done=True)

    def close(self):
        self.base.close()


class BaseTools(TrlStyle):
    """The same with tools."""

    def __init__(self):
        self.base = sqlite3.connect(":memory:")

    def step(self) -> str:
        """Steps."""
        return str(self.base.execute("select 1 + 1").fetchone()[0])

    def close(self):
        self.base.close()


def episode_of(spec, *says, index=0, **limits):
    stage = stage_of(spec.make, policy_of(*says), **limits)
    return asyncio.run(play(stage, Ticket(id="a", task=spec.task("train", index), seed=1)))


@pytest.mark.parametrize("thread", [True, False])
def test_an_instance_is_built_in_the_thread_that_plays_it(thread):
    native = episode_of(from_env(Base, ROWS, thread=thread), say("assistant", "hello"))
    assert (native.failure, native.turns[0].reply.reward) == (None, 1.0)
    tools = episode_of(from_class(BaseTools, rows=ROWS, thread=thread), calling("step"), say("assistant", "done"))
    assert tools.failure is None
    assert tools.turns[0].reply.messages[0].text == "2"


@pytest.mark.parametrize("way", ["native", "class"])
def test_a_constructor_that_blocks_fails_its_own_episode(way):
    class Slow(Plain if way == "native" else TrlStyle):
        """Takes its time to be built."""

        def __init__(self):
            time.sleep(LONG)

    spec = from_env(Slow, ROWS) if way == "native" else from_class(Slow, rows=ROWS)
    episode = episode_of(spec, say("assistant", "x"), env_seconds=0.1)
    assert (episode.failure.where, episode.failure.kind) == ("env.reset", "Hung")


def test_arguments_may_have_any_name():
    def evaluate(function: str, self: str, method: str) -> str:
        """Evaluates."""
        return function + self + method

    class Named(TrlStyle):
        """Takes columns of any name."""

        def reset(self, method: str, function: str):
            self.long = False
            self.names = method + function

        def step(self) -> str:
            """Steps."""
            return self.names

    async def tool():
        env = from_tools("t", [evaluate], FunctionRubric(lambda e: 1.0), ROWS).make()
        await env.reset(ROWS_TASK, 0)
        text = await env.tools["evaluate"].call({"function": "a", "self": "b", "method": "c"})
        await env.close()
        return text

    ROWS_TASK = from_env(Plain, ROWS).task("train", 0)
    assert asyncio.run(tool()) == "abc"
    rows = {"train": [{"prompt": "go", "method": "m", "function": "f"}]}
    episode = episode_of(from_class(Named, rows=rows), calling("step"), say("assistant", "done"))
    assert episode.turns[0].reply.messages[0].text == "mf"


def test_closing_behind_a_stuck_call_is_left_to_the_thread():
    go, order = threading.Event(), []

    @contextmanager
    def tools(task):
        def step() -> str:
            """Steps."""
            go.wait(30)
            order.append("step returned")
            return "stepped"

        yield [step]
        order.append(f"left in the same thread: {threading.current_thread().name == 'phronesis-env'}")

    spec = from_tools("t", tools, FunctionRubric(lambda e: 1.0), ROWS)
    before = threads()
    episode = episode_of(spec, calling("step"), env_seconds=0.1)  # would wait 0.1 s more for close, and say so
    assert (episode.failure.where, order) == ("env.step", [])
    (stuck,) = threads() - before
    go.set()
    stuck.join(10)
    assert not stuck.is_alive()
    assert order == ["step returned", "left in the same thread: True"]


def threads():
    return {t for t in threading.enumerate() if t.name == "phronesis-env"}


@pytest.mark.parametrize("way", WAYS)
def test_no_thread_outlives_its_episode(way):
    before = threads()
    episode = episode_of(WAYS[way](), calling("step"), say("assistant", "done"), index=1)
    assert episode.failure is None
    for thread in threads() - before:
        thread.join(10)
    assert threads() <= before


def test_a_worker_that_is_dropped_ends_its_thread_and_calls_see_their_context():
    who = contextvars.ContextVar("who", default="nobody")
    before = threads()

    async def run():
        who.set("me")
        worker = Worker()
        return await worker.run(who.get)

    assert asyncio.run(run()) == "me"
    gc.collect()
    for thread in threads() - before:
        thread.join(10)
    assert threads() <= before


def test_what_a_call_raises_or_awaits_comes_through():
    async def run():
        worker = Worker()

        async def later():
            return threading.current_thread() is threading.main_thread()

        awaited = await worker.run(lambda: later())
        with pytest.raises(KeyError, match="gone"):
            await worker.run({}.__getitem__, "gone")
        await worker.release(lambda: None)
        return awaited

    assert asyncio.run(run()) is True


class Counted(Plain):
    """Counts what is done to it."""

    closed = 0

    def snapshot(self):
        return b""

    def close(self):
        type(self).closed += 1


@pytest.mark.parametrize("thread", [True, False])
@pytest.mark.parametrize("begun", [True, False])
def test_closed_is_closed(thread, begun):
    """A second close does nothing; any other call says so instead of waiting for a thread that is gone."""
    kind = type("Counted", (Counted,), {})
    spec = from_env(kind, ROWS, thread=thread)
    task = spec.task("train", 1)

    async def run():
        env = spec.make()
        if begun:
            await env.reset(task, 0)
        for _ in range(3):
            await env.close()
        for call in (lambda: env.reset(task, 0), lambda: env.step(say("assistant", "hm"))):
            with pytest.raises(UserError, match=r"'Counted' is closed.*make a new one"):
                await call()
        await env.close()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert kind.closed == begun


def test_closed_capabilities_say_so_too():
    async def run():
        env = SyncEnv(Counted())
        assert await env.snapshot() == b""
        await env.close()
        with pytest.raises(UserError, match="'Counted' is closed"):
            await env.snapshot()

    asyncio.run(asyncio.wait_for(run(), 10))


@pytest.mark.parametrize("way", ["class", "tools"])
def test_tools_in_a_thread_are_closed_once_too(way):
    spec = WAYS[way]()
    task = spec.task("train", 1)

    async def run():
        env = spec.make()
        await env.reset(task, 0)
        function = env.tools["step"].function
        await env.close()
        await env.close()
        with pytest.raises(UserError, match=r"is closed.*make a new one"):
            await function()

    asyncio.run(asyncio.wait_for(run(), 10))


@pytest.mark.parametrize("fails", [ValueError("no"), None])
def test_a_close_that_failed_is_not_done_again(fails):
    calls = []

    class Failing(Plain):
        def close(self):
            calls.append("close")
            if fails:
                raise fails

    async def run():
        env = from_env(Failing, ROWS).make()
        await env.reset(from_env(Failing, ROWS).task("train", 1), 0)
        if fails:
            with pytest.raises(ValueError, match="no"):
                await env.close()
        await env.close()

    asyncio.run(asyncio.wait_for(run(), 10))
    assert calls == ["close"]
