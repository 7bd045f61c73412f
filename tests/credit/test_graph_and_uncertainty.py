"""State-graph values, and rules that read the policy's entropy."""

import asyncio
from math import exp, log

import msgspec
import pytest
from credit_groups import episode, group, returns
from hypothesis import given
from hypothesis import strategies as st

from phronesis.credit.baselines.group import GroupMean, NoBaseline
from phronesis.credit.judged.uncertainty import (
    CriticalCredit,
    EMPGCredit,
    SELAURCredit,
    critical,
    empg,
    turn_entropy,
    uncertainty,
)
from phronesis.credit.rule import Settles
from phronesis.credit.turnwise.rewardflow import RewardFlowCredit, graph_values, step_rewards
from phronesis.errors import ConfigError, TrainingError
from phronesis.records import Reply


def assign(rule, g):
    return asyncio.run(rule.assign(g))


def by_turn(credit):
    return [None if rows is None else [row[0] for row in rows] for rows in credit.values]


def states(e, *keys):
    turns = tuple(msgspec.structs.replace(t, reply=Reply(state_key=k)) for t, k in zip(e.turns, keys, strict=True))
    return msgspec.structs.replace(e, turns=turns)


def unsure(e, *rows):
    """The episode with these entropies, one per turn or one per token."""
    full = [row if isinstance(row, tuple) else (row,) * len(t.completion) for t, row in zip(e.turns, rows, strict=True)]
    turns = tuple(msgspec.structs.replace(t, entropies=row) for t, row in zip(e.turns, full, strict=True))
    return msgspec.structs.replace(e, turns=turns)


# State graph


def test_graph_values_worked_example():
    edges = {"a": ["b", "c"], "b": ["d", "a"], "c": ["e"], "e": ["d"], "d": [], "z": ["z"]}
    values = graph_values(edges, {"d": 1.0, "e": 0.3}, 0.9)
    assert values == pytest.approx({"a": 0.81, "b": 0.9, "c": 0.81, "d": 1.0, "e": 0.9, "z": 0.0})
    assert step_rewards(edges, values)["a", "b"] == pytest.approx(0.09)
    assert graph_values({}, {}) == {} and graph_values({"a": ["a"]}, {"a": 1.0}, 1.0) == {"a": 1.0}
    with pytest.raises(TrainingError, match="at least 0"):
        graph_values({"a": []}, {"a": -1.0})


@given(
    st.dictionaries(st.integers(0, 6), st.lists(st.integers(0, 6), max_size=4), max_size=7),
    st.dictionaries(st.integers(0, 6), st.floats(0, 2), max_size=7),
    st.floats(0, 1),
)
def test_graph_values_are_a_fixed_point(edges, rewards, gamma):
    values = graph_values(edges, rewards, gamma)
    for s, v in values.items():
        after = [gamma * values[t] for t in edges.get(s, [])]
        assert v == pytest.approx(max([rewards.get(s, 0.0), *after]))


def test_rewardflow_credits_steps_that_come_nearer():
    a = states(episode([0, 0, 1]), "s1", "s2", "goal")
    b = states(episode([0, 0, 0]), "s1", "s1", "dead")
    found = by_turn(assign(RewardFlowCredit(gamma=0.5), group(a, b)))
    # initial .125, s1 .25, s2 .5, goal 1, dead 0; advantages ±.5.
    assert found[0] == pytest.approx([0.5 + 0.125, 0.5 + 0.25, 0.5 + 0.5])
    assert found[1] == pytest.approx([-0.5 + 0.125, -0.5 + 0.0, -0.5 - 0.25])
    with pytest.raises(ConfigError, match="state_key"):
        assign(RewardFlowCredit(), group(episode([1]), episode([0])))


def test_unknown_states_are_states_of_their_own():
    a = states(episode([0, 1]), "s", None)
    b = states(episode([0, 0]), None, "s")
    found = by_turn(assign(RewardFlowCredit(gamma=0.5, baseline=NoBaseline()), group(a, b)))
    # s is .5 (next to the end of a), the start .25, b's unknown state .25.
    assert found == [pytest.approx([1.25, 1.5]), pytest.approx([0.0, 0.25])]


# EMPG


def test_empg_worked_examples():
    assert empg([[0.2, 0.5, 1.0]], [1.0])[0] == pytest.approx([1.528463, 1.040048, 0.537006], abs=1e-6)
    rows = empg([[0.1, 0.9], [0.4, 0.3, 0.6]], [1.0, -0.5])
    assert rows[0] == pytest.approx([1.520806, 0.545940], abs=1e-5)
    assert rows[1] == pytest.approx([-0.432095, -0.524351, -0.397169], abs=1e-5)
    assert empg([], []) == [] and empg([[], [0.5]], [1.0, 2.0]) == [[], [2.0]]


def test_empg_of_equal_entropies_keeps_the_advantage():
    assert empg([[0.7, 0.7], [0.7]], [1.0, -2.0], zeta=0.0) == [[1.0, 1.0], [-2.0]]


@given(st.lists(st.floats(0, 5), min_size=1, max_size=8), st.floats(0, 3))
def test_empg_weights_have_mean_one(entropies, k):
    assert sum(empg([entropies], [1.0], k=k, zeta=0.0)[0]) == pytest.approx(len(entropies))


