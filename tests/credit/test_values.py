"""Credit over a critic's values: worked numbers, closed forms, and how it walks an episode."""

from __future__ import annotations

import asyncio
from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phronesis.credit.critics.archer import archer_advantages, archer_targets
from phronesis.credit.critics.gae import GAECredit, SAOCredit, gae, gae_skip, lambda_len, token_gae
from phronesis.credit.critics.poad import POADCredit, ntpo, poad
from phronesis.credit.critics.turn_gae import TurnGAECredit, turn_gae
from phronesis.credit.critics.valued import Ahead
from phronesis.credit.rule import CreditRule, NeedsValues
from phronesis.credit.turnwise.turns import trajectory_lengths
from phronesis.errors import ConfigError
from phronesis.records import Component, Episode, EpisodeGroup, Finish, Reply, Reward, Stop, Task, Turn

TASK = Task(id="t", env="x")
RULES = [GAECredit(), SAOCredit(), TurnGAECredit(), POADCredit()]
near = pytest.approx

numbers = st.floats(-3, 3)
unit = st.floats(0, 1)


def turn(parent: int | None, *sampled: bool, context=(9,)) -> Turn:
    n = len(sampled)
    return Turn(
        parent=parent, context=context, completion=(5,) * n, sampled=sampled, logprobs=(-1.0,) * n, finish=Finish.stop,
        prompt_crc=0, reply=Reply(),
    )  # fmt: skip


def episode(*turns: Turn, rewards: dict[int, float], stop=Stop.completed) -> Episode:
    parts = tuple(Component(name=f"r{k}", score=r, turn=k) for k, r in rewards.items())
    return Episode(id="e", task=TASK, seed=1, turns=turns, stop=stop, reward=Reward(components=parts))


def credit(rule, one: Episode, values):
    group = EpisodeGroup(id="g", task=TASK, episodes=(one,))
    return asyncio.run(rule.with_values(lambda e: values).assign(group))


def test_gae_worked_numbers():
    found = gae([0.5, 0.6, 0.7], [0, 0, 1], gamma=0.99, lam=0.95)
    assert found.advantages == near([0.446829, 0.37515, 0.3], abs=1e-6)
    assert found.returns == near([0.946829, 0.97515, 1.0], abs=1e-6)
    assert gae([], []) == ([], [])


def test_gae_skips_observations_and_never_reads_them():
    values, mask, rewards = [0.5, 0.6, nan, 0.7], [True, True, False, True], [0, 0, nan, 1]
    found = gae_skip(values, rewards, mask, gamma=1.0, lam=0.95)
    assert found.advantages == near([0.46575, 0.385, 0.0, 0.3]) and found.returns[2] == 0.0
    naive = gae([0.5, 0.6, 0.9, 0.7], [0, 0, 0, 1], gamma=1.0, lam=0.95)
    assert naive.advantages == near([0.461712, 0.38075, 0.085, 0.3], abs=1e-6), "what not skipping would give"
    assert gae_skip([nan], [nan], [False]) == ([0.0], [0.0])


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8), unit, unit)
def test_gae_is_the_discounted_sum_of_surprises(tokens, gamma, lam):
    values, rewards = [v for v, _ in tokens], [r for _, r in tokens]
    deltas = [r + gamma * n - v for v, r, n in zip(values, rewards, [*values[1:], 0.0], strict=True)]
    wanted = [sum((gamma * lam) ** j * d for j, d in enumerate(deltas[t:])) for t in range(len(deltas))]
    assert gae(values, rewards, gamma=gamma, lam=lam).advantages == near(wanted, abs=1e-9)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8))
def test_lambda_one_gives_the_return_whatever_the_critic_says(tokens):
    """And the advantages of an episode's first token is its return minus the first value: nothing is lost."""
    found = gae([v for v, _ in tokens], [r for _, r in tokens], gamma=1.0, lam=1.0)
    totals = [sum(r for _, r in tokens[t:]) for t in range(len(tokens))]
    assert found.returns == near(totals, abs=1e-9)


def test_lambda_len():
    assert [lambda_len(n) for n in (100, 1000, 1)] == near([0.993333, 0.999333, 1 / 3], abs=1e-6)
    assert lambda_len(0) == 0.0


ACTIONS, EARNED = [[0.2, 0.3], [0.4, 0.5]], [0.0, 1.0]


def test_poad_and_its_naive_form_worked_numbers():
    assert poad(ACTIONS, EARNED, gamma=0.9, lam=1.0) == [near([0.7, 0.6]), near([0.6, 0.5])]
    assert poad(ACTIONS, EARNED, gamma=0.9, lam=0.95) == [near([0.624044, 0.551625], abs=1e-6), near([0.575, 0.5])]
    assert ntpo(ACTIONS, EARNED, gamma=0.9, lam=1.0) == [near([0.529, 0.51]), near([0.5, 0.5])]


