"""Trees of attempts: values, siblings, shared beginnings, forced routes, pairs."""

import asyncio
from itertools import product
from math import log, prod

import msgspec
import pytest
from credit_groups import episode, group
from hypothesis import given
from hypothesis import strategies as st

from phronesis.credit.baselines.group import GroupMean
from phronesis.credit.baselines.trajectory import TrajectoryCredit
from phronesis.credit.replays.earl import EARLCredit, ToolGains, earl_advantages, forced_routes, insertion_weights
from phronesis.credit.trees.arpo import ARPOCredit, branching, normalised_entropy, shared_prefix
from phronesis.credit.trees.search import best, puct, search_value, step_pairs
from phronesis.credit.trees.tree import TreeCredit, sibling_advantages, tree_value
from phronesis.errors import ConfigError
from phronesis.records import Component, Reward


def assign(rule, g):
    return asyncio.run(rule.assign(g))


def by_turn(credit):
    return [None if rows is None else [row[-1] for row in rows] for rows in credit.values]


def written(reward, *texts, parents=None, sampled=None, name=None):
    """An episode whose turns wrote these ids; the reward is that of the episode, or one per leaf turn."""
    e = episode([0] * len(texts), name=name)
    turns = tuple(
        msgspec.structs.replace(
            t,
            completion=tuple(ids),
            sampled=tuple(sampled[k]) if sampled else (True,) * len(ids),
            logprobs=(-1.0,) * len(ids),
            parent=parents[k] if parents else t.parent,
        )
        for k, (t, ids) in enumerate(zip(e.turns, texts, strict=True))
    )
    scores = reward if isinstance(reward, dict) else {None: reward}
    parts = tuple(Component(name="r", score=float(s), turn=k) for k, s in scores.items())
    return msgspec.structs.replace(e, turns=turns, reward=Reward(components=parts))


def test_values_and_siblings_worked_examples():
    assert tree_value([[1.0, 0.0, 1.0, 1.0], [0.0]]) == 0.375 and tree_value([]) == 0.0
    assert sibling_advantages([0.5, 1.0], against="siblings") == (-0.25, 0.25)
    assert sibling_advantages([0.5, 1.0], against="siblings", scale=True) == pytest.approx((-0.707105, 0.707105), abs=1e-6)
    assert sibling_advantages([2 / 3, 0, 1]) == pytest.approx((1 / 6, -5 / 6, 2 / 3))
    assert sibling_advantages([3.0]) == (0.0,) and sibling_advantages([]) == ()


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6))
def test_sibling_advantages_add_up_to_nothing(values):
    assert sum(sibling_advantages(values)) == pytest.approx(0, abs=1e-9)
    assert sum(sibling_advantages(values, against="siblings")) == pytest.approx(0, abs=1e-9)


def test_attempts_that_part_later_are_compared_where_they_part():
    # Two first turns; after (1,) one attempt won and one lost, after (2,) both lost.
    g = group(written(1, (1,), (3,)), written(0, (1,), (4,)), written(0, (2,), (5,)), written(0, (2,), (6,)))
    # Worth of the first turns .5 and 0, each drawn twice: .5 - (.5 + 0 + 0) / 3; of the second turns 1 and 0: ±1.
    third, other = pytest.approx(1 / 3), pytest.approx(-1 / 3)
    assert by_turn(assign(TreeCredit(), g)) == [[third, 1.0], [third, -1.0], [other, 0.0], [other, 0.0]]
    assert by_turn(assign(TreeCredit(against="siblings"), g)) == [[0.25, 0.5], [0.25, -0.5], [-0.25, 0.0], [-0.25, 0.0]]


def test_a_forked_episode_draws_a_shared_turn_once():
    forked = written({1: 1, 2: 0, 4: 0, 5: 0}, (1,), (3,), (4,), (2,), (5,), (6,), parents=[None, 0, 0, None, 3, 3])
    assert by_turn(assign(TreeCredit(), group(forked))) == [[0.5, 1.0, -1.0, -0.5, 0.0, 0.0]]


