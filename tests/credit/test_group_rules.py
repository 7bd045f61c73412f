"""Rules over one group or one role: OPO, length penalty, the optimal token baseline, ReMax, RAE; repair of faulty groups."""

import asyncio
import math

import pytest
from credit_groups import episode, group, returns

from phronesis.credit.baselines.group import GroupMean, MaxRL, NoBaseline
from phronesis.credit.baselines.lengths import LengthPenaltyCredit, OPOCredit
from phronesis.credit.baselines.optimal import OptimalTokenCredit, optimal_token
from phronesis.credit.baselines.remax import FAULTED, ReMaxCredit
from phronesis.credit.baselines.returns import token_returns
from phronesis.credit.baselines.role_baselines import RoleBaselineCredit
from phronesis.credit.baselines.trajectory import TrajectoryCredit
from phronesis.credit.rule import CreditRule, members
from phronesis.credit.turnwise.turns import TurnReturnCredit
from phronesis.errors import AllFaulted, ConfigError
from phronesis.records import Stop
from phronesis.train.selection import BROKEN, repair


def assign(rule, played, rerun=None):
    return asyncio.run(rule.assign(played, rerun))


def firsts(credit):
    """Each episode's first number; None where it is left out."""
    return [None if values is None else values[0][0] for values in credit.values]


def test_maxrl_as_a_baseline_of_episodes_and_of_turns():
    assert firsts(assign(TrajectoryCredit(baseline=MaxRL()), returns(1, 0, 0, 0))) == pytest.approx([3, -1, -1, -1])
    rule = TurnReturnCredit(gamma=0.5, baseline=MaxRL())
    credit = assign(rule, group(episode([0.0, 1.0]), episode([0.0, 0.0])))
    # turn 0 returns .5 and 0, turn 1 returns 1 and 0: each over its mean
    assert credit.values == (((1.0, 1.0), (1.0, 1.0)), ((-1.0, -1.0), (-1.0, -1.0)))


def test_opo_weighs_by_sampled_tokens():
    short, long = episode([1.0], sampled=(True, True)), episode([0.0], sampled=(True,) * 4 + (False,))
    assert firsts(assign(OPOCredit(), group(short, long))) == pytest.approx([2 / 3, -1 / 3])
    assert assign(OPOCredit(), returns(1, 1)).zero_variance


def test_length_penalty_prefers_the_short_success():
    short, long, wrong = episode([1.0]), episode([1.0, 0.0]), episode([0.0])
    credit = assign(LengthPenaltyCredit(output=0.0, turns=0.5), group(short, long, wrong))
    # mean reward 2/3; penalties 1/6, 1/3, 1/6; scores 5/6, 2/3, -1/6; their mean 4/9
    assert firsts(credit) == pytest.approx([7 / 18, 4 / 18, -11 / 18])
    with pytest.raises(ConfigError, match="must not be negative"):
        LengthPenaltyCredit(turns=-1.0)


def test_token_returns_follow_turns_and_skip_forced_tokens():
    assert token_returns(episode([0.0, 1.0]), 0.5) == [0.125, 0.25, 0.5, 1.0]
    assert token_returns(episode([0.25, 1.0], sampled=(True, False)), 0.5) == [0.75, 1.0]
    assert token_returns(episode([0.5], sampled=(False,))) == []


def test_the_optimal_token_baseline_of_recorded_episodes():
    certain, doubtful = math.log(0.9), math.log(0.5)
    won = episode([1.0], logprobs=(certain, doubtful))
    lost = episode([0.0], logprobs=(doubtful, doubtful))
    credit = assign(OptimalTokenCredit(), group(won, lost))
    # energies .01, .26 and .25, .5; baselines .01/.26 and .26/.76
    baselines = [0.01 / 0.26, 0.26 / 0.76]
    assert credit.values[0][0] == pytest.approx([1 - b for b in baselines], abs=1e-6)
    assert credit.values[1][0] == pytest.approx([-b for b in baselines], abs=1e-6)
    assert assign(OptimalTokenCredit(), returns(0, 0)).zero_variance


def test_a_constant_group_has_no_credit_past_the_second_longest_trace_either():
    tail = optimal_token([[1.0, 1.0, 1.0], [1.0]], [[0.3, 0.5, 0.9], [0.2]])[0][1:]
    assert tail == [1.0, 1.0], "as published; the rule knows better"
    ragged = group(episode([1.0], sampled=(True,) * 4), episode([1.0], sampled=(True,)), episode([0.0, 1.0]))
    credit = assign(OptimalTokenCredit(), ragged)
    assert credit.zero_variance and not any(a for rows in credit.values for row in rows for a in row)
    assert optimal_token([[1.0, 1.0]], [[0.3, 0.5]]) == [[1.0, 1.0]], "a group of one is compared with nothing"


@pytest.mark.parametrize("rule", [TrajectoryCredit, TurnReturnCredit])
def test_who_compares_with_none_keeps_the_last_survivor(rule):
    half_broken = group(episode([0.5]), episode([1.0], stop=Stop.env_fault))
    credit = assign(rule(baseline=NoBaseline()), half_broken)
    assert firsts(credit) == [0.5, None] and credit.reasons == (None, "env_fault") and not credit.zero_variance
    left_out = assign(rule(baseline=GroupMean()), half_broken)
    assert left_out.reasons == ("alone", "env_fault") and left_out.zero_variance


def test_without_a_baseline_equal_rewards_are_a_signal():
    assert not assign(TrajectoryCredit(baseline=NoBaseline()), returns(1, 1)).zero_variance
    assert assign(TrajectoryCredit(baseline=NoBaseline()), returns(0, 0)).zero_variance


