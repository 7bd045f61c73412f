"""Advantages of the published estimators: worked numbers, invariances, and what they estimate, by enumeration."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.credit.baselines.batchwide import by_group, deviation, gdpo, gdpo_tokens, gpg, lite_ppo, z_scores
from phronesis.credit.baselines.cells import by_cell, hierarchical
from phronesis.credit.baselines.group import (
    BestOnly,
    GroupMean,
    GroupStandard,
    MaxRL,
    best_only,
    dr_grpo,
    leave_one_out,
    max_rl,
)
from phronesis.credit.baselines.lengths import Lengths, opo, penalised
from phronesis.credit.baselines.optimal import energies, optimal_token, otb
from phronesis.credit.baselines.remax import remax
from phronesis.credit.baselines.returns import reward_to_go
from phronesis.credit.baselines.role_baselines import rae
from phronesis.credit.baselines.whitening import reinforce_pp, whiten
from phronesis.credit.enumeration import ESTIMATORS, estimator, expected_gradient
from phronesis.data.curriculum import keep_probability
from phronesis.errors import ConfigError, GroupTooSmall, UnknownName
from phronesis.train.selection import is_fresh, repair_group

NAN, INF = math.nan, math.inf
rewards = st.lists(st.floats(-5, 5), min_size=2, max_size=8)
ragged = st.lists(st.lists(st.floats(-5, 5), max_size=4), min_size=1, max_size=5)


def flat(rows):
    return [x for row in rows for x in row]


# ---- one group


def test_maxrl():
    assert max_rl([1, 0, 0, 0]) == pytest.approx([3, -1, -1, -1])
    assert max_rl([1, 1, 0, 0, 0]) == pytest.approx([1.5, 1.5, -1, -1, -1])
    assert max_rl([0, 0]) == max_rl([1, 1]) == (0, 0) == max_rl([-3, 1])
    assert MaxRL(singleton="zero").advantages([3.0]) == (0.0,)
    with pytest.raises(GroupTooSmall):
        MaxRL().advantages([3.0])


@given(st.lists(st.floats(0.1, 5), min_size=2, max_size=8), st.floats(0.1, 9))
def test_maxrl_ignores_the_scale_but_not_the_origin(values, factor):
    assert max_rl([factor * v for v in values]) == pytest.approx(max_rl(values), abs=1e-9)
    assert max_rl([1.0, 2.0]) != pytest.approx(max_rl([2.0, 3.0]))


def test_best_only():
    assert best_only([1, 0.5, 0]) == pytest.approx([0.999998, 0, 0], abs=1e-6)
    assert best_only([0.2, 0.9, 0.6, 0.9001]) == pytest.approx([0, 0, 0, 0.0003014875930286151])
    assert best_only([1, 1, 0]) == best_only([2, 2, 2]) == (0, 0, 0)
    with pytest.raises(ConfigError, match="eps"):
        BestOnly(eps=0)


def test_opo():
    assert opo([1, 0], [2, 4]) == (pytest.approx(1 / 3), pytest.approx((2 / 3, -1 / 3)))
    assert opo([1, 0.5, 0], [3, 1, 4]) == (pytest.approx(0.4375), pytest.approx((0.5625, 0.0625, -0.4375)))
    assert opo([0.3] * 3, [3, 1, 7]).advantages == (0, 0, 0) and opo([0.3], [5]) == (0.3, (0,))
    assert opo([], []) == (0, ()) and opo([1, 0], [0, 0]).baseline == 0.5


@given(rewards, st.integers(1, 9))
def test_opo_of_equal_lengths_is_dr_grpo(values, length):
    assert opo(values, [length] * len(values)).advantages == pytest.approx(dr_grpo(values), abs=1e-9)


@given(rewards, st.floats(-3, 3), st.data())
def test_opo_and_the_best_do_not_see_a_constant(values, constant, data):
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=len(values), max_size=len(values)))
    shifted = [v + constant for v in values]
    assert opo(shifted, lengths).advantages == pytest.approx(opo(values, lengths).advantages, abs=1e-9)
    best = BestOnly(eps=1.0)  # where the spread is tiny a small eps magnifies the rounding of the shift
    assert best.advantages(shifted) == pytest.approx(best.advantages(values), abs=1e-6) or len(set(values)) != len(set(shifted))


def test_length_penalty():
    lengths = [Lengths(100, 10, 1), Lengths(200, 40, 2), Lengths(50, 40, 4)]
    assert penalised([1, 1, 0], lengths, Lengths(0.1, 0, 0.05)) == pytest.approx([0.35, 37 / 120, -79 / 120])
    assert penalised([1, 1, 0], lengths, Lengths(0, 0, 0)) == pytest.approx(dr_grpo([1, 1, 0]))
    assert penalised([0, 0, 0], lengths, Lengths(1, 1, 1)) == (0, 0, 0), "nobody succeeded: length is not punished"
    assert penalised([1.0], lengths[:1], Lengths(1, 1, 1)) == (0,) and penalised([], [], Lengths(1, 1, 1)) == ()
    # outputs 0 and 0: the maximum counts as 1, so nothing is divided by 0
    assert penalised([1, 0], [Lengths(0, 0, 0)] * 2, Lengths(1, 1, 1)) == pytest.approx([0.5, -0.5])


def test_remax():
    assert remax([0.4, 1.0, 0.0], [0.5, 0.5, 0.25]) == pytest.approx([-0.1, 0.5, -0.25])


# ---- tokens


def test_reward_to_go():
    assert reward_to_go([0, 0, 1], 0.9) == pytest.approx([0.81, 0.9, 1])
    assert reward_to_go([0.5, 0, -1, 2], 0.5) == (0.5, 0, 0, 2)
    assert reward_to_go([0, NAN, INF, 1], 0.5, [True, False, False, True]) == (0.5, 0, 0, 1)
    assert reward_to_go([], 0.5) == () and reward_to_go([NAN], 1, [False]) == (0,)


def test_whiten():
    found = whiten([[1.0, NAN, 3.0], [5.0, 2.0, INF]], [[True, False, True], [True, True, False]])
    assert flat(found) == pytest.approx([-1.0246950748, 0, 0.1463850107, 1.3174650962, -0.4391550321, 0])
    assert whiten([[0.1, 0.1], [0.1]]) == [[0, 0], [0]] and whiten([[4.0], []]) == [[0], []]
    assert whiten([]) == [] and whiten([[NAN]], [[False]]) == [[0]]


@given(ragged, st.randoms(use_true_random=False))
def test_whiten_has_mean_zero_and_ignores_order_and_padding(rows, random):
    plain = whiten(rows)
    assert math.fsum(flat(plain)) == pytest.approx(0, abs=1e-6)
    order = list(range(len(rows)))
    random.shuffle(order)
    assert flat(whiten([rows[i] for i in order])) == pytest.approx(flat(plain[i] for i in order))
    padded = [[*row, NAN, -INF, 1e9] for row in rows]
    mask = [[True] * len(row) + [False] * 3 for row in rows]
    assert [row[:-3] for row in whiten(padded, mask)] == plain


def test_reinforce_pp():
    found = reinforce_pp([1, 0, 0.5], [[0, 0], [0], [0, 0]])
    assert flat(found) == pytest.approx([0.956183, 0.956183, -1.434274, -0.239046, -0.239046], abs=1e-6)
    found = reinforce_pp([1, -1], [[0.1, -0.2, 0.3], [0, 0.4]], beta=0.05)
    assert flat(found) == pytest.approx([0.7302929745, 0.7348345975, 0.7257513515, -1.0954394617, -1.0954394617])


def test_reinforce_pp_puts_the_score_on_the_last_sampled_token():
    mask = [[True, False, True, False], [True, True]]
    found = reinforce_pp([1, 0], [[0, NAN, 0, INF], [0, 0]], mask, gamma=0.5)
    # returns .5, 1 and 0, 0: mean .375, variance .22917
    assert found[0][1] == found[0][3] == 0
    assert flat(found) == pytest.approx([0.261116, 0, 1.305582, 0, -0.783349, -0.783349], abs=1e-6)
    assert reinforce_pp([9, 1, 0], [[NAN], [0], [0]], [[False], [True], [True]])[0] == [0], "a masked sequence counts nowhere"


def test_the_baseline_form_of_reinforce_pp():
    centred = by_group([1, 0, 1, 1], [0, 0, 1, 1], GroupMean())
    assert flat(whiten([[a] for a in centred])) == pytest.approx([1.224745, -1.224745, 0, 0], abs=1e-6)


def test_optimal_token_baseline():
    pi, squares = [[0.5, 0.8], [0.5, 0.2]], [[0.5, 0.68]] * 2
    assert energies(pi[0], squares[0]) == pytest.approx([0.5, 0.58])
    assert energies(pi[1], squares[1]) == pytest.approx([0.5, 1.78])
    assert energies(pi[1], squares[1], [2, 0.5]) == pytest.approx([2, 2 + 0.25 * 1.28])
    found = otb([[0, 1], [0, 0]], pi, squares)
    assert flat(found) == pytest.approx([0.5, 0.754237, -0.5, -0.245763], abs=1e-6)


def test_optimal_token_baseline_of_ragged_traces():
    pi, squares = [[0.6, 0.3, 0.9], [0.5, 0.25], [0.7]], [[0.5, 0.4, 0.82], [0.5, 0.3], [0.58]]
    found = otb([[0, 0, 1], [0, 0.5], [1]], pi, squares)
    assert found[0] == pytest.approx([0.2551020484, 0.2708333364, 1.0])
    assert found[1] == pytest.approx([-0.2448979516, -0.2291666635])
    assert found[2] == pytest.approx([0.2551020484])
    assert optimal_token([[1, 1]], [[0.5, 0.6]]) == [[1, 1]], "a group of one has nothing to subtract"
    assert optimal_token([], []) == [] and optimal_token([[], []], [[], []]) == [[], []]


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.1, 2)), min_size=2, max_size=6), st.floats(-1, 1))
def test_no_other_baseline_weighs_less(pairs, shift):
    """It minimises the sum of energy times squared advantage at every token."""
    returns, energy = [[g] for g, _ in pairs], [[w] for _, w in pairs]
    best = [row[0] for row in optimal_token(returns, energy)]
    weigh = lambda advantages: math.fsum(w * a * a for (_, w), a in zip(pairs, advantages, strict=True))  # noqa: E731
    assert weigh(best) <= weigh([a + shift for a in best]) + 1e-6


# ---- the whole step


def test_gpg():
    assert gpg([1, 0, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 2, 2, 2]) == (3.0, pytest.approx([1, -2, 1, 0, 0, 0, 0, 0, 0]))
    assert gpg([1, 1, 0], [0, 0, 1]) == (0.0, [0, 0, 0]) and gpg([], []) == (0.0, [])


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=4))
def test_gpg_makes_a_mean_over_the_step_one_over_the_live_groups(values):
    found = gpg(values, [0, 0, 1, 1])
    live = [i for i in range(4) if values[i - i % 2] != values[i - i % 2 + 1]]
    if live:
        assert [a / 4 for a in found.advantages] == pytest.approx(
            [dr_grpo(values[:2] if i < 2 else values[2:])[i % 2] / len(live) for i in range(4)]
        )


def test_lite_ppo():
    assert lite_ppo([1, 0, 1, 1], [0, 0, 1, 1]) == pytest.approx([1, -1, 0, 0], abs=1e-5)
    assert lite_ppo([1, 1], [0, 0]) == [0, 0] and lite_ppo([], []) == []
    # deviation of (1, 0, 0, 3) is 1.414214
    assert lite_ppo([1, 0, 0, 3], [0, 0, 1, 1]) == pytest.approx([0.353553, -0.353553, -1.06066, 1.06066], abs=1e-5)


def test_gdpo():
    found = gdpo([[1, 0, 0], [1, 1, 0]], [0, 0, 0], eps=1e-4)
    assert found.summed == pytest.approx([1.73175, 0, -1.73175], abs=1e-5)
    found = gdpo([[1, 0, 1, 0], [0.2, 0.8, 0.5, 0.5]], [0] * 4, [1, 0.5])
    assert found.advantages == pytest.approx([0.3442583004, -0.3442583004, 1.1753646885, -1.1753646885])
    # summing first would not tell (1, 0) from (0, 1); normalising first does where the dimensions differ in spread
    assert len(set(gdpo([[1, 0, 0, 0], [0, 1, 1, 0]], [0] * 4).advantages)) == 3
    assert gdpo([[1, 1], [0, 0]], [0, 0]).advantages == [0, 0] and gdpo([], []).advantages == []


def test_gdpo_over_tokens():
    # values 1, -1, -1, -1: mean -.5, Bessel variance 1
    assert flat(gdpo_tokens([1, -1], [1, 3])) == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert gdpo_tokens([1, 1], [1, 0]) == [[0], []]


def test_z_scores():
    assert z_scores([1, 2, 3]) == pytest.approx([-1, 0, 1], abs=1e-5)
    assert z_scores([4]) == [0] == z_scores([4, 4])[:1] and deviation([1, 3]) == pytest.approx(math.sqrt(2))


def test_cells():
    cells = ["ded-solve", "ind-propose", "ded-solve", "ind-propose", "ded-solve", "abd-solve"]
    found = by_cell([1, 0.2, 0, 0.6, 0, 1], cells)
    assert found == pytest.approx([1.1546985, -0.7071043, -0.5773492, 0.7071043, -0.5773492, 0.0], abs=1e-6)


def test_hierarchy():
    found = hierarchical([[1, 0, 0, 1], [1, 1, 0, 1], [1]], [0.5, 0.75, 0.25])
    assert found.solver == [[0.5, -0.5, -0.5, 0.5], [0.25, 0.25, -0.75, 0.25], [0]]
    assert found.proposer == [0, 0.25, -0.25]


def test_role_baselines():
    found = rae(["a", "a", "a"], [1, 1, 0])
    assert found.advantages == pytest.approx([1, 0.95, -0.0975]) and found.baselines["a"] == pytest.approx(0.092625)
    found = rae(["p1", "p2", "p1", "p2", "p1"], [1, -1, -1, 1, 1], decay=0.9)
    assert found.advantages == pytest.approx([1, -1, -1.1, 1.1, 1.01])
    assert found.baselines == pytest.approx({"p1": 0.091, "p2": 0.01})
    assert rae(["a"], [1], baselines={"a": 0.5, "b": 2.0}) == ([0.5], pytest.approx({"a": 0.525, "b": 2.0}))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(-5, 5)), max_size=12), st.randoms(use_true_random=False))
def test_groups_may_be_mixed_in_any_order(pairs, random):
    order = list(range(len(pairs)))
    random.shuffle(order)
    mixed = [pairs[i] for i in order]
    for rule in (
        lambda v, g: gpg(v, g).advantages,
        lambda v, g: lite_ppo(v, g, eps=1.0),
        lambda v, g: gdpo([v], g, eps=1.0).summed,
    ):
        plain = rule(*_columns(pairs))
        assert rule(*_columns(mixed)) == pytest.approx([plain[i] for i in order], abs=1e-9)


def _columns(pairs):
    return [v for _, v in pairs], [g for g, _ in pairs]


# ---- what is kept


def test_keep_probability():
    assert keep_probability(16, 0.9) == pytest.approx(0.814698, abs=1e-6)
    assert keep_probability(8, 0.25) == pytest.approx(0.899871826171875)
    assert keep_probability(8, 0.0) == keep_probability(8, 1.0) == keep_probability(1, 0.5) == 0
    mixed = sum(0 < sum(a) < 5 for a in product((0, 1), repeat=5)) / 2**5
    assert keep_probability(5, 0.5) == pytest.approx(mixed)


def test_freshness_goes_by_the_oldest_token():
    assert [is_fresh(v, 5, 3) for v in ([3, 4], [1, 2, 5], [5], [0], [2], [])] == [True, False, True, False, True, True]


def test_group_repair():
    assert repair_group("abcde", 8) == list("abcdeabc") and repair_group("abcd", 8) is None
    assert repair_group("abcd", 7) == list("abcdabc") and repair_group("abc", 3) == list("abc")
    assert repair_group("", 1) is None
    with pytest.raises(ConfigError):
        repair_group("a", 0)


# ---- what they estimate


def by_enumeration(rule, n, p):
    """Over all 2^n groups, one by one."""
    total = 0.0
    for actions in product((0, 1), repeat=n):
        probability = p ** sum(actions) * (1 - p) ** (n - sum(actions))
        advantages = rule([float(a) for a in actions])
        total += probability * sum(a * (x - p) for a, x in zip(advantages, actions, strict=True)) / n
    return total


@pytest.mark.parametrize("name", ESTIMATORS)
def test_counting_groups_of_equal_outcome_is_enumerating_all(name):
    for n, p in ((2, 0.3), (3, 0.4), (5, 0.9)):
        assert expected_gradient(estimator(name), n, p) == pytest.approx(by_enumeration(estimator(name), n, p), abs=1e-12)


TABLE = {
    "reinforce": [0.09, 0.21, 0.25, 0.09],
    "rloo": [0.09, 0.21, 0.25, 0.09],
    "drgrpo": [0.0675, 0.1575, 0.1875, 0.0675],
    "opo": [0.0675, 0.1575, 0.1875, 0.0675],
    "grpo": [0.131744, 0.297275, 0.349879, 0.131744],
    "lite-ppo": [0.131744, 0.297275, 0.349879, 0.131744],
    "rfpp-baseline": [0.131744, 0.297275, 0.349879, 0.131744],
    "gpg": [0.0675, 0.1575, 0.1875, 0.0675],
    "maxrl": [0.2439, 0.4599, 0.4375, 0.0999],
}


@pytest.mark.parametrize("name", TABLE)
def test_expected_gradients_of_groups_of_four(name):
    found = [expected_gradient(estimator(name), 4, p) for p in (0.1, 0.3, 0.5, 0.9)]
    assert found == pytest.approx(TABLE[name], abs=1e-5)


@given(st.integers(2, 9), st.floats(0.01, 0.99))
def test_closed_forms(n, p):
    true = p * (1 - p)
    assert expected_gradient(leave_one_out, n, p) == pytest.approx(true)
    assert expected_gradient(dr_grpo, n, p) == pytest.approx((n - 1) / n * true)
    assert expected_gradient(max_rl, n, p) == pytest.approx((1 - p) * (1 - (1 - p) ** (n - 1)))
    # only the success of a group with exactly one is credited, 1 over its deviation 1/sqrt(n)
    single = n * p * (1 - p) ** (n - 1) * math.sqrt(n) * (1 - p) / n
    assert expected_gradient(lambda r: best_only(r, eps=1e-12), n, p) == pytest.approx(single)


COMPARING = sorted(set(ESTIMATORS) - {"reinforce"})


@pytest.mark.parametrize("name", COMPARING)
@given(
    values=st.lists(st.sampled_from([0.0, 0.25, 1.0, 2.0]), min_size=2, max_size=7), random=st.randoms(use_true_random=False)
)
def test_members_are_treated_alike(name, values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    plain = estimator(name)(values)
    assert estimator(name)([values[i] for i in order]) == pytest.approx([plain[i] for i in order], abs=1e-9)


@pytest.mark.parametrize("name", COMPARING)
def test_equal_returns_and_a_lone_one_say_nothing(name):
    for values in ([0.1] * 3, [0.3] * 7, [-2.0] * 2, [1e-9] * 4, [0.7]):
        assert not any(estimator(name)(values))


@pytest.mark.parametrize("name", sorted(set(COMPARING) - {"maxrl"}))
@given(
    values=st.lists(st.sampled_from([0.0, 0.25, 1.0, 2.0]), min_size=2, max_size=7), constant=st.sampled_from([-3.0, 0.5, 8.0])
)
def test_a_constant_changes_no_comparison(name, values, constant):
    rule = estimator(name)
    assert rule([v + constant for v in values]) == pytest.approx(rule(values), abs=1e-9)


def test_grpo_weighs_difficulties_differently():
    ratios = [expected_gradient(estimator("grpo"), 4, p) / (p * (1 - p)) for p in (0.1, 0.3, 0.5, 0.9)]
    assert ratios == pytest.approx([1.4638, 1.4156, 1.3995, 1.4638], abs=1e-3)


def test_a_greedy_baseline_leaves_the_gradient_unbiased():
    """The likeliest outcome's reward is one number, whatever was drawn."""
    for p, greedy in ((0.3, 0.0), (0.7, 1.0)):
        assert expected_gradient(lambda r, g=greedy: remax(r, [g] * len(r)), 3, p) == pytest.approx(p * (1 - p))


def test_a_running_baseline_leaves_the_gradient_unbiased():
    """The first draw meets a given baseline; the others meet one that does not contain themselves."""
    rule = lambda r: rae(["a"] * len(r), r, decay=0.5, baselines={"a": 0.4}).advantages  # noqa: E731
    assert by_enumeration(rule, 3, 0.3) == pytest.approx(0.21)


def test_an_estimator_that_does_not_exist():
    assert estimator("Dr.GRPO") is ESTIMATORS["drgrpo"]
    with pytest.raises(UnknownName, match="rloo"):
        estimator("rlo")


def test_the_standard_form_never_divides_by_nothing():
    assert GroupStandard().advantages([0.1] * 5) == (0,) * 5
    assert by_group([1.0], ["a"], GroupStandard(singleton="raw")) == [1.0]
