"""Rules that play on, on a probe whose exact advantages are known: one turn of four decides, one letter of four is right."""

from __future__ import annotations

import asyncio

import pytest
from rollout_worlds import CHAT, Walk, policy_of, stage_of, thinking

from phronesis.credit import (
    CounterfactualCredit,
    GroupMean,
    SPAECredit,
    SPOChainCredit,
    TrajectoryCredit,
    VinePPOCredit,
    VSRMCredit,
)
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.envs.bifurcation import bifurcation, exact_advantages
from phronesis.records import EpisodeGroup
from phronesis.rollout.limits import Limits
from phronesis.rollout.play import Stage, Ticket, play, score
from phronesis.rollout.rerun import Reruns
from phronesis.seeding import rng

HORIZON, DECISIVE, CHANCE = 4, 2, 0.25


class Drawing(ScriptedPolicy):
    """Says one of four letters, drawn by the request's seed."""

    def __init__(self):
        super().__init__(lambda prompt: (), vocab_size=512)
        self.letters = [CHAT.render(thinking(None, c)) for c in "abcd"]

    def _reply(self, at, prompt):
        return rng(self.params[at].seed, "say").choice(self.letters)


@pytest.fixture(scope="module")
def played():
    """A stage and a scored group with both outcomes."""
    spec = bifurcation(HORIZON)
    agent = stage_of(Walk, policy_of(thinking(None, "a"))).agent
    stage = Stage(spec=spec, policy=Drawing(), chat=CHAT, agent=agent, limits=Limits(max_turns=HORIZON))
    task = spec.task("train", DECISIVE)

    async def group():
        episodes = tuple([await play(stage, Ticket(id=f"e{i}", task=task, seed=i)) for i in range(6)])
        return await score(spec, EpisodeGroup(id="g", task=task, episodes=episodes))

    found = asyncio.run(group())
    assert {e.reward.value for e in found.episodes} == {0.0, 1.0}
    return stage, found


def credits(rule, played):
    stage, group = played
    reruns = Reruns(stage)
    found = asyncio.run(rule.assign(group, reruns))
    return [[row[0] for row in rows] for rows in found.values], reruns


def exact(group):
    return [exact_advantages(DECISIVE, HORIZON, e.reward.value, CHANCE) for e in group.episodes]


def error(found, group):
    """Mean squared distance to the exact advantages."""
    pairs = [(a, b) for x, y in zip(found, exact(group), strict=True) for a, b in zip(x, y, strict=True)]
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


def test_vineppo_comes_near_the_exact_advantage(played):
    found, reruns = credits(VinePPOCredit(rollouts=32), played)
    assert reruns.episodes == 6 * HORIZON * 32
    for row, e in zip(found, played[1].episodes, strict=True):
        assert row[DECISIVE + 1 :] == [0.0], "what comes after the vault changes nothing"
        # Three standard errors of the difference of two means of 32 draws at chance 1/4.
        assert row == pytest.approx(exact_advantages(DECISIVE, HORIZON, e.reward.value, CHANCE), abs=3 * 0.11)
    plain, _ = credits(TrajectoryCredit(baseline=GroupMean()), played)
    assert error(found, played[1]) < 0.25 * error(plain, played[1])


def test_counterfactual_credit_carries_the_luck_of_later_turns(played):
    found, _ = credits(CounterfactualCredit(rollouts=32), played)
    for row, e in zip(found, played[1].episodes, strict=True):
        # Before the vault everything is drawn anew, the vault included; after it nothing matters.
        assert row[: DECISIVE + 1] == pytest.approx([e.reward.value - CHANCE] * 3, abs=3 * 0.08) and row[-1] == 0.0


def test_a_segment_of_all_turns_is_the_episode(played):
    found, reruns = credits(SPOChainCredit(every=1000, below=1.0, rollouts=32), played)
    assert reruns.episodes == 6 * 32
    for rows, e in zip(found, played[1].episodes, strict=True):
        assert set(rows) <= {0.0, rows[0]} and rows[0] == pytest.approx(e.reward.value - CHANCE, abs=3 * 0.08)


@pytest.mark.parametrize("rule", [VSRMCredit(rollouts=16, window=0), SPAECredit(rollouts=16, penalty=0.0)])
def test_stepwise_rewards_mark_the_decisive_turn_of_a_success(rule, played):
    found, _ = credits(rule, played)
    (success, *_), (failure, *_) = (
        [row for row, e in zip(found, played[1].episodes, strict=True) if e.reward.value == r] for r in (1.0, 0.0)
    )
    drop = [a - b for a, b in zip(success, failure, strict=True)]
    assert drop[DECISIVE] > drop[DECISIVE + 1] and drop[DECISIVE] > 0.5