def test_turns_without_a_counterpart_are_counted():
    """The first episode's third turn is deeper than any other's; the second one's state is met once."""
    ragged = group(episode([0.0, 0.0, 1.0]), episode([0.0, 0.0]), episode([0.0]))
    credit = assign(TurnReturnCredit(gamma=1.0), ragged)
    assert credit.counts == {"lone_turns": 1} and credit.values[0][2] == (0.0, 0.0)
    assert credit.values[0][1] == (0.5, 0.5), "one counterpart is enough"
    assert assign(TurnReturnCredit(gamma=1.0, baseline=NoBaseline()), ragged).counts == {}
    assert assign(TurnReturnCredit(gamma=1.0, pool="group"), ragged).counts == {}


def test_what_maxrl_gives_up_is_counted():
    rule = TrajectoryCredit(baseline=MaxRL())
    assert assign(rule, returns(1, -2)).counts == {"mean_not_positive": 1}
    assert assign(rule, returns(0, 0)).counts == assign(rule, returns(1, 0)).counts == {}
    turns = assign(TurnReturnCredit(gamma=1.0, baseline=MaxRL()), group(episode([-1.0, 1.0]), episode([0.0, -3.0])))
    assert turns.counts == {"mean_not_positive": 2}


def test_the_optimal_token_baseline_with_the_sums_of_squares():
    halves = (math.log(0.5),) * 2
    won, lost = episode([1.0], logprobs=halves, name="won"), episode([0.0], logprobs=halves, name="lost")
    credit = assign(OptimalTokenCredit(judge="credit_groups:squares"), group(won, lost))
    # energies .5, 1 where the mass lies on two tokens; .3, .6 where the rest is spread over many
    assert credit.values[0][0] == pytest.approx([1 - 0.5 / 0.8, 1 - 1 / 1.6], abs=1e-6)
    assert credit.values[1][0] == pytest.approx([-0.5 / 0.8, -1 / 1.6], abs=1e-6)


def test_remax_plays_one_greedy_episode_a_group():
    asked = []

    async def rerun(episode, turn, n, *, greedy=False):
        asked.append((episode.id, turn, n, greedy))
        return (0.25,)

    played = group(episode([1.0], stop=Stop.env_fault), episode([1.0], name="second"), episode([0.0]))
    credit = assign(ReMaxCredit(), played, rerun)
    assert firsts(credit) == [None, 0.75, -0.25] and credit.reasons == ("env_fault", None, None)
    assert asked == [("second", 0, 1, True)]
    assert firsts(assign(ReMaxCredit(), returns(1.0), rerun)) == [0.75], "a group of one has a baseline"
    lone = group(episode([1.0], stop=Stop.env_fault), episode([1.0]))
    assert firsts(assign(ReMaxCredit(), lone, rerun)) == [None, 0.75], "so has a lone survivor"
    assert members(lone).kept == ()


def test_remax_without_a_greedy_episode():
    async def broken(episode, turn, n, *, greedy=False):
        raise AllFaulted("no continuation")

    credit = assign(ReMaxCredit(), group(episode([1.0]), episode([1.0], stop=Stop.cancelled)), broken)
    assert credit.values == (None, None) and credit.reasons == (FAULTED, "cancelled") and credit.zero_variance
    with pytest.raises(ConfigError, match="greedy"):
        assign(ReMaxCredit(), returns(1.0))


def test_running_baselines_of_roles_last_over_groups_and_checkpoints():
    rule = RoleBaselineCredit(decay=0.5).begin()
    assert isinstance(rule, CreditRule)
    white, black = {"role": "white"}, {"role": "black"}
    assert firsts(assign(rule, returns(1.0, 1.0, payload=white))) == [1.0, 0.5]
    assert firsts(assign(rule, returns(-1.0, payload=black))) == [-1.0]
    assert rule.state() == {"white": 0.75, "black": -0.5}
    other = RoleBaselineCredit(decay=0.5).begin()
    other.restore(rule.state())
    for each in (rule, other):
        assert firsts(assign(each, returns(1.0, payload=white))) == [0.25]
    with pytest.raises(ConfigError, match="payload 'role'"):
        assign(rule, returns(1.0))


def test_one_running_baseline_for_all():
    rule = RoleBaselineCredit(keys=(), decay=0.5, start=1.0).begin()
    assert firsts(assign(rule, returns(1.0, 0.0))) == [0.0, -1.0]
    with pytest.raises(ConfigError, match="decay"):
        RoleBaselineCredit(decay=1.0)


def test_repair_copies_members_after_the_statistics():
    played = group(*(episode([r]) for r in (1.0, 0.0, 0.0)), episode([1.0], stop=Stop.env_fault))
    credit = assign(TrajectoryCredit(), played)
    mended, fuller = repair(played, credit)
    assert [e.id for e in mended.episodes] == [played.episodes[i].id for i in (0, 1, 2, 0)]
    assert firsts(fuller) == pytest.approx([1, -0.5, -0.5, 1]), "the baseline is of three members, not of four"
    assert fuller.reasons == (None,) * 4


def test_repair_gives_up_a_group_with_half_of_it_missing():
    fault = {"stop": Stop.env_fault}
    played = group(episode([1.0]), episode([0.0]), episode([1.0], **fault), episode([1.0], **fault))
    same, credit = repair(played, assign(TrajectoryCredit(), played))
    assert same is played and credit.values == (None,) * 4
    assert credit.reasons == (BROKEN, BROKEN, "env_fault", "env_fault")
    whole = returns(1, 0)
    given = assign(TrajectoryCredit(), whole)
    assert repair(whole, given) == (whole, given)