def expected_gradient(p, q, worth, n=3):
    """Expectation of mean_i sum_k credit (a_k - chance_k) over all groups of n attempts of two draws each."""
    found = [0.0, 0.0]
    attempts = list(product((0, 1), repeat=2))
    for drawn in product(attempts, repeat=n):
        chance = prod((p if a else 1 - p) * (q[a] if b else 1 - q[a]) for a, b in drawn)
        credit = by_turn(assign(TreeCredit(), group(*(written(worth[a][b], (a,), (b,)) for a, b in drawn))))
        for (a, b), (first, second) in zip(drawn, credit, strict=True):
            found[0] += chance * first * (a - p) / n
            found[1] += chance * second * (b - q[a]) / n
    return found


def test_the_expected_gradient_is_the_true_one():
    p, q, worth = 0.3, (0.6, 0.2), ((1.0, 0.25), (0.0, 2.0))
    values = [worth[a][0] * (1 - q[a]) + worth[a][1] * q[a] for a in (0, 1)]
    first = p * (1 - p) * (values[1] - values[0])
    second = sum(w * q[a] * (1 - q[a]) * (worth[a][1] - worth[a][0]) for a, w in ((0, 1 - p), (1, p)))
    assert expected_gradient(p, q, worth) == pytest.approx([first, second])


def test_a_turn_without_siblings_continues_the_segment():
    g = group(written(1, (1,), (3,), (4,)), written(0, (2,)))
    assert by_turn(assign(TreeCredit(), g)) == [[1.0, 1.0, 1.0], [-1.0]]
    assert by_turn(assign(TreeCredit(), g)) == by_turn(assign(TrajectoryCredit(), g))


def test_an_attempt_that_ends_where_others_go_on_is_their_sibling():
    g = group(written(1, (1,)), written(0, (1,), (2,)))
    assert by_turn(assign(TreeCredit(), g)) == [[0.0], [0.0, -1.0]]


def test_equal_attempts_carry_no_signal():
    credit = assign(TreeCredit(), group(written(1, (1,)), written(0, (1,))))
    assert credit.zero_variance and by_turn(credit) == [[0.0], [0.0]]
    with pytest.raises(ConfigError, match="siblings"):
        TreeCredit(scale=True)


def test_long_chains_are_no_trouble():
    g = group(written(1, *[(i,) for i in range(1500)]), written(0, (9999,)))
    assert by_turn(assign(TreeCredit(), g))[0] == [1.0] * 1500


def test_arpo_branches_where_entropy_rose():
    assert branching(0.55, 0.5) == (pytest.approx(0.45), True)
    assert branching(0.65, 0.5) == (pytest.approx(0.55), False)
    assert branching(0.6, 0.5) == (0.5, True) and branching(0.0, 5.0).p == 0.0 and branching(1.0, -9.0).p == 1.0
    assert normalised_entropy([[log(0.5)] * 2] * 2, 4) == pytest.approx(0.5) and normalised_entropy([], 4) == 0.0
    assert normalised_entropy([[0.0], [log(0.5)] * 2], 2) == pytest.approx(0.5)
    assert shared_prefix([1.0, 0.0]) == 0.5 and shared_prefix([1.0, 0.0], "soft") == 1.0


def test_arpo_shares_the_credit_of_a_shared_beginning():
    g = group(written(1, (1,), (3,)), written(0, (1,), (4,)), written(0, (2,)))
    third = 1 / 3
    hard = by_turn(assign(ARPOCredit(baseline=GroupMean()), g))
    assert hard == [pytest.approx([third / 2, 2 * third]), pytest.approx([third / 2, -third]), pytest.approx([-third])]
    soft = by_turn(assign(ARPOCredit(prefix="soft", baseline=GroupMean()), g))
    assert soft == [pytest.approx([2 * third, 2 * third]), pytest.approx([-third, -third]), pytest.approx([-third])]
    # The shared tokens weigh the same in both: two copies of the mean, or each branch's own.
    assert hard[0][0] + hard[1][0] == pytest.approx(soft[0][0] + soft[1][0])


