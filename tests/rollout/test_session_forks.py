"""Behaviour lock of the session: forks.

Pinned: a fork continues from just before a turn, or from here, on a new branch of the same episode; its environment comes
from a snapshot where there is one, else from a replay that is verified; a replay that differs is an environment fault; the
ids of every branch stay exact; a fork crosses a rewritten history; branches share one allowance and never a seed.
"""

from __future__ import annotations

import asyncio

from rollout_worlds import CHATS, TASK, Agent, SavedWalk, Walk, played, policy_of, stage_of, thinking
from test_session_tokens import assert_exact

from phronesis.engine.scripted import ScriptedPolicy
from phronesis.records import Reply, Stop, say

TALK = [thinking(None, f"word {i}") for i in range(12)]


async def once(session):
    turn = await session.sample()
    await session.act(turn)
    return turn


def branching(make, *, chat=CHATS["preserve"], talk=TALK, **limits):
    """Two turns, then a fork from here, one before the second turn and one before the first; each plays to its end."""
    envs, sessions = [], []

    async def run(session):
        await once(session)
        await once(session)
        sessions.extend([session, await session.fork(), await session.fork(1), await session.fork(0)])
        for branch in sessions[1:]:
            while not branch.done:
                await once(branch)
        await once(session)

    policy = policy_of(*talk, chat=chat)
    episode = played(
        stage_of(lambda: envs.append(make()) or envs[-1], policy, chat=chat, agent=Agent(run), max_turns=20, **limits)
    )
    assert all(env.closed == 1 for env in envs)
    return episode, policy, envs, sessions


def test_a_fork_is_a_branch_of_the_tree():
    for make in (Walk, SavedWalk):
        episode, policy, envs, sessions = branching(make)
        assert episode.stop is Stop.completed and episode.failure is None
        assert_exact(episode, policy)
        assert [t.parent for t in episode.turns] == [None, 0, 1, 0, 3, None, 5, 6, 1]
        assert [t.follows for t in episode.turns] == [-1, 0, 1, 0, 3, -1, 5, 6, 1]
        assert episode.leaves == episode.ends == (2, 4, 7, 8)
        assert [episode.path(leaf) for leaf in episode.leaves] == [(0, 1, 2), (0, 3, 4), (5, 6, 7), (0, 1, 8)]
        assert episode.turns[2].context == episode.turns[8].context
        assert episode.turns[5].context == episode.turns[0].context
        assert [[m.text for m in s.messages if m.role == "assistant"] for s in sessions] == [
            ["word 0", "word 1", "word 8"], ["word 0", "word 1", "word 2"], ["word 0", "word 3", "word 4"],
            ["word 5", "word 6", "word 7"],
        ]  # fmt: skip
        assert [env.heard[-1] for env in envs] == ["word 8", "word 2", "word 4", "word 7"]
        assert len({t.seed for t in episode.turns}) == 9
        assert sorted(policy.released) == [f"e/{n}" for n in range(4)]
        assert len({p.cache_key for p in policy.params}) == 4


def test_a_snapshot_saves_the_replay():
    steps = []

    class Counted(SavedWalk):
        async def step(self, action):
            steps.append(action.text)
            return await super().step(action)

    async def run(session):
        await once(session)
        branch = await session.fork()
        assert branch.env.heard == ["word 0"]
        await once(branch)

    played(stage_of(Counted, policy_of(*TALK), agent=Agent(run)))
    assert steps == ["word 0", "word 1"]


def test_a_fork_crosses_a_rewritten_history():
    talk = [thinking(f"thought {i}", f"word {i}") for i in range(12)]
    for make in (Walk, SavedWalk):
        chat = CHATS["strip"]
        episode, policy, _, sessions = branching(make, chat=chat, talk=talk)
        assert episode.stop is Stop.completed and episode.failure is None
        assert_exact(episode, policy)
        assert all(t.parent is None for t in episode.turns)
        assert episode.before == (None, 0, 1, 0, 3, None, 5, 6, 1) and episode.ends == (2, 4, 7, 8)
        assert [episode.line(end) for end in episode.ends] == [(0, 1, 2), (0, 3, 4), (5, 6, 7), (0, 1, 8)]
        assert policy.prompts[8] == policy.prompts[2] != policy.prompts[1]
        assert policy.prompts[3] == policy.prompts[1] and policy.prompts[5] == policy.prompts[0]
        assert [m.text for m in sessions[2].messages if m.role == "assistant"] == ["word 0", "word 3", "word 4"]


