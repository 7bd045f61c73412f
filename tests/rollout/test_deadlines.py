"""Deadlines on what is awaited: each ends in a typed failure that names where it waited and which limit that was.

Pinned: an agent that is busy with itself hangs, one that waits for the policy or the world does not, however long it plays; a
wait for a place is not charged to the episode; scores of the policy, and of a world that is looked at, are limited.
"""

from __future__ import annotations

import asyncio

import pytest
from rollout_worlds import TASK, Agent, Walk, played, policy_of, spec_of, stage_of, thinking

from phronesis.errors import ConfigError, EnvFault, Overdue, PolicyFault, TrainingError
from phronesis.records import Stop
from phronesis.rollout.asking import Asking
from phronesis.rollout.deadlines import within
from phronesis.rollout.limits import Limits
from phronesis.rollout.prefix import check_world


async def forever():
    await asyncio.Event().wait()


async def test_what_takes_too_long_is_cancelled_and_named():
    ended = []

    async def work():
        try:
            await forever()
        finally:
            ended.append(True)

    with pytest.raises(Overdue, match=r"credit \(deadlines\.credit_seconds\) gave no answer within 0\.01 s; raise the limit"):
        await within(0.01, work(), Overdue, "credit (deadlines.credit_seconds)")
    assert ended == [True] and issubclass(Overdue, TrainingError)


async def test_its_own_time_outs_are_passed_on():
    async def work():
        raise TimeoutError("the judge's own")

    with pytest.raises(TimeoutError, match="the judge's own"):
        await within(5.0, work(), EnvFault, "it")
    assert await within(5.0, asyncio.sleep(0, "done"), EnvFault, "it") == "done"


def test_an_agent_busy_with_itself_hangs():
    async def lost(session):
        await session.act(await session.sample())
        await forever()

    stage = stage_of(Walk, policy_of(*[thinking(None, "on")] * 3), agent=Agent(lost), agent_seconds=0.02)
    episode = played(stage)
    assert (episode.stop, len(episode.turns)) == (Stop.infra_fault, 1)
    assert (episode.failure.where, episode.failure.kind) == ("agent.run", "Hung")
    assert "no answer within 0.02 s" in episode.failure.message


def test_an_agent_that_waits_for_the_world_does_not_hang():
    class Slow(Walk):
        async def step(self, action):
            await asyncio.sleep(0.25)
            return await super().step(action)

    episode = played(stage_of(Slow, policy_of(*[thinking(None, "on")] * 3), agent_seconds=0.6))
    assert episode.stop is Stop.completed and len(episode.turns) == 3, "more than .75 s in all"


def test_one_branch_that_waits_for_the_world_is_enough():
    class Slow(Walk):
        async def step(self, action):
            await asyncio.sleep(0.06)
            return await super().step(action)

    async def both(session):
        turn = await session.sample()
        await asyncio.gather(session.act(turn), asyncio.sleep(0.05))

    episode = played(stage_of(lambda: Slow(length=1), policy_of(thinking(None, "on")), agent=Agent(both), agent_seconds=0.03))
    assert episode.stop is Stop.completed


def test_a_place_is_waited_for_only_so_long():
    class Full(Walk):
        waits_for = "a place"

        async def admit(self):
            await forever()

    episode = played(stage_of(Full, policy_of(), admit_seconds=0.02))
    assert (episode.stop, episode.failure.where, episode.failure.kind) == (Stop.env_fault, "env.admit", "Hung")


async def test_scores_of_the_policy_are_limited():
    class Silent:
        async def sample(self, prompt, params):
            return await forever()

        async def score(self, ids, temperature=1.0):
            return await forever()

    asking = Asking()
    asking.stage = stage_of(Walk, Silent(), policy_seconds=0.02)
    with pytest.raises(PolicyFault, match=r"limits\.policy_seconds\) gave no answer within 0\.02 s"):
        await asking._score((1, 2), (3,), 1.0)


async def test_a_world_that_hangs_while_it_is_looked_at_is_left_for_play_to_find():
    closed = []

    class Hangs(Walk):
        async def reset(self, task, seed):
            await forever()

        async def close(self):
            closed.append(True)

    await check_world(spec_of(Hangs), TASK, 0, seconds=0.02)
    assert closed == [True]


@pytest.mark.parametrize("name", ["agent_seconds", "admit_seconds"])
def test_limits_that_cannot_be_are_refused(name):
    with pytest.raises(ConfigError, match=f"limits.{name} must be positive"):
        Limits(**{name: 0.0}).validate()