def test_actions_without_tokens_take_no_time():
    two = poad([[0.2, 0.3], [0.5]], [0.5, 1.0], gamma=0.9, lam=1.0)
    assert poad([[0.2, 0.3], [], [0.5]], [0.0, 0.5, 1.0], gamma=0.9, lam=1.0) == [two[0], [], two[1]]
    assert poad([], []) == [] and poad([[]], [1.0]) == [[]] and ntpo([[]], [1.0]) == [[]]


@given(st.lists(st.tuples(numbers, numbers), max_size=6), unit, unit)
def test_with_actions_of_one_token_all_are_the_same(tokens, gamma, lam):
    values, rewards = [[v] for v, _ in tokens], [r for _, r in tokens]
    wanted = [near([a], abs=1e-9) for a in gae([v for v, _ in tokens], rewards, gamma=gamma, lam=lam).advantages]
    assert poad(values, rewards, gamma=gamma, lam=lam) == wanted
    assert ntpo(values, rewards, gamma=gamma, lam=lam) == wanted
    assert [[a] for a in turn_gae(values, rewards, gamma=gamma, lam=lam).advantages] == wanted


@given(st.lists(st.lists(numbers, min_size=1, max_size=4), min_size=1, max_size=4), unit)
def test_the_length_of_an_action_does_not_discount(values, gamma):
    """With lam 1 the first token's advantage is the return over actions minus its value, in `poad` alone."""
    rewards = [float(k + 1) for k in range(len(values))]
    found = poad(values, rewards, gamma=gamma, lam=1.0)
    for k, row in enumerate(found):
        future = sum(gamma ** (j - k) * rewards[j] for j in range(k, len(rewards)))
        assert row == near([future - v for v in values[k]], abs=1e-9)


def test_turn_gae_reads_first_values_only():
    found = turn_gae([[0.2, 0.9], [0.4]], [0.0, 1.0], gamma=0.9, lam=1.0)
    assert found.advantages == near([0.7, 0.6]) and found.returns == near([0.9, 1.0])


def test_archer():
    assert archer_targets([0.2, 0.2], [False, True], [0.6, nan], gamma=0.9) == near([0.74, 0.2])
    assert archer_targets([0.0], [False], [0.5]) == near([0.45])
    assert archer_advantages([0.5], [0.7], [0.4], [0.3]) == near([0.2])


def test_rules_reach_across_turns():
    """Turn 0 samples, has one forced token, samples; turn 1 samples twice. Reward 1 at the end."""
    one = episode(turn(None, True, False, True), turn(0, True, True), rewards={1: 1.0})
    values = ((0.5, 9.0, 0.6), (0.7, 0.8))
    flat = gae([0.5, 0.6, 0.7, 0.8], [0, 0, 0, 1], gamma=0.9, lam=0.8).advantages
    (found,) = credit(GAECredit(gamma=0.9, lam=0.8), one, values).values
    assert found == (near((flat[0], 0.0, flat[1])), near((flat[2], flat[3])))
    (found,) = credit(POADCredit(gamma=0.9, lam=0.8), one, values).values
    first, second = poad([[0.5, 0.6], [0.7, 0.8]], [0, 1], gamma=0.9, lam=0.8)
    assert found == (near((first[0], 0.0, first[1])), near(tuple(second)))
    (found,) = credit(TurnGAECredit(gamma=0.9, lam=0.8), one, values).values
    a, b = turn_gae([[0.5], [0.7]], [0, 1], gamma=0.9, lam=0.8).advantages
    assert found == (near((a, 0.0, a)), near((b, b)))
    (found,) = credit(SAOCredit(), one, values).values
    flat = gae([0.5, 0.6, 0.7, 0.8], [0, 0, 0, 1], gamma=1.0, lam=1 - 1 / (1.5 * 4)).advantages
    assert found == (near((flat[0], 0.0, flat[1])), near((flat[2], flat[3])))


def test_a_turn_that_was_forced_takes_no_time():
    """What it earned goes to the turn before it."""
    forced = episode(turn(None, True), turn(0, False), turn(1, True), rewards={1: 0.25, 2: 1.0})
    plain = episode(turn(None, True), turn(0, True), rewards={0: 0.25, 1: 1.0})
    for rule in (GAECredit(gamma=0.9), TurnGAECredit(gamma=0.9), POADCredit(gamma=0.9)):
        (got,), (want,) = credit(rule, forced, ((0.5,), (9.0,), (0.7,))).values, credit(rule, plain, ((0.5,), (0.7,))).values
        assert (got[0], got[2]) == want and got[1] == (0.0,)


def test_where_an_episode_forks_the_mean_follows():
    one = episode(turn(None, True), turn(0, True), turn(0, True), rewards={1: 1.0, 2: 0.0})
    (found,) = credit(GAECredit(gamma=1.0, lam=1.0), one, ((0.3,), (0.5,), (0.1,))).values
    assert found == (near((0.5 - 0.3,)), near((0.5,)), near((-0.1,)))