class Moody(Walk):
    """Says something else each time it is made."""

    made = 0

    def __init__(self, where):
        super().__init__()
        type(self).made += 1
        self.mood, self.where = type(self).made, where

    async def reset(self, task, seed):
        reply = await super().reset(task, seed)
        return Reply(messages=(say("user", f"mood {self.mood}"),)) if self.where == "reset" else reply

    async def step(self, action):
        reply = await super().step(action)
        changed = {
            "messages": Reply(messages=(say("user", f"mood {self.mood}"),)),
            "reward": Reply(messages=reply.messages, reward=float(self.mood)),
            "state_key": Reply(messages=reply.messages, state_key=f"{self.mood}"),
            "metrics": Reply(messages=reply.messages, metrics={"mood": float(self.mood)}),
        }
        return changed.get(self.where, reply)


def test_an_environment_that_is_no_function_of_its_seed_is_a_fault():
    async def run(session):
        await once(session)
        await once(await session.fork())

    for where, turn in (("reset", "reset"), ("messages", "turn 0"), ("reward", "turn 0"), ("state_key", "turn 0")):
        episode = played(stage_of(lambda where=where: Moody(where), policy_of(*TALK), agent=Agent(run)))
        assert (episode.stop, episode.failure.where, episode.failure.kind) == (Stop.env_fault, "env.replay", "ReplayDiffers")
        assert f"replaying {turn} gave another reply" in episode.failure.message and len(episode.turns) == 1
    episode = played(stage_of(lambda: Moody("metrics"), policy_of(*TALK), agent=Agent(run)))
    assert episode.failure is None and len(episode.turns) == 2  # metrics may hold times


def test_a_snapshot_that_fails_is_a_fault():
    class Lost(SavedWalk):
        async def restore(self, state):
            raise OSError("disk full")

    async def run(session):
        await once(session)
        await session.fork()

    episode = played(stage_of(Lost, policy_of(*TALK), agent=Agent(run)))
    assert (episode.stop, episode.failure.where, episode.failure.kind) == (Stop.env_fault, "env.restore", "OSError")


def test_what_cannot_be_forked_is_told():
    said = []

    async def run(session):
        for prepare, at in ((session.sample, None), (lambda: once(session), 3), (lambda: once(session), None)):
            try:
                await prepare()
                await session.fork(at)
            except Exception as error:
                said.append(str(error))
                if len(session.attempt.turns) == 1 and session.attempt.turns[0].reply is None:
                    await session.act(session.attempt.turns[0])

    played(stage_of(Walk, policy_of(*TALK), agent=Agent(run)))
    assert said == [
        "turn 0 was never acted, so nothing can continue after it; act(), or fork(0)",
        "turn 3 is not on this branch; its turns are [0, 1]",
        "this branch is over; fork from before one of its turns [0, 1, 2]",
    ]


def test_branches_that_play_at_once_share_one_allowance_and_no_seed():
    async def run(session):
        await once(session)
        branches = [await session.fork(1 - 1) for _ in range(6)]

        async def finish(branch):
            while not branch.done:
                await once(branch)

        await asyncio.gather(*(finish(b) for b in branches), return_exceptions=True)

    policy = ScriptedPolicy(lambda prompt: policy_ids, vocab_size=1000, delay=0.001)
    policy_ids = CHATS["preserve"].render(thinking(None, "again"))
    episode = played(stage_of(lambda: Walk(length=9), policy, agent=Agent(run), max_turns=10))
    assert episode.stop is Stop.max_turns and len(episode.turns) == 10
    assert_exact_unordered(episode, policy)
    assert len({t.seed for t in episode.turns}) == 10


def assert_exact_unordered(episode, policy):
    assert sorted(episode.prompt(k) for k in range(len(episode.turns))) == sorted(policy.prompts)


def test_a_branch_of_an_episode_that_has_ended_stops_quietly():
    async def run(session):
        await once(session)
        branch = await session.fork()
        turn = await branch.sample()
        while not session.done:
            await once(session)
        await branch.act(turn)

    episode = played(stage_of(lambda: Walk(length=99), policy_of(*TALK), agent=Agent(run), max_turns=4))
    assert (episode.stop, episode.failure, len(episode.turns)) == (Stop.max_turns, None, 4)
    assert TASK.messages == (say("user", "go"),)
