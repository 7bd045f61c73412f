"""Merging: drivers by hand, the clock that thoughts move on, tasks that need a look, every way to cheat, and the checker."""

from __future__ import annotations

import asyncio
import re

import pytest
from env_scripts import act, call, play

from phronesis.envs import registry
from phronesis.envs.check import check, render
from phronesis.envs.digest import split_of
from phronesis.envs.mergeroad import CHEATS, Dials, MergeEnv, Merging, Road, advise, follow, make, task, thinking_ticks
from phronesis.envs.mergeroad.road import HARDEST, LENGTH, REACTION, SETTLED, Slowing
from phronesis.envs.mergeroad.tasks import LIMIT, road_of
from phronesis.envs.noise import Noise
from phronesis.envs.scripted import Clock, play_scripted, reward_of
from phronesis.errors import ConfigError
from phronesis.records import Message, Task, say

EMPTY = {"x": [], "v": [], "wanted": [], "slow": [], "end": 200.0, "speed": 20.0}


def road(x=(), v=(), *, wanted=30.0, end=200.0, speed=20.0, slow=()):
    made = Road(list(x), list(v), [wanted] * len(x), tuple(slow), end=end)
    made.speed = speed
    return made


def drive(payload, *actions, cost=1.0, loophole=False):
    """What the world answers to each action of an episode over this traffic."""

    async def run():
        env = MergeEnv(lambda p, seed: Merging(p, seed, loophole=loophole), cost)
        await env.reset(Task(id="t", env="mergeroad", messages=(say("user", "Go."),), payload=payload), 0)
        replies = [await env.step(a) for a in actions]
        return env.game, replies

    return asyncio.run(run())


def test_drivers_by_hand():
    """1.5 * (1 - (v / v0)^4 - (s* / s)^2), s* = 2 + v + v * closing / (2 sqrt 3)."""
    assert follow(0.0, 30.0, 1e9, 0.0) == pytest.approx(1.5)
    assert follow(30.0, 30.0, 1e9, 0.0) == pytest.approx(0.0, abs=1e-9)
    assert follow(20.0, 30.0, 44.0, 0.0) == pytest.approx(1.5 * (1 - 16 / 81 - 0.25))
    wanted = 2 + 20 + 20 * 5 / (2 * 3**0.5)  # 5 m/s faster than the car ahead: 50.87 m
    assert follow(20.0, 30.0, 100.0, 5.0) == pytest.approx(1.5 * (1 - 16 / 81 - (wanted / 100) ** 2))
    assert follow(20.0, 30.0, 5.0, 10.0) == -HARDEST == follow(20.0, 30.0, -1.0, 0.0)


def test_a_tick_by_hand():
    one = road()
    one.step("accelerate")  # 20 to 20.25 m/s, 2.0125 m
    assert (one.tick, one.speed, one.ego) == (1, pytest.approx(20.25), pytest.approx(2.0125))
    one.step("brake")
    assert one.speed == pytest.approx(19.85)
    slow = road(speed=0.2)
    slow.step("brake")
    assert slow.speed == 0.0 and slow.ego == pytest.approx(0.01)


def test_a_driver_slows_down_for_a_while():
    lone = road([0.0], [20.0], wanted=20.0, slow=[Slowing(0, 1, 3, 0.5)])
    speeds = []
    for _ in range(5):
        lone.step()
        speeds.append(lone.v[0])
    assert speeds[0] == pytest.approx(20.0) and speeds[1] == pytest.approx(19.7) and speeds[2] < 19.5
    assert speeds[3] > speeds[2] and speeds[4] > speeds[3]


@pytest.mark.parametrize(
    ("x", "v", "well"),
    [
        ([], [], True),
        ([60.0], [20.0], True),
        ([LENGTH + 1.0], [30.0], True),  # close ahead, and drives away
        ([LENGTH - 0.5], [20.0], False),  # beside: bumpers overlap
        ([-LENGTH + 0.5], [20.0], False),
        ([-8.0], [30.0], False),  # behind, ten m/s faster: it sees too late
        ([-80.0], [30.0], True),
        ([12.0], [5.0], False),  # ahead, and much slower than one can brake
    ],
)
def test_merges_by_hand(x, v, well):
    one = road(x, v)
    one.merge()
    assert one.settle() is well
    assert one.tick == (SETTLED if well else one.tick)


