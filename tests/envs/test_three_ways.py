"""Pins: a class with reset/step/close, a TRL-style class and a list of tools give the same episode for the same tool."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from env_scripts import act, call, play, texts

from phronesis.env import Env, Snapshots
from phronesis.envs.blocking import SyncEnv
from phronesis.envs.from_tools import from_tools
from phronesis.envs.native import from_env
from phronesis.envs.tool_env import Opening, ToolEnv
from phronesis.envs.trl_style import Hooks, from_class
from phronesis.errors import ConfigError, EnvFault, ToolError, UnknownName
from phronesis.records import Reply, Task, say
from phronesis.rewards import EnvReward, FunctionRubric
from phronesis.tool import as_tool, tool

ROWS = [{"prompt": f"Add up to {n}.", "target": n} for n in range(3, 13)]


class Adder:
    """Adds numbers up to a target."""

    def reset(self, target, **row):
        self.target, self.total = target, 0

    def add(self, number: int) -> str:
        """Adds a number to the total.

        Args:
            number: what to add.
        """
        if number < 0:
            raise ValueError("only upwards")
        self.total += number
        return f"total {self.total}"

    def get_reward(self) -> float:
        return 1.0 if self.total == self.target else 0.0


class NativeAdder(ToolEnv):
    """The same as an environment class."""

    async def begin(self, task, seed):
        self.adder = Adder()
        self.adder.reset(**task.payload)
        return Opening(task.messages, (as_tool(self.adder.add, tell=(ValueError,)),))

    async def settle(self, action, outcome):
        return Reply(reward=self.adder.get_reward() if outcome is None else None, done=outcome is None)


def adder_tools(task):
    adder = Adder()
    adder.reset(**task.payload)

    @tool
    def add(number: int) -> str:
        """Adds a number to the total.

        Args:
            number: what to add.
        """
        if number < 0:
            raise ToolError("only upwards")
        return adder.add(number)

    return [add]


def sums_to_target(episode):
    numbers = [
        c.arguments["number"] for t in episode.turns for c in t.action.tool_calls if c.name == "add" and not t.reply.errors
    ]
    return float(sum(numbers) == episode.task.payload["target"])


def three_ways():
    return {
        "class": from_class(Adder, rows=ROWS, name="adder", system="Add."),
        "native": from_env(NativeAdder, ROWS, name="adder", system="Add."),
        "tools": from_tools("adder", adder_tools, FunctionRubric(sums_to_target), ROWS, system="Add."),
    }


ACTIONS = [
    act(call("add", {"number": 2})),
    act(call("subtract", {"number": 1})),
    act(call("add", {"number": "1"})),
    act(call("add", {"number": -1})),
    act(call("add", {"number": 1}, 0), call("add", {"number": 0}, 1)),
    say("assistant", "done"),
]


def test_the_same_tool_gives_the_same_episode_three_ways():
    seen = {}
    for way, spec in three_ways().items():
        index = next(i for i in range(spec.sizes["train"]) if spec.task("train", i).payload["target"] == 3)
        played, reward = play(spec, ACTIONS, index)
        seen[way] = (
            [m.text for m in played.opening.messages],
            played.opening.tools,
            [texts(r) for r in played.replies],
            [r.errors for r in played.replies],
            [r.done for r in played.replies],
            reward.value,
        )
    assert seen["class"] == seen["native"] == seen["tools"]
    opening, tools, answers, errors, _, value = seen["class"]
    assert opening == ["Add.", "Add up to 3."]
    assert [t.name for t in tools] == ["add"]
    assert answers == [
        ["total 2"],
        ["error: there is no tool 'subtract'; tools: add"],
        ["error: argument 'number': Expected `int`, got `str`; got '1'"],
        ["error: only upwards"],
        ["total 3", "total 3"],
        [],
    ]
    assert errors == [(), ("unknown_tool",), ("bad_argument",), ("tool_raised",), (), ()]
    assert value == 1.0


def test_rows_are_split_by_content_alike_three_ways():
    specs = three_ways().values()
    splits = [{s: [spec.task(s, i).payload["target"] for i in range(n)] for s, n in spec.sizes.items()} for spec in specs]
    assert splits[0] == splits[1] == splits[2]
    assert sorted(splits[0]["train"] + splits[0]["heldout"]) == list(range(3, 13))
    assert splits[0]["heldout"]


def test_adding_rows_moves_no_old_row_to_another_split():
    def held(rows):
        spec = from_class(Adder, rows=rows, name="adder")
        return {spec.task("heldout", i).payload["target"] for i in range(spec.sizes["heldout"])}

    many = [{"prompt": "p", "target": n} for n in range(200)]
    few = held(many[:100])
    assert few == {n for n in held(many) if n < 100}
    assert 10 <= len(few) <= 30


def test_equal_rows_stay_in_one_split():
    rows = [{"prompt": "p", "target": n % 20} for n in range(60)]
    spec = from_class(Adder, rows=rows, name="adder")
    parts = {s: {spec.task(s, i).content_key for i in range(n)} for s, n in spec.sizes.items()}
    assert not parts["train"] & parts["heldout"]
    assert spec.sizes["train"] + spec.sizes["heldout"] == 60


class Plain:
    """Says what it hears, without async."""

    def __init__(self):
        self.count = 0
        self.threads = set()

    def reset(self, task, seed):
        return Reply(messages=task.messages)

    def step(self, action):
        self.count += 1
        self.threads.add(threading.current_thread().name)
        return Reply(messages=(say("user", f"{self.count}: {action.text}"),), reward=1.0, done=self.count == 2)

    def close(self):
        self.count = -1

    def snapshot(self):
        return b"%d" % self.count


@pytest.mark.parametrize("thread", [False, True])
def test_a_class_without_async_is_an_environment_too(thread):
    made = []

    def build():
        made.append(Plain())
        return made[-1]

    spec = from_env(build, [{"prompt": "hello"}], name="plain", thread=thread)
    played, reward = play(spec, [say("assistant", "a"), say("assistant", "b")])
    assert [texts(r) for r in played.replies] == [["1: a"], ["2: b"]]
    assert reward.value == 2.0
    assert made[-1].count == -1
    assert ("MainThread" in made[-1].threads) is not thread


def test_capabilities_of_a_plain_class_are_passed_on():
    wrapped = SyncEnv(Plain())
    assert isinstance(wrapped, Env)
    assert not isinstance(wrapped, Snapshots)  # it has no restore
    assert asyncio.run(wrapped.snapshot()) == b"0"


def test_a_blocking_call_in_a_thread_can_be_given_up():
    class Hangs(Plain):
        def step(self, action):
            time.sleep(0.5)
            raise RuntimeError("too late")

    async def run():
        env = SyncEnv(Hangs(), thread=True)
        await env.reset(Task(id="t", env="e", messages=(say("user", "x"),)), 0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await env.step(say("assistant", "a"))
        return "the loop went on"

    assert asyncio.run(run()) == "the loop went on"


def test_a_factory_that_is_a_context_manager_cleans_up():
    events = []

    @contextmanager
    def tools(task):
        events.append(f"open {task.id}")

        @tool
        def ping() -> str:
            """Pings."""
            return "pong"

        yield [ping]
        events.append("close")

    spec = from_tools("ping", tools, FunctionRubric(lambda e: 1.0), lambda split, i: {"prompt": "go"})
    played, _ = play(spec, [act(call("ping")), say("assistant", "x")], index=5)
    assert texts(played.replies[0]) == ["pong"]
    assert events == ["open train-5", "close"]


def test_state_of_a_factory_does_not_leak_between_episodes():
    spec = three_ways()["tools"]
    first, _ = play(spec, ACTIONS[:1])
    second, _ = play(spec, ACTIONS[:1])
    assert texts(first.replies[0]) == texts(second.replies[0]) == ["total 2"]


def test_misuse_is_told_clearly():
    class NoStep:
        async def reset(self, task, seed): ...

    with pytest.raises(ConfigError, match="NoStep lacks step, close"):
        from_env(NoStep, ROWS)
    with pytest.raises(ConfigError, match="has no tasks"):
        from_env(NativeAdder, [])
    with pytest.raises(ConfigError, match="distinct names"):
        from_tools("x", [], EnvReward(), ROWS)
    with pytest.raises(ConfigError, match="empty row"):
        from_tools("x", adder_tools, EnvReward(), [{}])
    with pytest.raises(ConfigError, match="not JSON"):
        from_tools("x", adder_tools, EnvReward(), [{"prompt": "p", "target": object()}])
    with pytest.raises(ConfigError, match="a prompt is text or a list"):
        from_tools("x", adder_tools, EnvReward(), [{"prompt": 3}])
    spec = three_ways()["native"]
    with pytest.raises(UnknownName, match="unknown split of environment 'adder' 'test'"):
        spec.task("test", 0)
    with pytest.raises(ConfigError, match="there is no number 99"):
        spec.task("train", 99)


# TRL style


class Counter:
    """A class as TRL's documentation shows it, with a helper, a property and state."""

    limit = 3

    def __init__(self):
        self.done = False

    def reset(self, **kwargs) -> str | None:
        self.count = 0
        self.done = False
        self.given = kwargs
        return f" The limit is {self.limit}."

    def increment(self, step: int) -> str:
        """
        Increments the internal counter.

        Args:
            step: The value to add to the counter.

        Returns:
            The updated counter value.
        """
        if self.done:
            raise ValueError("Game over.")
        self.count += step
        self.done = self.count >= self.limit
        return str(self.count)

    async def peek(self) -> str:
        """Shows the counter."""
        return str(self.count)

    @property
    def progress(self):
        return self.count / self.limit

    @staticmethod
    def helper():
        return None

    def _private(self):
        return None

    def get_reward(self) -> float:
        return self.progress if self.done else self.progress / 2


