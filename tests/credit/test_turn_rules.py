"""Rules of turns on hand-made groups: MT-GRPO, GiGPO's modes, ASPO, plans, and what a rule says when something is missing."""

import asyncio

import msgspec
import pytest
from credit_groups import episode, group

from phronesis.config import load
from phronesis.credit import build
from phronesis.credit.baselines.group import GroupMean, GroupStandard
from phronesis.credit.build import CreditConfig
from phronesis.credit.judged.hindsight import HCACredit, HindsightCredit, SelfDistilledCredit
from phronesis.credit.judged.igpo import IGPOCredit
from phronesis.credit.judged.shapley import ShapleyCredit
from phronesis.credit.replays.counterfactual import CounterfactualCredit
from phronesis.credit.replays.montecarlo import SPOChainCredit, VinePPOCredit
from phronesis.credit.replays.stepwise import SPAECredit, VSRMCredit
from phronesis.credit.turnwise.aspo import ASPOCredit, aspo, first_call
from phronesis.credit.turnwise.gigpo import gigpo
from phronesis.credit.turnwise.mt_grpo import MTGRPOCredit, answered_turns, mt_grpo
from phronesis.credit.turnwise.plans import PlanCredit, plan_of, two_levels
from phronesis.credit.turnwise.potential import PotentialCredit
from phronesis.credit.turnwise.turns import chain, pooled_advantages, tree_returns
from phronesis.errors import ConfigError
from phronesis.records import Message, Reply, Span, ToolCall, ToolSpec, say


def assign(rule, g, rerun=None):
    return asyncio.run(rule.assign(g, rerun))


def by_turn(credit):
    return [None if rows is None else [row[0] for row in rows] for rows in credit.values]


def with_turns(e, **changes):
    """The episode with fields of its turns replaced; a list gives one value per turn."""
    turns = tuple(
        msgspec.structs.replace(t, **{k: (v[i] if isinstance(v, list) else v) for k, v in changes.items()})
        for i, t in enumerate(e.turns)
    )
    return msgspec.structs.replace(e, turns=turns)


TOOL = Reply(messages=(Message(role="tool", content=say("tool", "4").content, tool_call_id="c"),))
CALL = Message(role="assistant", tool_calls=(ToolCall(id="c", name="add", arguments={}),))


def test_mt_grpo_worked_example():
    found = mt_grpo([1, 1, 0, 0], [1, 0, 0, 0])
    assert found.before == pytest.approx([2.365575, 0.365975, -1.365775, -1.365775], abs=1e-6)
    assert found.after == pytest.approx([1.4997, -0.4999, -0.4999, -0.4999], abs=1e-6)


def test_mt_grpo_without_a_tool_result_is_the_sum_standardised():
    found = mt_grpo([1, 0], [1, 1], tool_result=[True, False])
    # Turn z ±.70701, outcome constant: 0; sums (2, 1) have the same z as the turn rewards.
    z = 0.5 / (0.5**0.5 + 1e-4)
    assert found.before == pytest.approx([z, -z]) and found.after == pytest.approx([0.0, -z])


def test_mt_grpo_constant_and_empty_groups():
    assert mt_grpo([2, 2], [1, 1]) == ((0.0, 0.0), (0.0, 0.0))
    assert mt_grpo([], []) == ((), ()) and mt_grpo([3], [1]) == ((0.0,), (0.0,))


def test_mt_grpo_credit_changes_after_the_first_tool_result():
    replies = [Reply(), TOOL, Reply()]
    a = with_turns(episode([1, 0, 0], parts={"answer": 1.0}), reply=replies)
    b = with_turns(episode([0, 0, 0], parts={"answer": 0.0}), reply=replies)
    assert answered_turns(a) == (False, True, False) and answered_turns(episode([0])) == (False,)
    z = 0.5 / (0.5**0.5 + 1e-4)
    rows = by_turn(assign(MTGRPOCredit(), group(a, b)))
    assert rows[0] == pytest.approx([2 * z, 2 * z, z]) and rows[1] == pytest.approx([-2 * z, -2 * z, -z])
    half = by_turn(assign(MTGRPOCredit(lam=0.5, outcome=("answer",)), group(a, b)))
    assert half[0] == pytest.approx([1.5 * z, 1.5 * z, z])


