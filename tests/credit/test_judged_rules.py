"""Rules that ask a judge or read what the environment reports: Shapley, information gain, potentials, hindsight."""

import asyncio
import math
from itertools import permutations

import msgspec
import pytest
from credit_groups import episode, group, turn
from hypothesis import given
from hypothesis import strategies as st

from phronesis.credit.baselines.group import GroupMean, NoBaseline
from phronesis.credit.judged.hindsight import (
    HCACredit,
    HindsightCredit,
    SelfDistilledCredit,
    hca,
    hindsight_ratios,
    self_distilled,
)
from phronesis.credit.judged.igpo import IGPOCredit, answer_probability, igpo
from phronesis.credit.judged.shapley import ShapleyCredit, orders, prefixes, sampled_shapley, shapley, subsets
from phronesis.credit.turnwise.potential import PotentialCredit, discounted_sum, shaping
from phronesis.errors import ConfigError, TrainingError
from phronesis.records import Reply

numbers = st.floats(-5, 5)
HERE = __name__


def assign(rule, g):
    return asyncio.run(rule.assign(g))


def by_turn(credit):
    return [None if rows is None else [row[0] for row in rows] for rows in credit.values]


def reporting(e, rows):
    """The episode with these metrics in the replies of its turns."""
    turns = tuple(msgspec.structs.replace(t, reply=Reply(metrics=m)) for t, m in zip(e.turns, rows, strict=True))
    return msgspec.structs.replace(e, turns=turns)


# Shapley

WORTHS = {(): 0.0, (0,): 0.1, (1,): 0.2, (2,): 0.0, (0, 1): 0.5, (0, 2): 0.4, (1, 2): 0.2, (0, 1, 2): 1.0}


def test_shapley_worked_examples():
    pair = {frozenset(): 0.0, frozenset({0}): 0.2, frozenset({1}): 0.4, frozenset({0, 1}): 1.0}
    assert shapley(2, pair.__getitem__) == pytest.approx((0.4, 0.6))
    three = {frozenset(k): v for k, v in WORTHS.items()}
    assert shapley(3, three.__getitem__) == pytest.approx((5 / 12, 11 / 30, 13 / 60))
    every = [tuple(p) for p in permutations(range(3))]
    assert sampled_shapley(3, three.__getitem__, every) == pytest.approx((5 / 12, 11 / 30, 13 / 60))
    assert shapley(0, lambda s: 3.0) == () and shapley(1, lambda s: float(len(s))) == (1.0,)


@given(st.integers(0, 5), st.integers(0, 10**6))
def test_shapley_values_add_up_to_the_worth_of_all(n, seed):
    worths = {s: math.sin(seed + 7 * i) for i, s in enumerate(subsets(n))}
    gained = worths[frozenset(range(n))] - worths[frozenset()]
    assert sum(shapley(n, worths.__getitem__)) == pytest.approx(gained, abs=1e-9)
    assert sum(sampled_shapley(n, worths.__getitem__, orders(n, 5, seed))) == pytest.approx(gained if n else 0.0, abs=1e-9)


def test_orders_come_with_their_reverse():
    found = orders(4, 5, 1)
    assert found[1] == found[0][::-1] and found[3] == found[2][::-1] and len(found) == 5
    assert orders(4, 5, 1) == found and all(sorted(o) == [0, 1, 2, 3] for o in found)
    assert prefixes([(1, 0)]) == [frozenset(), frozenset({1}), frozenset({0, 1})]


ASKED = []


async def parts(episode, turns):
    ASKED.append(turns)
    return WORTHS[tuple(sorted(turns))] if len(episode.turns) == 3 else 0.1 * len(turns)


def test_shapley_credit_takes_the_reward_for_the_whole_episode():
    ASKED.clear()
    found = by_turn(assign(ShapleyCredit(judge=f"{HERE}:parts"), group(episode([0, 0, 1]), episode([0]))))
    assert found[0] == pytest.approx([5 / 12, 11 / 30, 13 / 60]) and found[1] == pytest.approx([0.0])
    assert len(ASKED) == 2**3 - 1 + 1 and frozenset({0, 1, 2}) not in ASKED