def test_trl_class_unchanged():
    prompt = [{"role": "system", "content": "Count."}, {"role": "user", "content": "Go."}]
    spec = from_class(Counter, rows=[{"prompt": prompt, "level": 1}])
    assert (spec.name, spec.description) == (
        "Counter",
        "A class as TRL's documentation shows it, with a helper, a property and state.",
    )
    actions = [
        act(call("increment", {"step": 1}, 0), call("peek", {}, 1)),
        act(call("increment", {"step": 2})),
        act(call("increment", {"step": 1})),
        say("assistant", "finished"),
    ]
    played, reward = play(spec, actions)
    assert [t.name for t in played.opening.tools] == ["increment", "peek"]
    assert played.opening.tools[0].description == "Increments the internal counter."
    assert [m.text for m in played.opening.messages] == ["Count.", "Go. The limit is 3."]
    assert [texts(r) for r in played.replies] == [["1", "1"], ["3"], ["error: Game over."], []]
    assert [r.done for r in played.replies] == [False, False, False, True]
    assert reward.value == 1.0
    assert [c.turn for c in reward.components] == [None]


def test_trl_rows_reach_reset_with_their_prompt():
    seen = {}

    class Sees(Counter):
        def reset(self, **kwargs):
            seen.update(kwargs)
            return super().reset()

    play(from_class(Sees, rows=[{"prompt": "Go.", "level": 2}]), [say("assistant", "x")])
    assert seen == {"level": 2, "prompt": [{"role": "user", "content": "Go."}]}


