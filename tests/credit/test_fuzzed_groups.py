"""What must hold of every credit rule on groups as they come: forks, rewritten histories, ragged lengths, turns and episodes
without sampled tokens, faults, single members."""

import asyncio
import random

import msgspec
import pytest

from phronesis import credit as rules
from phronesis.credit.rule import Settles
from phronesis.errors import ConfigError, GroupTooSmall
from phronesis.records import (
    Component,
    Episode,
    EpisodeGroup,
    Failure,
    Finish,
    Message,
    Reply,
    Reward,
    Span,
    Stop,
    Task,
    ToolCall,
    Turn,
    say,
)

TASK = Task(id="t", env="toy", payload={"role": "solve", "kind": "add"})
SEEDS = range(12)


def drawn_turn(source, k, forks):
    follows = k - 1
    if k and forks and source.random() < 0.35:
        follows = source.randint(-1, k - 1)
    tokens = source.randint(0, 3)
    return Turn(
        parent=follows if follows >= 0 and source.random() < 0.8 else None,
        follows=follows,
        context=(source.choice((1, 2)), 9),
        completion=tuple(source.choice((3, 4)) for _ in range(tokens)),
        sampled=tuple(source.random() < 0.8 for _ in range(tokens)),
        logprobs=tuple(-source.random() - 0.01 for _ in range(tokens)),
        entropies=tuple(source.random() for _ in range(tokens)),
        finish=Finish.stop,
        prompt_crc=0,
        action=Message(role="assistant", tool_calls=(ToolCall(id="c", name="x", arguments={}),) * (source.random() < 0.5)),
        spans=(Span(kind="plan", start=0, end=1),) if tokens and not k else (),
        reply=Reply(state_key=source.choice("ab"), metrics={"p": source.random()}, messages=(say("user", "go on"),)),
    )


def drawn_episode(source, name, *, forks=False, fault=False, shaped=False):
    turns = tuple(drawn_turn(source, k, forks) for k in range(source.randint(0 if source.random() < 0.15 else 1, 5)))
    parts = [Component(name="whole", score=source.choice((0.0, 0.5, 1.0)))]
    parts += [Component(name="turn", score=source.choice((0.0, 0.5)), turn=k) for k in range(len(turns) if shaped else 0)]
    return Episode(
        id=name,
        task=TASK,
        seed=source.randint(0, 9),
        turns=turns,
        stop=Stop.env_fault if fault else Stop.completed,
        reward=None if fault else Reward(components=tuple(parts)),
        failure=Failure(where="env.step", kind="E", message="m") if fault else None,
    )


def drawn_group(seed):
    source = random.Random(seed)
    how = {"forks": source.random() < 0.6, "shaped": source.random() < 0.5}
    size = source.choice((1, 2, 3, 4, 6))
    return [drawn_episode(source, f"e{i}", fault=source.random() < 0.2, **how) for i in range(size)], drawn_other(source)


def drawn_other(source):
    return [drawn_episode(source, f"o{i}") for i in range(3)]


class Replayed:
    """Stands for re-runs: what they give is a function of the episode and the turn."""

    def __init__(self, constant):
        self.constant = constant

    async def __call__(self, episode, turn, n, *, greedy=False):
        source = random.Random(f"{episode.id} {turn}")
        return (episode.reward.value,) * n if self.constant else tuple(source.choice((0.0, 1.0)) for _ in range(n))

    async def answer(self, episode, turn, text):
        return (-0.5,)

    async def hindsight(self, episode, turn, hint):
        return (-0.4,) * len(episode.turns[turn].completion)


def values(episode):
    return tuple((0.3,) * len(t.completion) for t in episode.turns)


def assign(rule, episodes, other, *, constant=False):
    """The rule's credit of a group; a second group is there for rules that look at the whole step."""
    groups = [EpisodeGroup(id=name, task=TASK, episodes=tuple(es)) for name, es in (("g", episodes), ("h", other))]
    found = [asyncio.run(rule.assign(g, Replayed(constant))) for g in groups]
    return (rule.settle(groups, found) if isinstance(rule, Settles) else found)[0]


