"""Credit rules on hand-made groups."""

import asyncio
import random

import msgspec
import pytest

from phronesis.credit import (
    GiGPOCredit,
    GroupMean,
    GroupStandard,
    LeaveOneOut,
    NoBaseline,
    TrajectoryCredit,
    TurnReturnCredit,
    build,
    discounted_returns,
)
from phronesis.credit.turnwise.turns import depths, states
from phronesis.errors import ConfigError, GroupTooSmall, TrainingError
from phronesis.records import Component, Episode, EpisodeGroup, Failure, Finish, Reply, Reward, Stop, Task, Turn

TASK = Task(id="t", env="toy")


def turn(parent, *, context=(1, 2), sampled=(True, True), key=None, reply=True):
    n = len(sampled)
    return Turn(
        parent=parent,
        context=context,
        completion=(7,) * n,
        sampled=sampled,
        logprobs=(-1.0,) * n,
        finish=Finish.stop,
        prompt_crc=0,
        reply=Reply(state_key=key) if reply else None,
    )


def episode(name, rewards, keys=None, stop=Stop.completed, sampled=(True, True)):
    """A chain of turns; `keys[k]` is the state turn k leads to."""
    n = len(rewards)
    keys = keys or [None] * n
    turns = tuple(turn(k - 1 if k else None, key=keys[k], sampled=sampled) for k in range(n))
    parts = tuple(Component(name=f"r{k}", score=r, turn=k) for k, r in enumerate(rewards))
    fault = Failure(where="x", kind="y", message="z") if stop.is_fault else None
    return Episode(id=name, task=TASK, seed=0, turns=turns, stop=stop, reward=Reward(components=parts), failure=fault)


def group(*episodes):
    return EpisodeGroup(id="g", task=TASK, episodes=episodes)


def assign(rule, g):
    return asyncio.run(rule.assign(g))


def by_turn(credit):
    """First token's credit of every turn."""
    return [None if rows is None else [row[0] for row in rows] for rows in credit.values]


def test_trajectory_credit_reaches_sampled_tokens_only():
    g = group(episode("a", [0, 1], sampled=(True, False, True)), episode("b", [0]), episode("c", [0, 0]), episode("d", [0]))
    credit = assign(TrajectoryCredit(), g)
    assert credit.values[0] == ((1.0, 0.0, 1.0), (1.0, 0.0, 1.0))
    assert credit.values[1] == (pytest.approx((-1 / 3, -1 / 3)),)
    assert credit.reasons == (None,) * 4 and not credit.zero_variance


def test_faults_and_unscored_reach_no_statistic():
    unscored = Episode(id="u", task=TASK, seed=0, turns=(turn(None),), stop=Stop.completed)
    g = group(episode("a", [1]), episode("f", [9], stop=Stop.env_fault), unscored, episode("b", [0]))
    credit = assign(TrajectoryCredit(), g)
    assert by_turn(credit) == [[1.0], None, None, [-1.0]]
    assert credit.reasons == (None, "env_fault", "unscored", None)


def test_the_last_one_standing_is_left_out():
    credit = assign(TrajectoryCredit(), group(episode("a", [1]), episode("f", [9], stop=Stop.infra_fault)))
    assert credit.values == (None, None) and credit.reasons == ("alone", "infra_fault") and credit.zero_variance


def test_a_configured_group_of_one_is_refused():
    with pytest.raises(GroupTooSmall):
        assign(TrajectoryCredit(), group(episode("a", [1])))
    credit = assign(TrajectoryCredit(baseline=LeaveOneOut(singleton="raw")), group(episode("a", [0.5])))
    assert by_turn(credit) == [[0.5]]


def test_equal_rewards_are_flagged():
    credit = assign(TrajectoryCredit(baseline=GroupStandard()), group(episode("a", [1, 0]), episode("b", [1])))
    assert credit.zero_variance and by_turn(credit) == [[0.0, 0.0], [0.0]]