def test_turn_rewards_are_the_changes_and_sum_to_the_same_total():
    rows = [{"prompt": "Go."}]
    actions = [act(call("increment", {"step": 1})), act(call("increment", {"step": 2})), say("assistant", "x")]
    _, whole = play(from_class(Counter, rows=rows), actions)
    _, by_turn = play(from_class(Counter, rows=rows, turn_rewards=True), actions)
    assert whole.by_turn(3) == (0.0, 0.0, 1.0)
    assert by_turn.by_turn(3) == pytest.approx((1 / 6, 5 / 6, 0.0))
    assert by_turn.value == pytest.approx(whole.value)


def test_a_cut_episode_keeps_its_reward():
    _, reward = play(from_class(Counter, rows=[{"prompt": "Go."}]), [act(call("increment", {"step": 1}))])
    assert reward.value == pytest.approx(1 / 6)


def test_reward_can_be_read_once_only():
    reads = []

    class Costly(Counter):
        def get_reward(self):
            reads.append(self.count)
            return super().get_reward()

    actions = [act(call("increment", {"step": 1}))] * 2 + [say("assistant", "x")]
    _, reward = play(from_class(Costly, rows=[{"prompt": "Go."}], read_once=True), actions)
    assert (reads, reward.value) == ([2], pytest.approx(1 / 3))
    reads.clear()
    play(from_class(Costly, rows=[{"prompt": "Go."}], read_once=True, max_turns=2), actions[:2])
    assert reads == [2]