def test_empg_settles_over_all_groups():
    one = group(unsure(episode([0, 1]), 0.1, 0.9), unsure(episode([0]), 0.4), name="one")
    two = group(unsure(episode([1]), 0.3), unsure(episode([0]), 0.6), name="two")
    flat = group(unsure(episode([1]), 9.9), unsure(episode([1]), 0.0), name="flat")
    rule = EMPGCredit(baseline=GroupMean())
    assert isinstance(rule, Settles)
    before = [assign(rule, g) for g in (one, two, flat)]
    assert by_turn(before[0]) == [[0.5, 0.5], [-0.5]]
    after = rule.settle([one, two, flat], before)
    rows = empg([[0.1, 0.9], [0.4], [0.3], [0.6]], [0.5, -0.5, 0.5, -0.5])
    assert by_turn(after[0]) == [pytest.approx(rows[0]), pytest.approx(rows[1])]
    assert by_turn(after[1]) == [pytest.approx(rows[2]), pytest.approx(rows[3])]
    # A group without variance stays as it is and does not stretch the range.
    assert after[2] is before[2] and after[2].zero_variance


def test_empg_looks_at_turns_with_sampled_tokens_only():
    """A forced turn has no entropy: it must not become the smallest one, nor the next step of the turn before it."""
    rule = EMPGCredit(baseline=GroupMean())
    whole = unsure(episode([0, 1]), 0.2, 0.8)
    other = unsure(episode([0]), 0.4)
    forced = unsure(episode([0, 0, 1]), 0.2, 0.0, 0.8)
    turns = [msgspec.structs.replace(t, sampled=(k != 1,) * 2) for k, t in enumerate(forced.turns)]
    forced = msgspec.structs.replace(forced, turns=tuple(turns))
    (plain,), (padded,) = (rule.settle([g], [assign(rule, g)]) for g in (group(whole, other), group(forced, other)))
    first, last = by_turn(plain)[0]
    assert by_turn(padded) == [[first, 0.0, last], by_turn(plain)[1]]
    chosen = by_turn(assign(CriticalCredit(share=0.5), group(forced, other)))
    assert chosen == [[0.0, 0.0, 1.0], [-1.0]]


def test_empg_on_a_fork_takes_the_mean_of_the_next_steps():
    row = empg([[0.0, 1.0, 0.5]], [0.0], zeta=1.0, before=[[None, 0, 0]])[0]
    assert row == pytest.approx([(exp(-1.0) + exp(-0.5)) / 2, 0.0, 0.0])


def test_rules_of_entropy_need_entropies():
    rule = EMPGCredit()
    g = returns(1, 0)
    with pytest.raises(ConfigError, match=r"Turn\.entropies"):
        rule.settle([g], [assign(rule, g)])
    with pytest.raises(ConfigError, match=r"Turn\.entropies"):
        assign(CriticalCredit(), g)


def test_entropy_is_that_of_sampled_tokens():
    e = unsure(episode([0], sampled=(True, False, True)), (0.2, 9.0, 0.4))
    assert turn_entropy(e.turns[0]) == pytest.approx(0.3)
    assert turn_entropy(unsure(episode([0], sampled=(False,)), (5.0,)).turns[0]) == 0.0


# Critical actions


def test_critical_steps_worked_example():
    assert critical([0.1, 0.9, 0.5, 0.2], 0.5) == (False, True, True, False)
    assert critical([0.3, 0.3], 0.1) == (True, False) and critical([], 0.5) == ()


def test_only_critical_turns_are_trained():
    g = group(unsure(episode([0, 0, 1]), 0.1, 0.8, 0.2), unsure(episode([0]), 0.0))
    assert by_turn(assign(CriticalCredit(share=0.3), g)) == [[0.0, 1.0, 0.0], [-1.0]]
    assert by_turn(assign(CriticalCredit(share=1.0), g)) == [[1.0, 1.0, 1.0], [-1.0]]


# SELAUR


def test_uncertainty_worked_examples():
    assert uncertainty([0.7, 0.2, 0.1]) == pytest.approx((0.729847, 0.3, 0.5, 0.509949), abs=1e-6)
    assert uncertainty([0.25] * 4) == pytest.approx((1.0, 0.75, 1.0, 2.75 / 3))
    assert (
        uncertainty([1.0, 0.0]) == (0.0, 0.0, 0.0, 0.0) and uncertainty([1.0]) == (0.0,) * 4 and uncertainty([]) == (0.0,) * 4
    )


def test_failures_alone_are_paid_for_doubt():
    g = group(unsure(episode([0, 1]), 3.0, 3.0), unsure(episode([0, 0]), 0.0, log(16)))
    found = by_turn(assign(SELAURCredit(vocabulary=16, weight=0.2, baseline=NoBaseline()), g))
    # The failure's turns are 0 and 1, mean .5.
    assert found == [[1.0, 1.0], pytest.approx([0.1, 0.3])]
    centred = by_turn(assign(SELAURCredit(vocabulary=16, weight=0.2), g))
    assert centred[1] == pytest.approx([0.1 - 0.6, 0.3 - 0.6])


@pytest.mark.parametrize(
    "make",
    [
        lambda: EMPGCredit(k=-1.0),
        lambda: CriticalCredit(share=0.0),
        lambda: SELAURCredit(vocabulary=1),
        lambda: RewardFlowCredit(weight=-1.0),
        lambda: RewardFlowCredit(gamma=1.1),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ConfigError):
        make()
