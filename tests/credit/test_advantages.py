"""Advantages: worked numbers, invariances, and the gradient they estimate, by enumeration."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.credit import GroupMean, GroupStandard, LeaveOneOut, NoBaseline, dr_grpo, grpo, leave_one_out
from phronesis.errors import ConfigError, GroupTooSmall

rewards = st.lists(st.floats(-5, 5), min_size=2, max_size=8)


def test_worked_numbers():
    assert leave_one_out([1, 0, 0, 0]) == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert leave_one_out([2, 0, 1, 1]) == pytest.approx([4 / 3, -4 / 3, 0, 0])
    assert dr_grpo([1, 0, 0, 0]) == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert dr_grpo([2, -1, 0]) == pytest.approx([5 / 3, -4 / 3, -1 / 3])
    assert grpo([1, 0, 0, 0]) == pytest.approx([1.499997, -0.499999, -0.499999, -0.499999], abs=1e-6)
    assert grpo([1, 0, 0, 0], population=True) == pytest.approx([1.732047, -0.577349, -0.577349, -0.577349], abs=1e-6)
    expected = [0.0, -0.8528025017862331, -0.42640125089311653, -0.42640125089311653, 1.7056050035724661]
    assert grpo([3, 1, 2, 2, 7]) == pytest.approx(expected)


@pytest.mark.parametrize("baseline", [LeaveOneOut(), GroupMean(), GroupStandard(), GroupStandard(population=True)])
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, -3.7])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_a_constant_group_is_exactly_zero(baseline, value, n):
    assert baseline.advantages([value] * n) == (0.0,) * n


@pytest.mark.parametrize("kind", [LeaveOneOut, GroupMean, GroupStandard])
def test_a_group_of_one(kind):
    with pytest.raises(GroupTooSmall, match="singleton"):
        kind().advantages([0.5])
    assert kind(singleton="zero").advantages([0.5]) == (0.0,)
    assert kind(singleton="raw").advantages([0.5]) == (0.5,)
    assert kind().advantages([0.5], "zero") == (0.0,)
    assert issubclass(GroupTooSmall, ConfigError)


def test_no_baseline_is_the_return():
    assert NoBaseline().advantages([0.5, -1.0]) == (0.5, -1.0)


@given(rewards, st.floats(-3, 3))
def test_adding_a_constant_changes_nothing(values, constant):
    for rule in (leave_one_out, dr_grpo):
        assert rule([v + constant for v in values]) == pytest.approx(rule(values), abs=1e-9)


@given(rewards)
def test_advantages_sum_to_zero_and_rloo_is_the_siblings_mean(values):
    n = len(values)
    for rule in (leave_one_out, dr_grpo, grpo):
        assert sum(rule(values)) == pytest.approx(0, abs=1e-6)
    assert leave_one_out(values) == pytest.approx([v - (sum(values) - v) / (n - 1) for v in values], abs=1e-9)


@given(st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=3, max_size=8).filter(lambda v: len(set(v)) > 1))
def test_scaling(values):
    doubled = [2 * v for v in values]
    assert grpo(doubled) == pytest.approx(grpo(values), rel=1e-4)
    assert leave_one_out(doubled) == pytest.approx([2 * a for a in leave_one_out(values)])


@given(rewards, st.randoms(use_true_random=False))
def test_order_does_not_matter(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    for rule in (leave_one_out, dr_grpo, grpo):
        plain = rule(values)
        assert rule([values[i] for i in order]) == pytest.approx([plain[i] for i in order])


def expected_gradient(rule, n, p):
    """Expectation over all groups of the mean of A_i * d log p(a_i) / d logit, for a coin with reward = outcome."""
    total = 0.0
    for actions in product((0, 1), repeat=n):
        probability = p ** sum(actions) * (1 - p) ** (n - sum(actions))
        advantages = rule([float(a) for a in actions])
        total += probability * sum(a * (x - p) for a, x in zip(advantages, actions, strict=True)) / n
    return total


@pytest.mark.parametrize(
    ("p", "rloo", "centred", "standard"),
    [
        (0.1, 0.09, 0.0675, 0.131744),
        (0.3, 0.21, 0.1575, 0.297275),
        (0.5, 0.25, 0.1875, 0.349879),
        (0.9, 0.09, 0.0675, 0.131744),
    ],
)
def test_enumerated_bandit_gradient(p, rloo, centred, standard):
    assert expected_gradient(leave_one_out, 4, p) == pytest.approx(rloo) == pytest.approx(p * (1 - p))
    assert expected_gradient(dr_grpo, 4, p) == pytest.approx(centred)
    assert expected_gradient(grpo, 4, p) == pytest.approx(standard, abs=1e-5)


def test_enumerated_bandit_gradient_of_pairs_and_triples():
    assert expected_gradient(leave_one_out, 2, 0.3) == pytest.approx(0.21)
    assert expected_gradient(dr_grpo, 2, 0.3) == pytest.approx(0.105)
    assert expected_gradient(leave_one_out, 3, 0.4) == pytest.approx(0.24)
