"""Behaviour lock of the session: endings.

Pinned: each `Stop` and what leads to it; limits end an episode without a fault; whatever an environment, policy or agent
does wrong is an episode failure that names where it happened and what it was, never an exception and never a reward; every
environment that was opened is closed exactly once.
"""

from __future__ import annotations

import asyncio
import math
import threading

import pytest
from msgspec.structs import replace
from rollout_worlds import CHAT, TASK, TOKENIZER, Agent, Walk, played, policy_of, stage_of, thinking

from phronesis.engine.scripted import ScriptedPolicy
from phronesis.envs.blocking import SyncEnv
from phronesis.errors import PolicyFault
from phronesis.policy import prompt_crc
from phronesis.records import Finish, ImagePart, Message, Reply, Stop, Task, TextPart, say
from phronesis.rollout.play import Ticket, play

TALK = [thinking(None, f"word {i}") for i in range(8)]
WHOLE = len(CHAT.render(TALK[0]))


def test_completed_and_the_stop_the_environment_names():
    assert played(stage_of(Walk, policy_of(*TALK))).stop is Stop.completed
    replies = [Reply(done=True, stop=Stop.max_turns)]
    assert played(stage_of(lambda: Walk(replies=replies), policy_of(*TALK))).stop is Stop.max_turns


def test_an_episode_can_be_over_at_the_start():
    opening = Reply(done=True)
    episode = played(stage_of(lambda: Walk(opening=opening), policy_of()))
    assert (episode.stop, episode.turns, episode.failure) == (Stop.completed, (), None)


@pytest.mark.parametrize(
    ("limits", "stop", "turns"),
    [
        ({"max_turns": 2}, Stop.max_turns, 2),
        ({"max_turns": 3}, Stop.completed, 3),
        ({"max_tokens": WHOLE + 1}, Stop.max_tokens, 2),
        ({"max_tokens": 2 * WHOLE}, Stop.max_tokens, 2),
        ({"max_tokens": 3 * WHOLE}, Stop.completed, 3),
        ({"context": 3}, Stop.context, 0),
        ({"context": 60}, Stop.context, 2),
    ],
)
def test_limits_end_an_episode_without_a_fault(limits, stop, turns):
    policy = policy_of(*TALK)
    envs = []
    episode = played(stage_of(lambda: envs.append(Walk()) or envs[-1], policy, **limits))
    assert (episode.stop, len(episode.turns), episode.failure) == (stop, turns, None)
    assert stop.is_truncated or stop is Stop.completed
    most = limits.get("max_tokens")
    assert most is None or episode.sampled_tokens <= most
    for params, prompt in zip(policy.params, policy.prompts, strict=True):
        assert len(prompt) + params.max_tokens <= limits.get("context", math.inf)
    assert [env.closed for env in envs] == [1]


@pytest.mark.parametrize("slow", ["policy", "env", "before"])
def test_the_deadline_of_an_episode_is_a_timeout_not_a_fault(slow):
    class Slow(Walk):
        async def step(self, action):
            await asyncio.sleep(60 if slow == "env" else 0)
            return await super().step(action)

    async def late(session):
        await asyncio.sleep(0.06)
        await session.sample()

    agent = Agent(late) if slow == "before" else None
    policy = policy_of(*TALK, delay=60 if slow == "policy" else 0)
    episode = played(stage_of(Slow, policy, agent=agent, seconds=0.05))
    assert (episode.stop, episode.failure) == (Stop.timeout, None)


def test_an_agent_that_returns_before_the_end_has_given_up():
    async def run(session):
        await session.act(await session.sample())

    assert played(stage_of(Walk, policy_of(*TALK), agent=Agent(run))).stop is Stop.parse


def test_a_caller_that_gives_up_cancels_and_the_environment_is_closed():
    env = Walk()

    async def give_up():
        stage = stage_of(lambda: env, policy_of(*TALK, delay=60))
        task = asyncio.create_task(play(stage, Ticket(id="e", task=TASK, seed=0)))
        await asyncio.sleep(0.02)
        assert stage.waits() == "1 in policy.sample"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stage.waits() == "nothing is awaited"

    asyncio.run(give_up())
    assert env.closed == 1
    assert Stop.cancelled.is_fault


def test_giving_up_while_closing_still_closes_the_others():
    """Three branches are open; the caller loses patience with the first one's close."""
    made = []

    class Slow(Walk):
        async def close(self):
            await super().close()
            await asyncio.sleep(60 if self is made[0] else 0)

    async def three(session):
        await session.fork()
        await session.fork()

    async def give_up():
        stage = stage_of(lambda: made.append(Slow()) or made[-1], policy_of(), agent=Agent(three))
        task = asyncio.create_task(play(stage, Ticket(id="e", task=TASK, seed=0)))
        while not made or not made[0].closed:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert [env.closed for env in made] == [1, 1, 1]