MEAN, STANDARD = rules.GroupMean(singleton="zero"), rules.GroupStandard(singleton="zero")
CENTRED = {
    "trajectory": rules.TrajectoryCredit(baseline=rules.LeaveOneOut(singleton="zero")),
    "best_only": rules.TrajectoryCredit(baseline=rules.BestOnly(singleton="zero")),
    "turn": rules.TurnReturnCredit(gamma=1.0, baseline=MEAN),
    "turn-state": rules.TurnReturnCredit(gamma=1.0, pool="state", baseline=STANDARD),
    "turn-group": rules.TurnReturnCredit(gamma=1.0, pool="group", baseline=MEAN),
    "gigpo": rules.GiGPOCredit(gamma=1.0, episode=MEAN),
    "critical": rules.CriticalCredit(baseline=MEAN),
    "empg": rules.EMPGCredit(baseline=STANDARD),
    "arpo": rules.ARPOCredit(baseline=STANDARD),
    "earl": rules.EARLCredit(baseline=STANDARD),
    "plan": rules.PlanCredit(baseline=MEAN),
    "tree": rules.TreeCredit(),
    "treerpo": rules.TreeCredit(against="siblings", scale=True),
    "mt_grpo": rules.MTGRPOCredit(),
    "opo": rules.OPOCredit(),
    "gdpo": rules.GDPOCredit(),
    "hierarchical": rules.HierarchicalCredit(),
    "gpg": rules.GPGCredit(),
    "lite_ppo": rules.LitePPOCredit(),
    "reinforce_pp_baseline": rules.ReinforcePPBaselineCredit(),
}
"""Rules that a constant on all rewards does not move."""
COMPARING = CENTRED | {
    "maxrl": rules.TrajectoryCredit(baseline=rules.MaxRL(singleton="zero")),
    "otb": rules.OptimalTokenCredit(),
    "vsrm": rules.VSRMCredit(baseline=MEAN),
    "aspo": rules.ASPOCredit(baseline=STANDARD),
    "vineppo": rules.VinePPOCredit(rollouts=2),
    "counterfactual": rules.CounterfactualCredit(rollouts=2),
    "spo_chain": rules.SPOChainCredit(rollouts=2),
    "remax": rules.ReMaxCredit(),
}
"""Rules under which a group of equal rewards, and of equal continuations, has no credit."""
ALL = COMPARING | {
    "none": rules.TrajectoryCredit(baseline=rules.NoBaseline()),
    "turn-none": rules.TurnReturnCredit(baseline=rules.NoBaseline()),
    "igpo": rules.IGPOCredit(metric="p", baseline=MEAN),
    "potential": rules.PotentialCredit(metric="p", baseline=MEAN),
    "spae": rules.SPAECredit(baseline=MEAN),
    "rewardflow": rules.RewardFlowCredit(baseline=MEAN),
    "rewardflow-none": rules.RewardFlowCredit(baseline=rules.NoBaseline()),
    "selaur": rules.SELAURCredit(vocabulary=50, baseline=MEAN),
    "self_distilled": rules.SelfDistilledCredit(baseline=MEAN),
    "hindsight": rules.HindsightCredit(baseline=MEAN),
    "hca": rules.HCACredit(),
    "length_penalty": rules.LengthPenaltyCredit(),
    "reinforce_pp": rules.ReinforcePPCredit(),
    "trrpp": rules.TRRPPCredit(),
    "verified": rules.VerifiedCredit(),
    "gae": rules.GAECredit().with_values(values),
    "sao": rules.SAOCredit().with_values(values),
    "turn_gae": rules.TurnGAECredit(whiten=True).with_values(values),
    "poad": rules.POADCredit().with_values(values),
}
FIRST_COUNTS = ("remax", "verified", "earl")
"""Rules for which the order of a group matters: whose world the greedy episode plays in, which of equal attempts is kept, which
of equally near attempts a forced one departs from."""


def credited(rule, seed, change=list, *, everywhere=list, constant=False):
    """The group of a seed and its credit; None where the rule refuses it, which must be for a reason it names."""
    episodes, other = (everywhere(es) for es in drawn_group(seed))
    try:
        return episodes, assign(rule, change(episodes), other, constant=constant)
    except GroupTooSmall:
        assert len(episodes) == 1
    except ConfigError as error:
        assert "forks" in str(error) or "no 'plan' span" in str(error)
    return None