def test_reward_that_is_not_finite():
    with pytest.raises(TrainingError, match=r"'a'.*nan"):
        assign(TrajectoryCredit(), group(episode("a", [float("nan")]), episode("b", [0])))


def test_discounted_returns_of_a_chain():
    assert discounted_returns(episode("a", [0, 0, 1]), 0.95) == pytest.approx((0.9025, 0.95, 1))
    assert discounted_returns(episode("a", [0.5, 0, -1, 2]), 0.5) == pytest.approx((0.5, 0, 0, 2))


def tree():
    """Turn 0; forks 1 and 2 (same parent); 3 restarts after 2 with a rewritten prompt; 4 forks at the root like turn 0."""
    turns = (turn(None), turn(0), turn(0), turn(None, context=(5, 6)), turn(None))
    return Episode(id="x", task=TASK, seed=0, turns=turns, stop=Stop.completed)


def test_rewrites_continue_and_forks_branch():
    before = tree().before
    assert before == (None, 0, 0, 2, None)
    assert depths(before) == (0, 1, 1, 2, 0)


def test_returns_of_a_fork_are_the_mean_of_its_branches():
    scores = [0.0, 1.0, 0.0, 3.0, 0.25]
    parts = tuple(Component(name=str(k), score=s, turn=k) for k, s in enumerate(scores))
    e = msgspec.structs.replace(tree(), reward=Reward(components=parts))
    assert discounted_returns(e, 0.5) == pytest.approx((0.5 * (1.0 + 1.5) / 2, 1.0, 1.5, 3.0, 0.25))


def test_states_are_those_the_turns_acted_in():
    assert states(episode("a", [0, 0, 1], ["s1", None, "s3"])) == ("initial", "s1", None)


def test_turn_returns_against_the_same_turn():
    g = group(episode("a", [0, 1]), episode("b", [0, 0]))
    assert by_turn(assign(TurnReturnCredit(gamma=0.5), g)) == [[0.25, 0.5], [-0.25, -0.5]]
    assert by_turn(assign(TurnReturnCredit(gamma=0.5, weight=2.0), g)) == [[0.5, 1.0], [-0.5, -1.0]]
    assert by_turn(assign(TurnReturnCredit(gamma=0.5, baseline=LeaveOneOut()), g)) == [[0.5, 1.0], [-0.5, -1.0]]
    assert by_turn(assign(TurnReturnCredit(gamma=0.5, baseline=NoBaseline()), g)) == [[0.5, 1.0], [0.0, 0.0]]


def test_turn_returns_against_the_group_and_alone_at_a_depth():
    g = group(episode("a", [0, 1]), episode("b", [0]))
    assert by_turn(assign(TurnReturnCredit(gamma=1.0), g)) == [[0.5, 0.0], [-0.5]]
    assert by_turn(assign(TurnReturnCredit(gamma=1.0, pool="group"), g))[0] == pytest.approx([1 / 3, 1 / 3])


def test_gigpo_worked_example():
    g = group(episode("a", [0, 0, 1], ["s1", "s2", "end"]), episode("b", [0, 0, 0], ["s1", "s3", "end"]))
    rows = by_turn(assign(GiGPOCredit(), g))
    assert rows[0] == pytest.approx([0.95125, 0.975, 0.5])
    assert rows[1] == pytest.approx([-0.95125, -0.975, -0.5])


def test_gigpo_with_a_loop_and_a_singleton():
    # states acted in: initial b b c / initial c / initial d b
    g = group(
        episode("1", [0, 0, 0, 1], ["b", "b", "c", "x"]),
        episode("2", [0, 0.5], ["c", "x"]),
        episode("3", [0, 0, 0], ["d", "b", "x"]),
    )
    rows = by_turn(assign(GiGPOCredit(gamma=0.9), g))
    assert rows[0] == pytest.approx([0.836, 0.74, 0.83, 0.75])
    assert rows[1] == pytest.approx([0.057, -0.25])
    assert rows[2] == pytest.approx([-0.893, -0.5, -1.07])
    steps = by_turn(assign(TurnReturnCredit(gamma=0.9, pool="state"), g))
    assert steps[0] == pytest.approx([0.336, 0.24, 0.33, 0.25])
    assert steps[2] == pytest.approx([-0.393, 0.0, -0.57])