class Broken(Walk):
    """Fails at one place in one way."""

    def __init__(self, place, how):
        super().__init__()
        self.place, self.how = place, how

    async def act(self, place):
        if place == self.place:
            await self.how()

    async def reset(self, task, seed):
        await self.act("reset")
        return await super().reset(task, seed)

    async def step(self, action):
        await self.act("step")
        return await super().step(action)

    async def close(self):
        await super().close()
        await self.act("close")


async def boom():
    raise ValueError("the tower fell")


async def hang():
    await asyncio.sleep(3600)


async def leave():
    raise SystemExit(3)


async def await_cancelled():
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task


async def own_timeout():
    raise TimeoutError("the database is slow")


@pytest.mark.parametrize("place", ["reset", "step", "close"])
@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        (boom, "ValueError", "the tower fell"),
        (hang, "Hung", "no answer within 0.05 s"),
        (leave, "SystemExit", "3"),
        (await_cancelled, "CancelledError", ""),
        (own_timeout, "TimeoutError", "the database is slow"),
    ],
)
def test_an_environment_that_fails_is_a_fault_with_its_place(place, how, kind, text):
    env = Broken(place, how)
    episode = played(stage_of(lambda: env, policy_of(*TALK), env_seconds=0.05))
    assert episode.stop is Stop.env_fault and episode.stop.is_fault
    assert (episode.failure.where, episode.failure.kind) == (f"env.{place}", kind)
    assert text in episode.failure.message
    assert kind == "Hung" or "test_session_ends" in episode.failure.traceback
    assert env.closed == 1 and episode.reward is None
    assert len(episode.turns) == {"reset": 0, "step": 1, "close": 3}[place]


def test_a_failing_close_does_not_hide_what_happened_before():
    class Worse(Broken):
        async def close(self):
            raise KeyError("closed twice")

    episode = played(stage_of(lambda: Worse("step", boom), policy_of(*TALK)))
    assert (episode.failure.where, episode.failure.kind) == ("env.step", "ValueError")


def test_an_environment_that_cannot_be_built():
    def make():
        raise RuntimeError("no display")

    episode = played(stage_of(make, policy_of()))
    assert (episode.stop, episode.failure.where, episode.failure.kind) == (Stop.env_fault, "env.make", "RuntimeError")
    assert played(stage_of(lambda: None, policy_of())).failure.where == "env.reset"


class Plain:
    """Not async at all."""

    def reset(self, task, seed):
        return Reply(messages=task.messages)

    def step(self, action):
        raise ZeroDivisionError("one over nothing")

    def close(self):
        self.closed = True


def test_synchronous_code_that_raises():
    wrapped = played(stage_of(lambda: SyncEnv(Plain()), policy_of(*TALK)))
    assert (wrapped.failure.where, wrapped.failure.kind) == ("env.step", "ZeroDivisionError")
    bare = played(stage_of(Plain, policy_of(*TALK)))
    assert (bare.stop, bare.failure.where, bare.failure.kind) == (Stop.env_fault, "env.reset", "TypeError")


def test_synchronous_code_that_hangs_in_its_thread():
    class Stuck(Plain):
        def step(self, action):
            threading.Event().wait(0.3)

    episode = played(stage_of(lambda: SyncEnv(Stuck(), thread=True), policy_of(*TALK), env_seconds=0.05))
    assert (episode.stop, episode.failure.where, episode.failure.kind) == (Stop.env_fault, "env.step", "Hung")


@pytest.mark.parametrize(
    "garbage",
    [
        None,
        "hello",
        {"messages": []},
        Reply(),
        Reply(messages=("hello",)),
        Reply(messages=(Message(role="narrator", content=(TextPart(text="x"),)),)),
        Reply(messages=(say("user", "x"),), reward=math.nan),
        Reply(messages=(say("user", "x"),), stop=Stop.completed),
        Reply(messages=(say("user", "\ud800"),)),
        Reply(messages=tuple(say("user", "x") for _ in range(65))),
        Reply(messages=(say("user", "x"),), tools=("step",)),
        Reply(messages=(say("user", "x"),), metrics={"m": "many"}),
    ],
)
def test_garbage_is_a_fault(garbage):
    episode = played(stage_of(lambda: Walk(replies=[garbage]), policy_of(*TALK)))
    assert (episode.stop, episode.failure.where, episode.failure.kind) == (Stop.env_fault, "env.step", "EnvFault")
    if garbage is None or not isinstance(garbage, Reply) or garbage.messages:
        assert played(stage_of(lambda: Walk(opening=garbage or "none"), policy_of())).failure.where == "env.reset"


def test_floods_are_cut_where_the_policy_can_see_it():
    flood = Reply(messages=(say("user", "x" * 100_000),))
    policy = policy_of(*TALK)
    episode = played(stage_of(lambda: Walk(replies=[flood, Reply(done=True)]), policy, reply_chars=100))
    assert episode.stop is Stop.completed
    assert episode.turns[0].reply.messages[0].text == "x" * 100 + "\n[99900 characters cut]"
    assert "[99900 characters cut]" in TOKENIZER.decode(policy.prompts[1])