def test_arpo_reads_branches_of_one_episode():
    forked = written({1: 1, 2: 0}, (1,), (3,), (4,), parents=[None, 0, 0])
    assert by_turn(assign(ARPOCredit(baseline=GroupMean()), group(forked))) == [[0.0, 0.5, -0.5]]
    forked = written({0: 0.5, 1: 1, 2: 0}, (1,), (3,), (4,), parents=[None, 0, 0])
    g = group(forked, written(0.0, (2,)))
    soft = by_turn(assign(ARPOCredit(prefix="soft", baseline=GroupMean()), g))
    # Branch rewards 1.5, .5 and 0, mean 2/3; stored once, the shared turn gets both branches' advantages.
    assert soft == [pytest.approx([5 / 6 - 1 / 6, 5 / 6, -1 / 6]), pytest.approx([-2 / 3])]


def test_earl_worked_examples():
    assert earl_advantages([1.0, 0.0, 0.5], [0.0, 0.0, 0.75]) == (1.0, 0.0, -0.25)
    assert insertion_weights([0.0, -10.0, -1e9]) == pytest.approx((0.731059, 0.268941, 0.0), abs=1e-6)
    assert insertion_weights([0.0, -10.0, -20.0], top_k=1) == (1.0, 0.0, 0.0)
    assert insertion_weights([0.0, 0.0, 0.0], top_p=0.5) == (0.5, 0.5, 0.0)
    gains = ToolGains.start(["add", "look"])
    assert gains.weights() == {"add": 0.5, "look": 0.5}
    gains = gains.observe("add", 1.0)
    assert gains.gains["add"] == pytest.approx(0.1009) and gains.weights()["add"] == pytest.approx(0.7290, abs=2e-3)
    assert ToolGains(gains={"add": -1.0, "look": -2.0}).weights() == {"add": 0.5, "look": 0.5}


def test_forced_routes_are_found_by_their_tokens():
    free = written(0, (1, 2, 3), (4,), name="free")
    forced = written(1, (1, 9, 5), (6, 7), sampled=[(True, False, True), (True, True)], name="forced")
    closed = written(0, (8, 2), sampled=[(True, False)], name="closed")  # forced, but departs earlier by itself
    assert forced_routes({0: free, 1: forced, 2: closed}) == {1: (0, 0, 1)}


def test_earl_learns_from_the_difference_after_the_forced_token():
    free, other = written(0, (1, 2, 3), (4,)), written(0, (5,))
    forced = written(1, (1, 9, 5), (6, 7), sampled=[(True, False, True), (True, True)])
    credit = assign(EARLCredit(), group(free, other, forced))
    assert credit.values == (((0.0,) * 3, (0.0,)), ((0.0,),), ((0.0, 0.0, 1.0), (1.0, 1.0)))
    assert not credit.zero_variance


def test_earl_without_forced_routes_is_the_group_baseline():
    g = group(written(1, (1,)), written(0, (2,)))
    assert by_turn(assign(EARLCredit(baseline=GroupMean()), g)) == [[0.5], [-0.5]]
    forked = written(0, (1,), (2,), (3,), parents=[None, 0, 0])
    with pytest.raises(ConfigError, match="forks"):
        assign(EARLCredit(), group(forked, written(1, (2,))))


def test_puct_worked_example():
    assert puct([0.5, 0.0], [0.3, 0.7], [3, 13])[0] == pytest.approx(0.95)
    assert puct([0.1, 0.2], [0.5, 0.5], [0, 0]) == (0.1, 0.2)
    assert best([0.5, 1.0, 1.0]) == 1 and search_value([1.0, 0.0], [3, 1]) == 0.75 and search_value([1.0], [0]) == 0.0


def test_step_pairs_are_taken_where_attempts_part():
    g = group(written(1, (1,), (3,)), written(0, (1,), (4,)), written(0, (2,)), written(1, (1,), (5,)))
    pairs = step_pairs(g)
    assert [(p.chosen, p.rejected) for p in pairs] == [((0, 0), (2, 0)), ((0, 1), (1, 1))]
    assert [p[2:] for p in pairs] == [(pytest.approx(2 / 3), 0.0), (1.0, 0.0)]
    assert len(step_pairs(g, margin=0.7)) == 1 and step_pairs(group(written(1, (1,)), written(1, (2,)))) == []