def test_gigpo_finds_signal_where_rewards_are_equal():
    g = group(episode("a", [0, 1], ["s1", "x"]), episode("b", [0, 0, 1], ["s1", "s1", "x"]))
    credit = assign(GiGPOCredit(gamma=0.5), g)
    rows = by_turn(credit)
    assert rows[0] == pytest.approx([0.125, 1 - 2.5 / 3]) and rows[1] == pytest.approx([-0.125, 0.5 - 2.5 / 3, 1 - 2.5 / 3])
    assert not credit.zero_variance


def test_state_credit_needs_states():
    g = group(episode("a", [0, 1]), episode("b", [0, 0]))
    with pytest.raises(ConfigError, match="state_key"):
        assign(GiGPOCredit(), g)


def test_faulty_episodes_reach_no_step_statistic():
    clean = group(episode("a", [0, 1], ["s", "x"]), episode("b", [0, 0], ["s", "x"]))
    dirty = group(*clean.episodes, episode("f", [5, 5], ["s", "x"], stop=Stop.env_fault))
    assert assign(GiGPOCredit(), dirty).values == (*assign(GiGPOCredit(), clean).values, None)


@pytest.mark.parametrize("rule", [TrajectoryCredit(), TurnReturnCredit(), TurnReturnCredit(pool="group"), GiGPOCredit()])
def test_order_of_episodes_does_not_matter(rule):
    source = random.Random(5)
    episodes = [
        episode(str(i), [source.choice([0.0, 0.5, 1.0]) for _ in range(n)], [source.choice("abc") for _ in range(n)])
        for i, n in enumerate((1, 3, 2, 4))
    ]
    plain = dict(zip([e.id for e in episodes], by_turn(assign(rule, group(*episodes))), strict=True))
    source.shuffle(episodes)
    for e, row in zip(episodes, by_turn(assign(rule, group(*episodes))), strict=True):
        assert row == pytest.approx(plain[e.id])


def test_an_episode_without_turns_counts_in_the_baseline():
    g = group(episode("a", [1]), Episode(id="b", task=TASK, seed=0, stop=Stop.context, reward=Reward(
        components=(Component(name="r", score=0.0),))))  # fmt: skip
    assert assign(TrajectoryCredit(), g).values == (((1.0, 1.0),), ())


class Doubling:
    """A user's rule."""

    async def assign(self, group, rerun=None):
        return await TrajectoryCredit().assign(group, rerun)


RULE = Doubling()
NOT_A_RULE = 3


def make():
    return RULE


def test_build():
    assert build(GiGPOCredit(omega=2.0)) == GiGPOCredit(omega=2.0)
    for name in ("Doubling", "RULE", "make"):
        assert isinstance(build(f"{__name__}:{name}"), Doubling)
    with pytest.raises(ConfigError, match="not a credit rule"):
        build(f"{__name__}:NOT_A_RULE")
    with pytest.raises(ConfigError, match="import path"):
        build("gigpo")


@pytest.mark.parametrize(
    "make_bad",
    [
        lambda: TurnReturnCredit(gamma=1.5),
        lambda: TurnReturnCredit(weight=0),
        lambda: GiGPOCredit(omega=-1),
        lambda: GroupStandard(eps=0),
        lambda: GiGPOCredit(gamma=-0.1, step=GroupMean()),
    ],
)
def test_impossible_settings(make_bad):
    with pytest.raises(ConfigError):
        make_bad()