def test_a_message_no_template_can_write_is_the_environments_fault():
    image = Message(role="user", content=(ImagePart(sha256="0" * 64, media_type="image/png"),))
    episode = played(stage_of(lambda: Walk(opening=Reply(messages=(image,))), policy_of()))
    assert (episode.stop, episode.failure.where) == (Stop.env_fault, "chat.open")
    assert "image" in episode.failure.message
    episode = played(stage_of(lambda: Walk(replies=[Reply(messages=(image,))]), policy_of(*TALK)))
    assert (episode.stop, episode.failure.where, len(episode.turns)) == (Stop.env_fault, "chat.extend", 1)


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (PolicyFault("no slot is free"), "PolicyFault", "no slot is free"),
        (RuntimeError("cuda"), "RuntimeError", "cuda"),
    ],
)
def test_a_policy_that_raises_is_the_machinerys_fault(reply, kind, text):
    env = Walk()
    episode = played(stage_of(lambda: env, policy_of(TALK[0], reply)))
    assert (episode.stop, episode.failure.where, episode.failure.kind) == (Stop.infra_fault, "policy.sample", kind)
    assert text in episode.failure.message and len(episode.turns) == 1 and env.closed == 1


def test_a_policy_that_hangs_and_one_that_has_no_room():
    episode = played(stage_of(Walk, policy_of(*TALK, delay=60), policy_seconds=0.05))
    assert (episode.stop, episode.failure.kind) == (Stop.infra_fault, "Hung")
    episode = played(stage_of(Walk, policy_of(*TALK, context=10)))
    assert (episode.stop, episode.failure.kind) == (Stop.infra_fault, "PolicyFault")


class Liar(ScriptedPolicy):
    """Changes what it answers."""

    def __init__(self, change):
        super().__init__([(5, 6)], vocab_size=10)
        self.change = change

    async def sample(self, prompt, params):
        honest = await super().sample(prompt, params)
        return replace(honest, **self.change(prompt))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda prompt: {"prompt_crc": prompt_crc(prompt[1:])}, "consumed other ids"),
        (lambda prompt: {"prompt_crc": prompt_crc([*prompt, 1])}, "consumed other ids"),
        (lambda prompt: {"logprobs": (0.0,)}, "2 ids, 2 marks, 1 logprobs"),
        (lambda prompt: {"sampled": ()}, "2 ids, 0 marks, 2 logprobs"),
        (lambda prompt: {"finish": Finish.cancelled}, "cancelled by the engine"),
    ],
)
def test_a_policy_that_does_not_return_what_it_was_asked(change, text):
    episode = played(stage_of(Walk, Liar(change)))
    assert (episode.stop, episode.failure.kind) == (Stop.infra_fault, "TokenMismatch")
    assert text in episode.failure.message and episode.turns == ()


@pytest.mark.parametrize(("how", "kind"), [(boom, "ValueError"), (leave, "SystemExit"), (await_cancelled, "CancelledError")])
def test_an_agent_that_raises_is_not_the_policys_failure(how, kind):
    env = Walk()

    async def run(session):
        await session.act(await session.sample())
        await how()

    episode = played(stage_of(lambda: env, policy_of(*TALK), agent=Agent(run)))
    assert (episode.stop, episode.failure.where, episode.failure.kind) == (Stop.infra_fault, "agent.run", kind)
    assert len(episode.turns) == 1 and env.closed == 1


def test_wrong_use_of_a_session_is_told():
    seen = []

    async def run(session):
        turn = await session.sample()
        await session.act(turn)
        for wrong in (lambda: session.act(turn), lambda: session.fork(5)):
            try:
                await wrong()
            except Exception as error:
                seen.append(str(error))
        await session.act(await session.sample())
        await session.act(await session.sample())
        await session.sample()

    episode = played(stage_of(Walk, policy_of(*TALK), agent=Agent(run)))
    assert "takes the turn that sample() just returned" in seen[0]
    assert seen[1] == "turn 5 is not on this branch; its turns are [0]"
    assert (episode.stop, episode.failure.kind) == (Stop.infra_fault, "UserError")
    assert "this branch is over" in episode.failure.message


def test_budgets_count_down():
    seen = []

    async def run(session):
        while not session.done:
            seen.append(session.budget)
            await session.act(await session.sample())

    played(stage_of(Walk, policy_of(*TALK), agent=Agent(run), max_turns=5, max_tokens=40, context=200, seconds=60))
    assert [b.turns for b in seen] == [5, 4, 3]
    assert [b.tokens for b in seen] == [40, 40 - WHOLE, 40 - 2 * WHOLE]
    opening = len(CHAT.open((say("system", "walk"), *TASK.messages)))
    assert seen[0].context == 200 - opening and seen[2].context < seen[1].context < seen[0].context
    assert all(0 < b.seconds <= 60 for b in seen)


def test_the_hidden_part_of_a_task_is_never_sent():
    task = Task(id="t", env="walk", messages=(say("user", "go"),), payload={"answer": "xyzzy"})
    policy = policy_of(*TALK)
    played(stage_of(Walk, policy), task=task)
    assert all("xyzzy" not in TOKENIZER.decode(prompt) for prompt in policy.prompts)