def test_the_driver_behind_needs_a_second():
    one = road([-20.0], [22.0], wanted=22.0)
    one.merge()
    for _ in range(REACTION):
        one.step()
    assert one.forced == 0.0 and one.v[0] == pytest.approx(22.0)
    one.step()
    assert one.forced > 0.5 and one.v[0] < 22.0


def test_thoughts_take_time():
    thought = Message(role="assistant", thought="one two three four five six seven eight nine ten eleven")
    assert [thinking_ticks(thought, cost) for cost in (0.0, 1.0, 5.0)] == [1, 3, 7]
    assert thinking_ticks(say("assistant", "word " * 10**5), 1.0) == 1 + LIMIT
    joined, letters = say("assistant", "first_I_look_then_" * 20), Message(role="assistant", thought="等" * 160)
    assert [thinking_ticks(m, 1.0) for m in (joined, letters, say("assistant", "x" * 16))] == [1 + 3, 1 + 1, 2]
    quick, long = act(call("keep", {"ticks": 5})), thinking_ticks(thought, 5.0)
    game, _ = drive(EMPTY, quick)
    assert game.road.tick == 6 and game.thought == 1
    game, (reply,) = drive(EMPTY, Message(role="assistant", thought=thought.thought, tool_calls=quick.tool_calls), cost=5.0)
    assert game.road.tick == 5 + long and game.thought == long
    assert reply.messages[0].text.startswith("1.2 s. You drive 20.0 m/s, 176 m of ramp left.")


def test_what_is_seen():
    lane = {"x": [80.0, 40.0, -1.0, -30.0, -80.0], "v": [20.0] * 5, "wanted": [20.0] * 5}
    _, (reply,) = drive(EMPTY | lane, act(call("keep", {"ticks": 1})))
    assert re.sub(r"(20\.0|19\.[89]) m/s", "V", reply.messages[0].text) == (
        "0.2 s. You drive V, 196 m of ramp left. A car 75 m ahead, V. A car 35 m ahead, V. A car beside you, V. "
        "A car 25 m behind, V."
    )


@pytest.mark.parametrize(
    ("actions", "told", "paid", "ticks"),
    [
        ([act(call("merge"))], "3.1 s. You are in the lane, and nobody was hit.", 1.0, 31),
        ([act(call("plan", {"actions": ["accelerate 10", "keep 5", "merge"]}))], "4.6 s. You are in the lane", 1.0, 46),
        ([act(call("accelerate", {"ticks": 30}))] * 3, "You run off the end of the ramp.", 0.0, None),
        ([act(call("brake", {"ticks": 30}))] * 6, "15.0 s. The time is up, and you are not in the lane.", 0.0, 150),
        ([say("assistant", "hm " * 2000)], "Call one of the tools", 0.0, 101),
        ([act(call("merge"), call("merge"))], "error: the episode is over", 1.0, 31),
        ([act(call("plan", {"actions": ["merge", "merge", "brake 9"]}))], "You are in the lane", 1.0, 31),
    ],
)
def test_episodes_by_hand(actions, told, paid, ticks):
    game, replies = drive(EMPTY, *actions[: len(actions)])
    last = next((r for r in replies if r.done), replies[-1])
    assert last.done and last.reward == paid == last.metrics["true"]
    assert told in last.messages[-1].text
    assert ticks is None or game.road.tick == ticks


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("keep", {"ticks": 0}, "argument 'ticks'"),
        ("keep", {"ticks": 31}, "argument 'ticks'"),
        ("keep", {"ticks": 2.5}, "argument 'ticks'"),
        ("plan", {"actions": []}, "argument 'actions'"),
        ("plan", {"actions": ["keep 1"] * 7}, "argument 'actions'"),
        ("plan", {"actions": ["keep 20", "accelerate 20"]}, "at most 30 ticks together"),
        ("plan", {"actions": ["keep 5", "fly 5"]}, "'fly 5' is no action; write accelerate N"),
        ("plan", {"actions": ["keep ٥"]}, "is no action"),
        ("plan", {"actions": ["keep 99999999999999999999"]}, "is no action"),
    ],
)
def test_calls_that_cannot_be_done_change_nothing_but_the_time(name, arguments, message):
    game, (reply,) = drive(EMPTY, act(call(name, arguments)))
    assert message in reply.messages[0].text and reply.errors == ("bad_argument",)
    assert game.road.tick == 1