def test_mt_grpo_without_tools_goes_by_the_first_answer():
    """A world that speaks in user messages: its first answer parts the tokens, unless it offers tools."""
    said = Reply(messages=(say("user", "go on"),))
    a = with_turns(episode([1, 0], parts={"answer": 1.0}), reply=[said, Reply(done=True)])
    b = with_turns(episode([0, 0], parts={"answer": 0.0}), reply=[said, Reply(messages=said.messages, done=True)])
    assert answered_turns(a) == answered_turns(b) == (True, False)
    z = 0.5 / (0.5**0.5 + 1e-4)
    rows = by_turn(assign(MTGRPOCredit(), group(a, b)))
    assert rows[0] == pytest.approx([2 * z, z]) and rows[1] == pytest.approx([-2 * z, -z])
    tools = (ToolSpec(name="add", description="Adds.", parameters={}),)
    offered = [msgspec.structs.replace(e, tools=tools) for e in (a, b)]
    assert answered_turns(offered[0]) == (False, False)
    both = 1.0 / (2**0.5 + 1e-4)
    assert by_turn(assign(MTGRPOCredit(), group(*offered))) == [pytest.approx([both] * 2), pytest.approx([-both] * 2)]


def test_mt_grpo_on_a_fork_looks_at_the_way_to_each_turn():
    """Turn 1 was answered by a tool; turn 2 is its sibling, so nothing was answered before it."""
    forked = with_turns(episode([1, 0, 0, 0], parts={"answer": 1.0}), reply=[Reply(), TOOL, Reply(), Reply()])
    forked = with_turns(forked, parent=[None, 0, 0, 1], follows=[-1, 0, 0, 1])
    other = with_turns(episode([0, 0], parts={"answer": 0.0}), reply=[TOOL, Reply()])
    found = by_turn(assign(MTGRPOCredit(), group(forked, other)))[0]
    z = 0.5 / (0.5**0.5 + 1e-4)
    assert found == pytest.approx([2 * z, 2 * z, 2 * z, z])


def test_gigpo_modes():
    rewards = [[0, 0, 1], [0, 0, 0]]
    returns = [tree_returns(r, chain(3), 0.95) for r in rewards]
    anchors = [["s0", "s1", "s2"], ["s0", "s1", "s3"]]
    mean = gigpo([1, 0], returns, anchors, episode=GroupMean(), step=GroupMean())
    assert mean.step == [pytest.approx([0.45125, 0.475, 0.0]), pytest.approx([-0.45125, -0.475, 0.0])]
    assert mean.total[0] == pytest.approx([0.95125, 0.975, 0.5])
    std = gigpo([1, 0], returns, anchors, episode=GroupStandard(), step=GroupStandard())
    # Two of a group: each deviates by d from the mean and the Bessel deviation is d * sqrt 2.
    assert std.episode == pytest.approx([0.5 / (0.5**0.5 + 1e-6), -0.5 / (0.5**0.5 + 1e-6)])
    assert std.step[0] == pytest.approx([0.45125 / (0.45125 * 2**0.5 + 1e-6), 0.475 / (0.475 * 2**0.5 + 1e-6), 0.0])


def test_a_pool_without_a_key_is_alone():
    found = pooled_advantages({4: [1.0, 0.0], 7: [0.0]}, {4: ["a", None], 7: ["a"]}, GroupMean())
    assert found == {4: [0.5, 0.0], 7: [-0.5]}


def test_aspo_worked_example_and_sign():
    assert aspo([10, 30, 50], 100, 0.5) == pytest.approx([0.85, 0.5, 0.15])
    assert aspo([0, 1000], 10, 0.0) == (0.0, 0.0)
    assert min(aspo([0, 1000], 10, 0.2, k=0.99)) > 0
    assert aspo([], 1.0, 1.0) == ()


def test_aspo_touches_correct_episodes_that_called_only():
    early = with_turns(episode([0, 1]), action=[CALL, None])
    late = with_turns(episode([0, 1]), action=[None, CALL])
    silent, wrong = episode([1]), with_turns(episode([0, 0]), action=[CALL, None])
    assert (first_call(early), first_call(late), first_call(silent)) == (0, 2, None)
    inside = with_turns(
        episode([0]), action=[CALL], spans=(Span(kind="think", start=0, end=1), Span(kind="act", start=1, end=2))
    )
    assert first_call(inside) == 1
    rows = by_turn(assign(ASPOCredit(delta=-0.4, k=0.9, baseline=GroupMean()), group(early, late, silent, wrong)))
    # Advantages .25 and -.75; places 0 and 2, mean 1, mean length 4: bonus ±.1.
    assert rows[0] == pytest.approx([0.35, 0.35]) and rows[1] == pytest.approx([0.15, 0.15])
    assert rows[2] == pytest.approx([0.25]) and rows[3] == pytest.approx([-0.75, -0.75])


