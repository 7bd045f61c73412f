"""Shares hold whatever happens to a source; a mixture goes on where it stood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.data.mixture import Mixture, Shares
from phronesis.errors import CheckpointError, ConfigError, UnknownName
from phronesis.records import EpisodeGroup, Task


class Counting:
    """A source of numbered tasks, finite where a size is given."""

    def __init__(self, name: str, size: int | None = None):
        self.name, self.size, self.next, self.reports = name, size, 0, []

    def draw(self, n):
        found = []
        while len(found) < n and (self.size is None or self.next < self.size):
            found.append(Task(id=f"{self.name}-{self.next}", env=self.name))
            self.next += 1
        return found

    def report(self, task, group):
        self.reports.append(task.id)

    def state(self):
        return {"next": self.next}

    def restore(self, state):
        self.next = int(state["next"])


def mixture(weights: dict[str, float], may=lambda name: True, **sizes: int) -> Mixture:
    return Mixture({name: Counting(name, sizes.get(name)) for name in weights}, Shares(weights), may)


def names(tasks) -> str:
    return "".join(t.env for t in tasks)


def test_two_to_one_is_spread_evenly():
    assert names(mixture({"a": 2, "b": 1}).draw(9)) == "abaabaaba"


def test_five_to_one_to_one_by_hand():
    """Credits after each pick: the classic example of smooth weighted round robin."""
    assert names(mixture({"a": 5, "b": 1, "c": 1}).draw(7)) == "aabacaa"


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(1, 300))
def test_a_stretch_of_picks_holds_each_share_give_or_take_one(weights, n):
    named = {str(i): w for i, w in enumerate(weights)}
    shares = Shares(named)
    picks = [shares.pick() for _ in range(n)]
    for name, share in shares.weights.items():
        assert abs(picks.count(name) - n * share) < 1.0 + 1e-6


def test_a_source_that_is_closed_owes_nothing_when_it_opens_again():
    """Closed for 60 draws: the others keep 2 : 1 of one another; afterwards no burst makes up for it."""
    closed = {"a"}
    mixed = mixture({"a": 0.5, "b": 0.34, "c": 0.16}, may=lambda name: name not in closed)
    away = names(mixed.draw(50))
    assert (away.count("a"), away.count("b"), away.count("c")) == (0, 34, 16)
    closed.clear()
    back = names(mixed.draw(100))
    assert [back.count(x) for x in "abc"] == [50, 34, 16]
    assert back[:10].count("a") in (5, 6)


def test_nothing_open_gives_nothing_and_is_not_the_end():
    open_now = set()
    mixed = mixture({"a": 1, "b": 1}, may=lambda name: name in open_now)
    assert mixed.draw(3) == [] and not mixed.exhausted
    open_now.add("b")
    assert names(mixed.draw(2)) == "bb"


def test_one_group_finds_out_whether_a_source_works_again():
    """One task of it at each draw while others can be drawn; all that are asked for where nothing else can."""
    away = set("a")
    mixed = Mixture({x: Counting(x) for x in "ab"}, Shares({"a": 3, "b": 1}), probes=lambda name: name in away)
    assert [names(mixed.draw(4)) for _ in range(2)] == ["abbb", "abbb"]
    away.clear()
    assert names(mixed.draw(8)).count("a") == 6
    alone = Mixture({"a": Counting("a")}, Shares({"a": 1}), probes=lambda name: True)
    assert names(alone.draw(3)) == "aaa"


def test_a_source_that_runs_dry_leaves_the_rest_to_the_others():
    mixed = mixture({"a": 1, "b": 1}, a=3)
    assert names(mixed.draw(10)) == "ababab" + "bbbb"
    assert not mixed.exhausted
    dry = mixture({"a": 1, "b": 1}, a=1, b=1)
    assert names(dry.draw(5)) == "ab" and dry.exhausted


def test_a_share_of_zero_is_never_drawn_until_it_is_changed():
    mixed = mixture({"a": 1, "b": 0})
    assert names(mixed.draw(4)) == "aaaa"
    mixed.shares.change({"b": 1})
    assert sorted(names(mixed.draw(4))) == ["a", "a", "b", "b"]


def test_changed_shares_hold_from_then_on():
    mixed = mixture({"a": 1, "b": 1})
    mixed.draw(11)
    mixed.shares.change({"a": 1.5})  # beside b's .5: 3 to 1
    assert mixed.shares.weights == pytest.approx({"a": 0.75, "b": 0.25})
    later = names(mixed.draw(40))
    assert abs(later.count("a") - 30) <= 1


@pytest.mark.parametrize("bad", [{"a": -1}, {"a": float("nan")}, {"a": float("inf")}, {"a": 0.0, "b": 0.0}])
def test_impossible_shares_are_refused(bad):
    with pytest.raises(ConfigError):
        Shares({"a": 1, "b": 1}).change(bad)


def test_a_source_there_is_not_is_named():
    with pytest.raises(UnknownName, match="did you mean 'wiki'"):
        Shares({"wiki": 1, "shell": 1}).change({"wikki": 2})


@given(st.integers(0, 40), st.integers(1, 40))
def test_it_goes_on_where_it_stood(first, then):
    weights = {"a": 3.0, "b": 2.0, "c": 1.7}
    whole = [t.id for t in mixture(weights).draw(first + then)]
    before = mixture(weights)
    start = [t.id for t in before.draw(first)]
    after = mixture(weights)
    after.restore(before.state())
    assert start + [t.id for t in after.draw(then)] == whole
    assert after.drawn == {n: sum(x.startswith(n) for x in whole) for n in weights}


def test_the_state_of_other_sources_is_refused():
    with pytest.raises(CheckpointError, match="mixture of a, b"):
        mixture({"a": 1, "b": 1}).restore({"cursor": 3, "split": "train"})


def test_reports_reach_the_source_of_the_task():
    mixed = mixture({"a": 1, "b": 1})
    first, second = mixed.draw(2)
    mixed.report(second, EpisodeGroup(id="g", task=second, episodes=()))
    assert mixed.sources["b"].reports == [second.id] and mixed.sources["a"].reports == []
    assert first.env == "a"