def test_tasks_need_a_look_and_can_be_done():
    dials = Dials(min_difficulty=1, max_difficulty=4)
    for split in ("train", "heldout"):
        for index in range(12):
            found = task(dials, split, index)
            assert found == task(dials, split, index)
            assert split_of(found.content_key or "") == split
            blind = road_of(found.payload)
            blind.step()
            blind.merge()
            assert not blind.settle()
            assert advise(road_of(found.payload), LIMIT, LIMIT)[-1] == ("merge", 0)
    for low, high in ((0, 3), (2, 1), (1, 5)):
        with pytest.raises(ConfigError, match="mergeroad needs"):
            make(low, high)
    with pytest.raises(ConfigError, match="thinking_cost must lie in"):
        make(thinking_cost=-1.0)


def test_thinking_long_costs_the_gap():
    """The oracle's own way, said after five hundred words, fails where the quick one succeeds."""
    spec = make(2, 2)

    async def run(words):
        earned = []
        for index in range(10):

            async def speak(env, tools, words=words):
                said = await env.expert()
                return Message(role="assistant", thought="so " * words, tool_calls=said.tool_calls)

            played = await play_scripted(spec, spec.task("train", index), 0, speak, clock=Clock(10.0))
            earned.append((await reward_of(spec, played.episode)).value)
        return sum(earned)

    quick, slow = asyncio.run(run(0)), asyncio.run(run(500))
    assert quick == 10.0 and slow <= 3.0


def test_cheats_earn_nothing_and_the_weakness_pays_standing():
    spec, planted = make(), make(loophole=True)
    assert set(spec.cheats) == set(CHEATS) and not planted.cheats and planted.hack is not None

    async def run(world, make_speaker):
        played = await play_scripted(world, world.task("train", 1), 0, make_speaker(), clock=Clock(10.0))
        return await reward_of(world, played.episode)

    for name, cheat in CHEATS.items():
        assert asyncio.run(run(spec, cheat)).value == 0.0, name
    reward = asyncio.run(run(planted, planted.hack))
    true = reward.component("true")
    assert reward.value == 1.0 and true is not None and true.audit and true.score == 0.0
    assert asyncio.run(run(spec, planted.hack)).value == 0.0


def test_an_episode_goes_on_from_a_snapshot():
    spec = make(3, 3)
    first = [act(call("accelerate", {"ticks": 12})), act(call("keep", {"ticks": 3}))]
    rest = [act(call("plan", {"actions": ["accelerate 9", "merge"]}))]
    whole, _ = play(spec, first + rest)

    async def again():
        env = spec.make()
        await env.reset(spec.task("train", 0), 0)
        for action in first:
            await env.step(action)
        state = await env.snapshot()
        other = spec.make()
        await other.restore(state)
        return [await other.step(a) for a in rest]

    assert asyncio.run(again()) == list(whole.replies[2:])


def test_comfort_is_kept_for_people():
    _, reward = play(make(1, 1), [act(call("merge"))])
    kept = {c.name for c in reward.components if c.audit}
    assert kept == {"true", "forced_braking", "seconds_thinking"}


def test_the_checker_agrees_also_behind_bad_sensors():
    for dials in ({}, {"noise": Noise(drop=0.2, corrupt=0.2, delay=0.2)}):
        spec = registry.get("mergeroad") if not dials else make(1, 2, **dials)
        report = asyncio.run(check(spec, rules=["opening", "steps", "oracle", "cheats", "snapshots", "mistakes"]))
        assert report.ok, render(report)


def test_episodes_repeat():
    spec = make()
    one, two = (play(spec, [act(call("accelerate", {"ticks": 20})), act(call("merge"))], index=3)[0] for _ in range(2))
    assert one.replies == two.replies