def test_shapley_credit_of_a_long_episode_is_conserved():
    ASKED.clear()
    g = group(episode([0.0] * 9 + [2.0]), episode([0]))
    found = by_turn(assign(ShapleyCredit(judge=f"{HERE}:parts", exact=4, samples=6), g))[0]
    assert sum(found) == pytest.approx(2.0) and len(ASKED) <= 6 * 10 + 1
    assert found == by_turn(assign(ShapleyCredit(judge=f"{HERE}:parts", exact=4, samples=6), g))[0]


# Information gain


def test_igpo_worked_examples():
    assert igpo([0.2, 0.35, 0.3], 1.0) == (pytest.approx((0.15, -0.05, 1.0)), pytest.approx((1.1, 0.95, 1.0)))
    assert igpo([0.5], 0.25) == ((0.25,), (0.25,)) and igpo([], 1.0) == ((), ())
    assert igpo([0.0, 0.5], 1.0, 0.5).returns == (1.0, 1.0)
    assert answer_probability([-2.0, -1.0]) == pytest.approx(math.exp(-1.5))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), numbers)
def test_igpo_adds_up_to_the_rise_and_the_outcome(p, final):
    assert igpo(p, final).returns[0] == pytest.approx(p[-1] - p[0] + final, abs=1e-9)


def test_igpo_credit_from_reported_probabilities():
    a = reporting(episode([0, 0, 1]), [{"p_before": 0.2, "p": 0.35}, {"p": 0.3}, {"p": 0.9}])
    b = reporting(episode([0, 0]), [{"p": 0.1}, {"p": 0.0}])
    found = by_turn(assign(IGPOCredit(metric="p"), group(a, b)))
    # Returns (1.1, .95, 1) and (.1, 0) against the same turn.
    assert found == [pytest.approx([0.5, 0.475, 0.0]), pytest.approx([-0.5, -0.475])]
    with pytest.raises(TrainingError, match="reports no metric 'q'"):
        assign(IGPOCredit(metric="q"), group(a, b))


async def position(episode, turn):
    return turn / 4 if episode.id != "nan" else math.nan


def test_a_judge_is_asked_before_every_turn_and_at_the_end():
    a, b = episode([0, 0, 1]), episode([0])
    found = by_turn(assign(IGPOCredit(judge=f"{HERE}:position", baseline=NoBaseline()), group(a, b)))
    assert found == [pytest.approx([1.5, 1.25, 1.0]), [0.0]]
    with pytest.raises(TrainingError, match="must be finite"):
        assign(IGPOCredit(judge=f"{HERE}:position"), group(episode([0], name="nan"), b))
    forked = msgspec.structs.replace(a, turns=(turn(None), turn(0), turn(0)))
    with pytest.raises(ConfigError, match="forks"):
        assign(IGPOCredit(judge=f"{HERE}:position"), group(forked, b))


# Potentials


def test_shaping_worked_example():
    assert shaping([0, 0.3, 0.6, 0]) == pytest.approx((0.3, 0.3, -0.6))
    assert shaping([0.2, 0.5, 0.1, 0.0], 0.9) == pytest.approx((0.25, -0.41, -0.1))
    assert shaping([]) == () and shaping([1.0]) == () and discounted_sum([], 0.9) == 0.0


@given(st.lists(numbers, min_size=1, max_size=8), st.floats(0, 1))
def test_shaping_adds_up_to_minus_the_first_potential(phi, gamma):
    assert discounted_sum(shaping([*phi, 0.0], gamma), gamma) == pytest.approx(-phi[0], abs=1e-9)


def test_potential_credit_is_the_return_minus_the_potential():
    a = reporting(episode([0, 1]), [{"phi_before": 0.5, "phi": 0.75}, {"phi": 9.0}])
    b = reporting(episode([0, 0]), [{"phi_before": 0.5, "phi": 0.25}, {"phi": 9.0}])
    plain = by_turn(assign(PotentialCredit(metric="phi", baseline=NoBaseline()), group(a, b)))
    assert plain == [pytest.approx([0.5, 0.25]), pytest.approx([-0.5, -0.25])]
    half = by_turn(assign(PotentialCredit(metric="phi", weight=0.5, gamma=0.5, baseline=NoBaseline()), group(a, b)))
    assert half[0] == pytest.approx([0.5 - 0.25, 1 - 0.375])
    centred = by_turn(assign(PotentialCredit(metric="phi"), group(a, b)))
    assert centred == [pytest.approx([0.5, 0.25]), pytest.approx([-0.5, -0.25])]