def test_two_levels_worked_example():
    found = two_levels(["a", "a", "b", "b"], [1, 0, 0, 0], GroupMean())
    assert found.plan == pytest.approx([0.25, 0.25, -0.25, -0.25])
    assert found.outcome == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert two_levels(["a", "a"], [1, 0], GroupMean()).plan == (0.0, 0.0)


def planned(reward, ids):
    e = episode([reward], sampled=(True, True, True))
    return with_turns(e, completion=(*ids, 9), spans=(Span(kind="plan", start=0, end=2), Span(kind="answer", start=2, end=3)))


def test_plan_tokens_take_the_plans_advantage():
    g = group(planned(1, (1, 2)), planned(0, (1, 2)), planned(0, (3, 4)), planned(0, (3, 4)))
    assert plan_of(g.episodes[0]) == (1, 2)
    credit = assign(PlanCredit(weight=2.0), g)
    assert credit.values[0] == (pytest.approx((0.5, 0.5, 0.75)),)
    assert credit.values[3] == (pytest.approx((-0.5, -0.5, -0.25)),)
    with pytest.raises(ConfigError, match="'plan' span"):
        assign(PlanCredit(), group(episode([1]), episode([0])))


@pytest.mark.parametrize(
    "rule",
    [VinePPOCredit(), SPOChainCredit(), CounterfactualCredit(), VSRMCredit(), SPAECredit()],
    ids=lambda r: type(r).__name__,
)
def test_rules_that_play_on_say_that_they_cannot(rule):
    with pytest.raises(ConfigError, match="given no rerun"):
        assign(rule, group(episode([1]), episode([0])))


def test_rules_that_ask_say_that_there_is_nobody_to_ask():
    g = group(episode([1]), episode([0]))
    with pytest.raises(ConfigError, match="name an async function in its 'judge'"):
        assign(ShapleyCredit(judge=""), g)
    for rule in (HCACredit(), HindsightCredit(), SelfDistilledCredit(), IGPOCredit(answer="gold")):
        with pytest.raises(ConfigError, match=r"asks the trained policy|no text or number 'gold'"):
            assign(rule, g)


@pytest.mark.parametrize("kind", [IGPOCredit, PotentialCredit])
def test_rules_that_read_a_number_want_one_source_of_it(kind):
    for wrong in ({}, {"judge": "a:b", "metric": "c"}):
        with pytest.raises(ConfigError, match="either a 'metric'"):
            kind(**wrong)


def test_a_judge_must_be_callable():
    with pytest.raises(ConfigError, match="cannot be called"):
        assign(ShapleyCredit(judge="math:pi"), group(episode([1]), episode([0])))


class OneLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A config that holds a credit rule."""

    credit: CreditConfig
    """Any of the built-in ones."""


TAGS = [
    "arpo",
    "aspo",
    "counterfactual",
    "critical",
    "earl",
    "empg",
    "hca",
    "hindsight",
    "igpo",
    "mt_grpo",
    "plan",
    "potential",
    "rewardflow",
    "self_distilled",
    "shapley",
    "spae",
    "spo_chain",
    "tree",
    "vineppo",
    "vsrm",
]


JUDGED = ("igpo", "potential", "shapley")


@pytest.mark.parametrize("tag", TAGS)
def test_one_line_of_config_selects_a_rule(tag):
    judge = ["credit.judge=package.module:name"] if tag in JUDGED else []
    rule = load(OneLine, overrides=[f"credit.type={tag}", *judge]).credit
    assert build(rule) is rule and type(rule).__struct_config__.tag == tag


def test_a_missing_judge_is_refused_when_the_config_is_read():
    for tag in JUDGED:
        with pytest.raises(ConfigError, match="judge"):
            load(OneLine, overrides=[f"credit.type={tag}"])