def test_the_length_rule_reads_one_trajectory_not_all_branches():
    """A shared turn of 2 tokens, branches of 1 and 3: trajectories of 3 and 5, the shared turn at their mean 4."""
    forked = episode(turn(None, True, True), turn(0, True), turn(0, True, True, True), rewards={1: 1.0})
    assert trajectory_lengths(forked) == (4.0, 3.0, 5.0)
    values = ((0.5, 0.6), (0.7,), (0.1, 0.2, 0.3))
    (found,) = credit(SAOCredit(), forked, values).values
    assert found == token_gae(forked, values, gamma=1.0, lam=[1 - 1 / (1.5 * n) for n in (4, 3, 5)])
    long = gae(values[2], [0, 0, 0], gamma=1.0, lam=1 - 1 / 7.5).advantages
    short = gae(values[1], [1], gamma=1.0, lam=0.0).advantages
    assert found[2] == near(tuple(long)) and found[1] == near(tuple(short))
    ahead = Ahead((0.7 + 0.1) / 2, (short[0] + long[0]) / 2)
    assert found[0] == near(tuple(gae(values[0], [0, 0], gamma=1.0, lam=1 - 1 / 6, ahead=ahead).advantages))
    chain = episode(turn(None, True, True), turn(0, True), rewards={1: 1.0})
    assert trajectory_lengths(chain) == (3.0, 3.0)


def test_targets_are_returns():
    one = episode(turn(None, True, False), turn(0, True, True), rewards={1: 2.0})
    values = ((0.5, 9.0), (0.7, 0.8))
    assert GAECredit(gamma=0.5).targets(one, values) == (near((0.5, 0.0)), near((1.0, 2.0)))
    assert SAOCredit().targets(one, values) == (near((2.0, 0.0)), near((2.0, 2.0)))
    assert TurnGAECredit(gamma=0.5).targets(one, values) == (near((1.0, 0.0)), near((2.0, 2.0)))
    assert POADCredit(gamma=0.5).targets(one, values) == (near((1.0, 0.0)), near((2.0, 2.0)))
    biased = GAECredit(gamma=1.0, critic_lam=0.0).targets(one, values)
    assert biased == (near((0.7, 0.0)), near((0.8, 2.0))), "one step ahead, then the critic's word"


@pytest.mark.parametrize("rule", RULES)
def test_unbound_rules_refuse_and_lone_episodes_count(rule):
    assert isinstance(rule, CreditRule) and isinstance(rule, NeedsValues)
    good = episode(turn(None, True), rewards={0: 1.0})
    bad = Episode(id="b", task=TASK, seed=1, turns=good.turns, stop=Stop.env_fault)
    group = EpisodeGroup(id="g", task=TASK, episodes=(bad, good))
    with pytest.raises(ConfigError, match="this run has none; add a"):
        asyncio.run(rule.assign(group))
    found = asyncio.run(rule.with_values(lambda e: ((0.25,),)).assign(group))
    assert found.values == (None, ((0.75,),)) and found.reasons == ("env_fault", None) and not found.zero_variance
    assert asyncio.run(rule.with_values(lambda e: ((1.0,),)).assign(group)).zero_variance


def test_settings_that_make_no_sense():
    for make in (
        lambda: GAECredit(lam=1.5), lambda: GAECredit(critic_lam=-1), lambda: GAECredit(gamma=2), lambda: SAOCredit(alpha=0.5),
        lambda: POADCredit(lam=2), lambda: TurnGAECredit(lam=-0.1),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            make()


def test_whitened_over_the_step_not_over_the_group():
    """Advantages 1, 0 and 2 over two groups, one token each; a lone survivor keeps its place."""
    groups = []
    for name, rewards in (("a", (1.0, 0.0)), ("b", (2.0, None))):
        stops = [Stop.infra_fault if r is None else Stop.completed for r in rewards]
        found = [episode(turn(None, True), rewards={0: r or 0.0}, stop=s) for r, s in zip(rewards, stops, strict=True)]
        groups.append(EpisodeGroup(id=name, task=TASK, episodes=tuple(found)))
    for rule in (GAECredit(whiten=True), TurnGAECredit(whiten=True), POADCredit(whiten=True)):
        bound = rule.with_values(lambda e: ((0.0,),))
        raw = [asyncio.run(bound.assign(g)) for g in groups]
        assert [c.values for c in raw] == [(((1.0,),), ((0.0,),)), (((2.0,),), None)]
        found = bound.settle(groups, raw)
        assert found[0].values == (((near(0.0, abs=1e-9),),), ((near(-1.0),),)) and found[1].values == (((near(1.0),),), None)
        assert found[1].reasons == (None, "infra_fault")
    plain = GAECredit().with_values(lambda e: ((0.0,),))
    assert plain.settle(groups, raw) == raw
