"""Curriculum formulas against worked numbers and exact expectations; sources that follow them, checkpointed and resumed."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.data.bandits import dump_scores, sec_value, softmax
from phronesis.data.curriculum import learnability, learnability_from, screening_probability, worth_playing
from phronesis.data.families import FamilyTasks, RunningValue, UpperConfidence
from phronesis.data.order import DumpOrder, Listed, PassRateWindow, SecOrder, level_of
from phronesis.data.pass_rates import PassRateTasks
from phronesis.data.sources import SpecTasks
from phronesis.env import EnvSpec, TaskSource
from phronesis.envs import probes
from phronesis.envs.ledger import make
from phronesis.errors import CheckpointError, ConfigError
from phronesis.records import Component, Episode, EpisodeGroup, Failure, Reward, Stop, Task
from phronesis.rollout.screening import screened

COPY = probes.copy(letters=5)


def levels(count: int = 12, size: int | None = 12) -> EnvSpec:
    """Tasks of difficulties 1, 2, 3, 1, 2, 3, ..."""

    def task(split: str, index: int) -> Task:
        return Task(id=f"{split}-{index}", env="levels", difficulty=float(1 + index % 3))

    return replace(COPY, name="levels", task=task, sizes={"train": size, "heldout": size})


def played(task: Task, *rewards: float | None) -> EpisodeGroup:
    """A group with these rewards; None is a fault."""
    found: list[Episode] = []
    for i, r in enumerate(rewards):
        reward = None if r is None else Reward(components=(Component(name="r", score=r),))
        failure = Failure(where="env.step", kind="E", message="") if r is None else None
        stop = Stop.env_fault if r is None else Stop.completed
        found.append(Episode(id=f"{i}", task=task, seed=0, stop=stop, reward=reward, failure=failure))
    return EpisodeGroup(id="g", task=task, episodes=tuple(found))


def test_learnability_worked_numbers():
    assert [learnability(p) for p in (0.1, 0.25, 0.5, 0.0, 1.0)] == pytest.approx([0.09, 0.1875, 0.25, 0.0, 0.0])
    assert learnability_from(1, 4) == 0.25 and learnability_from(0, 4) == learnability_from(4, 4) == 0.0
    for bad in ((0, 1), (3, 2), (-1, 2)):
        with pytest.raises(ConfigError, match="n >= 2"):
            learnability_from(*bad)
    with pytest.raises(ConfigError, match="pass rate"):
        learnability(1.1)


@given(st.floats(0, 1), st.integers(2, 12))
def test_the_estimate_of_learnability_is_unbiased(p: float, n: int):
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert math.fsum(q * learnability_from(c, n) for c, q in enumerate(chances)) == pytest.approx(p * (1 - p), abs=1e-9)


def test_screening():
    assert [screening_probability(p) for p in (0.5, 0.9, 0.3)] == pytest.approx([0.875, 0.3438, 0.7518])
    assert [screened(c) for c in range(5)] == [False, True, True, True, False]


def test_a_window_is_left_only_when_the_interval_leaves_it():
    # Wilson's upper end at 0 of n is z² / (n + z²): .324 at 8, .1936 at 16
    assert worth_playing(0, 0) and worth_playing(0, 8) and not worth_playing(0, 16)
    assert worth_playing(8, 8) and not worth_playing(16, 16) and worth_playing(8, 16)
    assert not worth_playing(0, 8, z=1.0) and not worth_playing(0.0, 16.5)
    with pytest.raises(ConfigError, match="low <= high"):
        worth_playing(0, 1, low=0.9, high=0.1)


def test_dump_worked_numbers():
    scores = dump_scores([10, 5, 1], [0.3, 0.6, 0.2])
    assert scores == pytest.approx((1.017725, 1.571805, 1.883215), abs=1e-6)
    assert softmax(scores, 0.1) == pytest.approx((0.000167, 0.042522, 0.957311), abs=1e-6)
    assert dump_scores([4, 4, 0], [0.5, 0.5, 0.0]) == pytest.approx((1.4374912, 1.4374912, 2.0962941), abs=1e-6)
    assert dump_scores([0, 0], [0.0, 0.0]) == (0.0, 0.0) and dump_scores([], []) == softmax([], 1.0) == ()
    with pytest.raises(ConfigError, match="one count"):
        dump_scores([1], [])


def test_sec_worked_numbers():
    values = [0.2, 0.5, 0.0]
    for arm, advantage in ((0, 0.8), (2, 1.0), (0, 0.4)):
        values[arm] = sec_value(values[arm], advantage, alpha=0.5)
    assert values == pytest.approx([0.45, 0.5, 0.5])
    assert softmax(values, 0.4) == pytest.approx((0.306157, 0.346921, 0.346921), abs=1e-6)
    with pytest.raises(ConfigError, match="alpha"):
        sec_value(0, 0, alpha=0)
    with pytest.raises(ConfigError, match="temperature"):
        softmax([1.0], 0.0)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=6), st.floats(0.05, 5), st.floats(-100, 100))
def test_softmax_sums_to_one_and_ignores_a_shift(scores: list[float], temperature: float, shift: float):
    chances = softmax(scores, temperature)
    assert math.fsum(chances) == pytest.approx(1.0)
    assert softmax([s + shift for s in scores], temperature) == pytest.approx(chances, abs=1e-6)


def test_tasks_surely_too_easy_or_too_hard_are_passed_over_and_come_back():
    source = PassRateTasks(SpecTasks(COPY, "train", 0), patience=50)
    assert isinstance(source, TaskSource)
    easy, hard, *others = source.draw(5)
    for _ in range(4):
        source.report(easy, played(easy, *[1.0] * 8))
        source.report(hard, played(hard, *[0.0] * 8, None))
        for task in others:
            source.report(task, played(task, 1.0, 0.0, 1.0, 0.0))
    epochs = [Counter(t.id for t in source.draw(3)) for _ in range(2)]
    assert all(set(e) == {t.id for t in others} for e in epochs) and 3 <= source.skipped <= 4
    # 32 attempts fade by .9 a pass: 0 of 15.3 is still too few to be sure, after 7 passes
    later = Counter(t.id for t in source.draw(30))
    assert later[easy.id] >= 1 and later[hard.id] >= 1 and source.drawn == 41


def test_one_new_attempt_does_not_drown_in_old_ones():
    source = PassRateTasks(SpecTasks(COPY, "train", 0), memory=16)
    (task,) = source.draw(1)
    for _ in range(50):
        source.report(task, played(task, *[0.0] * 8))
    source.report(task, played(task, *[1.0] * 8))
    assert task.id in {t.id for t in source.draw(9)}


def test_when_all_tasks_are_outside_the_next_is_drawn_anyway(caplog):
    source = PassRateTasks(SpecTasks(COPY, "train", 0), patience=7, fade=0.99)
    for task in source.draw(5):
        source.report(task, played(task, *[1.0] * 64))
    with caplog.at_level("INFO"):
        assert len(source.draw(1)) == 1
    assert source.skipped == 7 and "7 tasks in a row" in caplog.text and "passed over 7" in caplog.text


ORDERS = [PassRateWindow(), DumpOrder(), SecOrder(), Listed()]


@pytest.mark.parametrize("order", ORDERS)
def test_a_saved_order_goes_on_where_it_stood(order):
    def go_on(source: TaskSource, first: int, last: int) -> list[str]:
        found: list[str] = []
        for k in range(first, last):
            for task in source.draw(3):
                found.append(task.id)
                hard = level_of(task) == "3"
                source.report(task, played(task, *[0.0 if hard else float((k + i) % 2) for i in range(8)]))
        return found

    whole = order.source(levels(), "train", 3)
    go_on(whole, 0, 10)
    resumed = order.source(levels(), "train", 3)
    resumed.restore(whole.state())
    assert resumed.state() == whole.state()
    assert go_on(resumed, 10, 30) == go_on(whole, 10, 30)
    other = order.source(levels(), "train", 4)
    assert [t.id for t in other.draw(12)] != [t.id for t in order.source(levels(), "train", 3).draw(12)]
    with pytest.raises(CheckpointError, match="is no state"):
        resumed.restore({"nothing": 1})


@pytest.mark.parametrize("order", [DumpOrder(), SecOrder()])
@pytest.mark.parametrize("size", [12, None])
def test_the_level_with_something_to_learn_is_drawn_most(order, size):
    source = order.source(levels(size=size), "train", 0)
    late: Counter[str] = Counter()
    for step in range(60):
        for task in source.draw(4):
            late[level_of(task)] += step >= 20
            mixed = level_of(task) == "2"
            source.report(task, played(task, *([1.0, 0.0, 1.0, 0.0] if mixed else [1.0] * 4)))
    assert late["2"] > 0.6 * sum(late.values()) and len(late) == 3


def test_what_a_bandit_hears():
    heard = UpperConfidence(2, window=3)
    source = FamilyTasks({"1": SpecTasks(COPY, "train", 0), "2": SpecTasks(COPY, "heldout", 0)}, level_of, heard, 0)
    task = Task(id="t", env="x", difficulty=2.0)
    source.report(task, played(task, 1.0, 0.0, None))
    assert heard.counts == [0, 2] and list(heard.recent[1]) == pytest.approx([math.sqrt(0.5)] * 2, abs=1e-5)
    source.report(task, played(task, 1.0, None))
    assert source.unheard == 1 and heard.counts == [0, 2]
    source.report(task, played(task, 1.0, 1.0))
    assert heard.counts == [0, 4] and list(heard.recent[1]) == pytest.approx([math.sqrt(0.5), 0.0, 0.0], abs=1e-5)
    with pytest.raises(ConfigError, match="family 'none'"):
        source.report(Task(id="u", env="x"), played(task, 1.0))
    for bandit in (UpperConfidence(3), RunningValue(1)):
        with pytest.raises(ConfigError, match="families"):
            FamilyTasks({"1": SpecTasks(COPY, "train", 0), "2": SpecTasks(COPY, "train", 0)}, level_of, bandit, 0)
        with pytest.raises(ValueError, match="expected"):
            bandit.restore(type(bandit)(2).state())


def test_orders_refuse_what_cannot_work():
    with pytest.raises(ConfigError, match="unlimited"):
        PassRateWindow().source(make(), "train", 0)
    with pytest.raises(ConfigError, match="shows 0 difficulties"):
        DumpOrder().source(probes.bandit(), "train", 0)
    for wrong in (PassRateWindow(fade=1.0), PassRateWindow(low=0.9)):
        with pytest.raises(ConfigError):
            wrong.source(COPY, "train", 0)
    for wrong in (DumpOrder(window=0), DumpOrder(temperature=0), SecOrder(alpha=0), SecOrder(temperature=0)):
        with pytest.raises(ConfigError, match="needs"):
            wrong.source(levels(), "train", 0)