def test_async_reset_and_reward_and_own_close():
    closed = []

    class Later:
        """Async throughout."""

        async def reset(self, **row):
            await asyncio.sleep(0)
            self.said = ""

        async def note(self, text: str) -> None:
            """Notes a text."""
            self.said += text

        async def get_reward(self):
            return len(self.said)

        def close(self):
            closed.append(self.said)

    for thread in (False, True):
        played, reward = play(
            from_class(Later, prompt="Write.", thread=thread), [act(call("note", {"text": "abc"})), say("assistant", "x")]
        )
        assert [t.name for t in played.opening.tools] == ["note"]
        assert texts(played.replies[0]) == ["null"]
        assert reward.value == 3.0
    assert closed == ["abc", "abc"]


def test_a_class_that_owns_its_problems_gets_a_seed_of_the_task():
    class Seeded:
        """Hides a number."""

        def reset(self, seed):
            self.number = seed % 100
            return f"Round {self.number}"

        def say_it(self, number: int) -> str:
            """Says it."""
            return "yes" if number == self.number else "no"

        def get_reward(self):
            return 0.0

    spec = from_class(Seeded, rows=None)
    openings = {i: play(spec, [say("assistant", "x")], index=i, seed=s)[0].opening.messages for i in (0, 1) for s in (1, 2)}
    assert play(spec, [say("assistant", "x")], index=0, seed=9)[0].opening.messages == openings[0]
    assert openings[0] != openings[1]


def test_bugs_of_a_class_are_faults_unless_trl_behaviour_is_asked_for():
    class Buggy(Counter):
        def increment(self, step: int) -> str:
            """Increments."""
            return {}["missing"]

    actions = [act(call("increment", {"step": 1}))]
    with pytest.raises(KeyError):
        play(from_class(Buggy, rows=[{"prompt": "Go."}]), actions)
    played, _ = play(from_class(Buggy, rows=[{"prompt": "Go."}], tell=(Exception,)), actions)
    assert texts(played.replies[0]) == ["error: 'missing'"]


def test_bad_classes_are_refused_when_they_are_adopted():
    class NoReset:
        def go(self, a: int) -> str:
            """Goes."""
            return ""

    class NoReward(NoReset):
        def reset(self, **row): ...

    class NoTool:
        def reset(self, **row): ...

        def get_reward(self):
            return 0.0

    class Picky(NoReward):
        def reset(self, level): ...

        def get_reward(self):
            return 0.0

    for bad, message in [(NoReset, "no reset"), (NoReward, "no get_reward"), (NoTool, "no public method")]:
        with pytest.raises(ConfigError, match=message):
            from_class(bad, rows=[{"prompt": "Go."}])
    with pytest.raises(ConfigError, match=r"Picky.reset cannot take a row with the columns \['lvel'\]"):
        from_class(Picky, rows=[{"prompt": "Go.", "lvel": 1}])
    assert from_class(NoReward, rows=[{"prompt": "x"}], rubric=FunctionRubric(lambda e: 1.0)).name == "NoReward"


@pytest.mark.parametrize(
    ("method", "value", "message"), [("reset", 3, "reset returned 'int'"), ("get_reward", "high", "get_reward returned 'high'")]
)
def test_garbage_from_a_class_is_an_environment_fault(method, value, message):
    bad = type("Bad", (Counter,), {method: lambda self, **row: value})
    with pytest.raises(EnvFault, match=message):
        play(from_class(bad, rows=[{"prompt": "Go."}]), [say("assistant", "x")])


def test_nothing_to_begin_with_is_told():
    class Mute(Counter):
        def reset(self, **row):
            super().reset()

    with pytest.raises(EnvFault, match="no opening"):
        play(from_class(Mute), [say("assistant", "x")])


def test_hooks_end_name_and_copy_episodes():
    hooks = Hooks[Counter](done=lambda c: c.done, state_key=lambda c: str(c.count), snapshots=True)
    spec = replace(from_class(Counter, rows=[{"prompt": "Go."}], hooks=hooks), max_turns=5)
    played, _ = play(spec, [act(call("increment", {"step": 1})), act(call("increment", {"step": 5}))])
    assert played.opening.state_key == "0"
    assert [(r.state_key, r.done) for r in played.replies] == [("1", False), ("6", True)]

    async def forked():
        env = spec.make()
        await env.reset(spec.task("train", 0), 0)
        await env.step(act(call("increment", {"step": 1})))
        state = await env.snapshot()
        other = spec.make()
        await other.restore(state)
        a = await other.step(act(call("increment", {"step": 1})))
        b = await env.step(act(call("increment", {"step": 2})))
        return a.state_key, b.state_key, a.reward

    assert asyncio.run(forked()) == ("2", "3", pytest.approx(2 / 6 - 1 / 6))