# Hindsight


def test_hca_worked_examples():
    assert hca(0.2, 0.4, 1.0) == 0.5 and hca(0.3, 0.3, 1.0) == 0.0 and hca(0.4, 0.2, 1.0) == -1.0
    assert hca(0.2, 0.0, 1.0) == -math.inf and hca(0.2, 0.0, 0.0) == 0.0


def test_hindsight_ratios_are_normalised_then_clipped():
    assert hindsight_ratios([math.log(3), 0.0]) == pytest.approx((1.5, 0.5))
    assert hindsight_ratios([math.log(3), 0.0], most=1.25) == pytest.approx((1.25, 0.8))
    assert hindsight_ratios([]) == () and hindsight_ratios([5000.0, 5000.0]) == (1.0, 1.0)


def test_self_distilled_worked_example():
    assert self_distilled(1.0, [-0.5, -1.25], [-1.0, -1.0]) == (1.5, 0.75)
    assert self_distilled(1.0, [-0.5, -9.0], [-1.0, -1.0], lam=2.0, most=0.25) == (1.5, 0.5)


async def hindsight(episode, turn):
    """Twice as likely in the first turn, half as likely in the second, as likely in others; forced tokens are garbage."""
    shift = {0: math.log(2), 1: -math.log(2)}.get(turn, 0.0)
    turn = episode.turns[turn]
    return [lp + shift if s else math.nan for lp, s in zip(turn.logprobs, turn.sampled, strict=True)]


async def too_few(episode, turn):
    return [0.0]


def test_hca_credit_per_token_probabilities():
    g = group(episode([0, 0, 1], sampled=(True, False, True)), episode([0, 0]))
    credit = assign(HCACredit(judge=f"{HERE}:hindsight"), g)
    assert credit.values[0] == tuple(pytest.approx((a, 0.0, a)) for a in (0.5, -1.0, 0.0))
    assert by_turn(credit)[1] == [0.0, 0.0]
    bounded = by_turn(assign(HCACredit(judge=f"{HERE}:hindsight", most=1.5), g))[0]
    assert bounded == pytest.approx([0.5, -0.5, 0.0])
    with pytest.raises(TrainingError, match="1 numbers for the 3 tokens"):
        assign(HCACredit(judge=f"{HERE}:too_few"), g)


def test_hindsight_credit_scales_the_turns_return():
    g = group(episode([0, 0, 1]), episode([0]))
    rows = by_turn(assign(HindsightCredit(judge=f"{HERE}:hindsight"), g))
    # Ratios (2, .5, 1) over 7/6: 12/7, 3/7 clipped to .5, 6/7; the return is 1 everywhere.
    assert rows[0] == pytest.approx([0.5 + 5 / 7, 0.5 - 0.5, 0.5 - 1 / 7]) and rows[1] == pytest.approx([-0.5])


def test_self_distilled_credit_differs_by_token():
    g = group(episode([1], sampled=(True, False, True)), episode([0]))
    rows = assign(SelfDistilledCredit(judge=f"{HERE}:hindsight", lam=0.5, baseline=GroupMean()), g)
    up = 0.5 * math.log(2)
    assert rows.values == ((pytest.approx((0.5 + up, 0.0, 0.5 + up)),), (pytest.approx((-0.5 + up, -0.5 + up)),))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ShapleyCredit(judge="a:b", exact=20),
        lambda: ShapleyCredit(judge="a:b", samples=0),
        lambda: IGPOCredit(metric="p", gamma=1.5),
        lambda: PotentialCredit(metric="p", weight=math.inf),
        lambda: HCACredit(judge="a:b", most=0.5),
        lambda: HindsightCredit(judge="a:b", weight=-1.0),
        lambda: SelfDistilledCredit(judge="a:b", most=0.0),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ConfigError):
        make()