def close(a, b):
    """Equal up to rounding, episode by episode."""
    assert [x is None for x in a] == [x is None for x in b]
    for one, two in zip(a, b, strict=True):
        if one is not None:
            flat = [x for row in one for x in row]
            assert flat == pytest.approx([x for row in two for x in row], abs=1e-6, rel=1e-5)


@pytest.mark.parametrize("rule", ALL.values(), ids=ALL)
def test_credit_fits_its_episodes(rule):
    for found in filter(None, (credited(rule, seed) for seed in SEEDS)):
        episodes, credit = found
        rows = []
        for episode, reason, turns in zip(episodes, credit.reasons, credit.values, strict=True):
            assert (turns is None) == (reason is not None) and not (episode.stop.is_fault and turns is not None)
            for turn, row in zip(episode.turns, turns or [()] * len(episode.turns), strict=True):
                assert turns is None or len(row) == len(turn.completion)
                assert all(abs(a) < 1e6 and (s or a == 0) for a, s in zip(row, turn.sampled, strict=False))
                rows.append(row)
        assert credit.zero_variance or any(any(row) for row in rows), "a group without any credit says so"


@pytest.mark.parametrize("rule", [r for name, r in ALL.items() if name not in FIRST_COUNTS])
def test_the_order_of_a_group_does_not_matter(rule):
    for seed in SEEDS:
        if found := credited(rule, seed):
            episodes, credit = found
            order = random.Random(seed).sample(range(len(episodes)), len(episodes))
            _, shuffled = credited(rule, seed, lambda es, order=order: [es[i] for i in order])
            close([shuffled.values[order.index(i)] for i in range(len(order))], credit.values)


@pytest.mark.parametrize("rule", ALL.values(), ids=ALL)
def test_one_more_fault_changes_nothing(rule):
    broken = drawn_episode(random.Random(99), "broken", fault=True)
    for seed in SEEDS:
        found = credited(rule, seed)
        if found and sum(v is not None for v in found[1].values) > 1:
            _, more = credited(rule, seed, lambda es: [*es, broken])
            close(more.values[:-1], found[1].values)


def rewarded(episodes, change):
    return [e if e.reward is None else msgspec.structs.replace(e, reward=change(e.reward)) for e in episodes]


@pytest.mark.parametrize("rule", COMPARING.values(), ids=COMPARING)
def test_equal_rewards_say_nothing(rule):
    same = Reward(components=(Component(name="whole", score=0.5),))
    for seed in SEEDS:
        if found := credited(rule, seed, everywhere=lambda es: rewarded(es, lambda _: same), constant=True):
            assert not any(abs(a) > 1e-9 for turns in found[1].values if turns for row in turns for a in row), seed


@pytest.mark.parametrize("rule", CENTRED.values(), ids=CENTRED)
def test_a_gift_to_everybody_changes_nothing(rule):
    def with_gift(reward):
        return Reward(components=(*reward.components, Component(name="gift", score=7.0)))

    for seed in SEEDS:
        if found := credited(rule, seed):
            _, more = credited(rule, seed, everywhere=lambda es: rewarded(es, with_gift))
            close(more.values, found[1].values)


def test_gains_along_first_branches_add_up_to_the_reward_minus_the_first_value():
    """VinePPO's, on every trajectory whose turns are each the first to follow the one before."""
    checked = 0
    for seed in SEEDS:
        episodes, credit = credited(rules.VinePPOCredit(rollouts=2), seed)
        for episode, turns in zip(episodes, credit.values, strict=True):
            if not turns or not all(any(t.sampled) for t in episode.turns):
                continue
            start = sum(asyncio.run(Replayed(False)(episode, 0, 2))) / 2
            line = first_branch(episode)
            gained = sum(max(turns[k], key=abs) for k in line)
            assert gained == pytest.approx(episode.reward.value - start)
            checked += 1
    assert checked > 5


def first_branch(episode):
    """The line from the first turn on which every turn is the first to follow the one before it."""
    line = [0]
    while line[-1] in episode.before:
        line.append(episode.before.index(line[-1]))
    return line
