"""What holds of every rule that compares episodes: order, faults, forced tokens, a constant on all rewards."""

import asyncio
import random

import msgspec
import pytest
from credit_groups import episode, group

from phronesis.credit import (
    ARPOCredit,
    ASPOCredit,
    CriticalCredit,
    EARLCredit,
    EMPGCredit,
    GiGPOCredit,
    IGPOCredit,
    LeaveOneOut,
    MTGRPOCredit,
    PotentialCredit,
    RewardFlowCredit,
    SELAURCredit,
    Settles,
    TreeCredit,
)
from phronesis.records import Component, Reply, Reward, Stop

RULES = [
    MTGRPOCredit(),
    GiGPOCredit(),
    TreeCredit(),
    TreeCredit(against="siblings", scale=True),
    ARPOCredit(),
    ARPOCredit(prefix="soft"),
    EARLCredit(),
    IGPOCredit(metric="p"),
    PotentialCredit(metric="p", gamma=0.9),
    RewardFlowCredit(),
    CriticalCredit(),
    EMPGCredit(),
    ASPOCredit(),
    SELAURCredit(vocabulary=50),
]
SHIFTED = [
    MTGRPOCredit(),
    GiGPOCredit(gamma=1.0),
    TreeCredit(),
    ARPOCredit(),
    CriticalCredit(),
    EMPGCredit(),
    IGPOCredit(metric="p"),
]
names = pytest.mark.parametrize("rule", RULES, ids=[f"{i}-{type(r).__name__}" for i, r in enumerate(RULES)])


def assign(rule, *episodes):
    g = group(*episodes)
    found = asyncio.run(rule.assign(g))
    return rule.settle([g], [found])[0] if isinstance(rule, Settles) else found


def drawn(source, name, reward, stop=Stop.completed):
    """An episode of some turns that shares its first ones with others; the reward falls on its last turn."""
    n = source.randint(1, 4)
    e = episode([0.0] * (n - 1) + [reward], sampled=(True, False, True), stop=stop, name=name)
    turns = tuple(
        msgspec.structs.replace(
            t,
            completion=(source.choice((1, 2)), 5, source.choice((3, 4))),
            entropies=tuple(source.random() for _ in range(3)),
            reply=Reply(state_key=source.choice("abc"), metrics={"p": source.random()}),
        )
        for t in e.turns
    )
    return msgspec.structs.replace(e, turns=turns)


def batch(seed=3):
    source = random.Random(seed)
    return [drawn(source, f"e{i}", reward) for i, reward in enumerate((0.0, 1.0, 0.5, 1.0, 0.0, 0.0))]


def rows(credit, episodes):
    return {e.id: v for e, v in zip(episodes, credit.values, strict=True)}


def close(a, b):
    assert a.keys() == b.keys()
    for name, turns in a.items():
        assert [x for row in turns for x in row] == pytest.approx([x for row in b[name] for x in row], abs=1e-9)


@names
def test_order_of_episodes_does_not_matter(rule):
    episodes = batch()
    shuffled = random.Random(1).sample(episodes, len(episodes))
    plain = assign(rule, *episodes)
    assert not plain.zero_variance
    close(rows(plain, episodes), rows(assign(rule, *shuffled), shuffled))


@names
def test_faults_reach_no_statistic(rule):
    episodes = batch()
    broken = drawn(random.Random(9), "broken", 1.0, Stop.env_fault)
    credit = assign(rule, *episodes, broken)
    assert credit.values[-1] is None and credit.reasons[-1] == "env_fault"
    assert credit.values[:-1] == assign(rule, *episodes).values


@names
def test_forced_tokens_get_nothing_and_sampled_ones_something(rule):
    values = [row for turns in assign(rule, *batch()).values for row in turns]
    assert all(row[1] == 0.0 for row in values) and any(row[0] != 0.0 and row[2] != 0.0 for row in values)


@names
def test_a_group_of_faults_is_no_trouble(rule):
    broken = [drawn(random.Random(i), f"b{i}", 1.0, Stop.infra_fault) for i in range(2)]
    credit = assign(rule, *broken)
    assert credit.values == (None, None) and credit.zero_variance


@pytest.mark.parametrize("rule", SHIFTED, ids=lambda r: type(r).__name__)
def test_a_constant_on_all_rewards_changes_nothing(rule):
    episodes = [e for e in batch() if len(e.turns) > 1]
    more = [
        msgspec.structs.replace(e, reward=Reward(components=(*e.reward.components, Component(name="gift", score=7.0))))
        for e in episodes
    ]
    close(rows(assign(rule, *episodes), episodes), rows(assign(rule, *more), more))


def test_tree_credit_is_leave_one_out_where_nothing_is_shared():
    episodes = [
        msgspec.structs.replace(e, turns=tuple(msgspec.structs.replace(t, context=(i,)) for t in e.turns))
        for i, e in enumerate(batch())
    ]
    values = LeaveOneOut().advantages([e.reward.value for e in episodes])
    assert [turns[0][0] for turns in assign(TreeCredit(), *episodes).values] == pytest.approx(values)
