"""Behaviour lock of the session: tokens.

Pinned: the ids along a path of the tree (context and completion, turn after turn) are exactly the ids the policy was sent,
whatever the conversation; sampled ids are never decoded and encoded again; dropped thoughts and changed tools begin a new
root instead of editing history; forced ids are recorded as not sampled; seeds differ by turn; every branch's cached state is
given up at the end.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rollout_worlds import CHAT, CHATS, TASK, TOKENIZER, TOOLS, Agent, Walk, calling, played, policy_of, stage_of, thinking

from phronesis.chat.retention import retain
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.policy import prompt_crc
from phronesis.records import Finish, Message, Reply, Stop, TextPart, say


def assert_exact(episode, policy):
    """What the record says the engine saw is what the engine saw, turn by turn."""
    assert len(episode.turns) == len(policy.prompts)
    for k, prompt in enumerate(policy.prompts):
        assert episode.prompt(k) == prompt
        assert episode.turns[k].prompt_crc == prompt_crc(prompt)
        assert len(episode.turns[k].completion) == len(episode.turns[k].sampled) == len(episode.turns[k].logprobs)


def test_a_conversation_is_one_growing_sequence():
    policy = policy_of(thinking("hm", "one"), thinking(None, "two"), thinking(None, "stop"))
    episode = played(stage_of(Walk, policy))
    assert_exact(episode, policy)
    assert [t.parent for t in episode.turns] == [None, 0, 1]
    assert TOKENIZER.decode(policy.prompts[0]) == (
        "<|im_start|>system\nwalk<|im_end|>\n<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\n"
    )
    assert TOKENIZER.decode(episode.turns[1].context) == "\n<|im_start|>user\nseen 1<|im_end|>\n<|im_start|>assistant\n"
    assert policy.prompts[2] == (
        *episode.turns[0].context, *episode.turns[0].completion, *episode.turns[1].context, *episode.turns[1].completion,
        *episode.turns[2].context,
    )  # fmt: skip
    assert [t.action.text for t in episode.turns] == ["one", "two", "stop"]
    assert (episode.stop, episode.turns[2].reply.reward, episode.turns[0].action.thought) == (Stop.completed, 4.0, "hm")
    assert episode.sampled_tokens == sum(len(t.completion) for t in episode.turns)
    assert len({t.seed for t in episode.turns}) == 3
    assert policy.released == ["e/0"] and {p.cache_key for p in policy.params} == {"e/0"}


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
HEARD = st.builds(
    lambda role, text, name: Message(
        role=role, content=(TextPart(text=text),), tool_call_id="call_0_0" if role == "tool" else None, name=name
    ),
    st.sampled_from(["user", "tool"]),
    WORDS,
    st.just("step"),
)
RAW = st.lists(st.integers(0, len(TOKENIZER) - 1), min_size=1, max_size=12)


@settings(max_examples=60)
@given(
    said=st.lists(RAW, min_size=1, max_size=5),
    heard=st.lists(st.lists(HEARD, min_size=1, max_size=3), min_size=5, max_size=5),
    retention=st.sampled_from(["preserve", "until_user", "strip"]),
    tools=st.booleans(),
    cut=st.integers(1, 12),
)
def test_any_ids_and_any_replies_stay_exact(said, heard, retention, tools, cut):
    """Random ids, not even well-formed messages, with random replies under every retention."""
    chat = CHATS[retention]
    policy = ScriptedPolicy(said, vocab_size=len(TOKENIZER))
    replies = [Reply(messages=tuple(messages)) for messages in heard[: len(said) - 1]] + [Reply(done=True)]
    opening = Reply(messages=(say("user", "go"),), tools=TOOLS if tools else None)
    episode = played(stage_of(lambda: Walk(replies=replies, opening=opening), policy, chat=chat, max_turn_tokens=cut))
    assert episode.stop is Stop.completed
    assert_exact(episode, policy)
    for turn, ids in zip(episode.turns, said, strict=True):
        assert turn.completion == tuple(ids[: len(turn.completion)])
        assert [i for s in turn.spans for i in range(s.start, s.end)] == list(range(len(turn.completion)))


@pytest.mark.parametrize(
    ("retention", "roots"), [("preserve", [True, False, False]), ("until_user", [True, True, False]), ("strip", [True] * 3)]
)
def test_dropped_thoughts_begin_a_new_root(retention, roots):
    """A user message follows the first turn, a tool result the second."""
    chat = CHATS[retention]
    first, second, last = thinking("secret one", "a"), calling("step", thought="secret two"), thinking(None, "b")
    answer = Message(role="tool", content=(TextPart(text="5"),), tool_call_id="call_1_0", name="step")
    replies = [Reply(messages=(say("user", "next"),)), Reply(messages=(answer,)), Reply(done=True)]
    policy = policy_of(first, second, last, chat=chat)
    episode = played(stage_of(lambda: Walk(replies=replies), policy, chat=chat))
    assert_exact(episode, policy)
    assert [t.parent is None for t in episode.turns] == roots
    assert policy.released == [f"e/{n}" for n in range(sum(roots))]
    shown = TOKENIZER.decode(policy.prompts[2])
    assert ("secret one" in shown, "secret two" in shown) == (retention == "preserve", retention != "strip")
    history = [say("system", "walk"), *TASK.messages, first, *replies[0].messages, episode.turns[1].action, answer]
    if retention != "preserve":
        assert policy.prompts[2] == chat.open(retain(history, retention), ())


def test_new_tools_begin_a_new_root():
    replies = [Reply(messages=(say("user", "now step"),), tools=TOOLS), Reply(messages=(say("user", "on"),), tools=TOOLS)]
    policy = policy_of(thinking("kept", "a"), thinking(None, "b"), thinking(None, "c"))
    episode = played(stage_of(lambda: Walk(replies=[*replies, Reply(done=True)]), policy))
    assert_exact(episode, policy)
    assert [t.parent for t in episode.turns] == [None, None, 1]
    assert "Steps." not in TOKENIZER.decode(policy.prompts[0])
    assert "Steps." in TOKENIZER.decode(policy.prompts[1]) and "kept" in TOKENIZER.decode(policy.prompts[1])
    assert episode.tools == ()


def test_forced_ids_are_marked_and_sent():
    forced = tuple(TOKENIZER.encode("<think>\ntotal 5"))

    async def run(session):
        turn = await session.sample(forced=forced, author="teacher", temperature=0.0, max_tokens=len(forced) + 3)
        await session.act(turn)

    policy = policy_of((260, 261, 262, 263, 264))
    episode = played(stage_of(lambda: Walk(length=1), policy, agent=Agent(run)))
    turn = episode.turns[0]
    assert turn.completion == (*forced, 260, 261, 262)
    assert turn.sampled == (False,) * len(forced) + (True,) * 3
    assert (turn.author, turn.temperature, turn.finish) == ("teacher", 0.0, Finish.length)
    assert (episode.sampled_tokens, episode.context_tokens) == (3, len(turn.context) + len(forced))
    assert policy.params[0].forced == forced


def test_a_thought_limit_reaches_the_policy():
    policy = policy_of(thinking(None, "stop"))
    played(stage_of(Walk, policy, thought_tokens=5))
    assert policy.params[0].thought == CHAT.thought_budget(5)
    assert policy.params[0].thought.max_tokens == 5
    plain = policy_of(thinking(None, "stop"))
    played(stage_of(Walk, plain))
    assert plain.params[0].thought is None and plain.params[0].stop_ids == CHAT.stop_ids


def test_sampling_twice_before_acting_goes_on_where_it_stopped():
    async def run(session):
        first = await session.sample(max_tokens=2)
        assert first.finish is Finish.length
        await session.act(await session.sample())

    whole = CHAT.render(thinking(None, "stop now"))
    policy = policy_of(whole[:3], whole[2:])
    episode = played(stage_of(lambda: Walk(length=1), policy, agent=Agent(run)))
    assert_exact(episode, policy)
    assert episode.turns[1].context == () and policy.prompts[1] == (*policy.prompts[0], *whole[:2])
    assert episode.turns[0].reply is None and episode.turns[1].reply.done


def strip_times(episode):
    """The episode without wall-clock times and without what an engine took from its cache."""
    turns = tuple(replace(t, started=0.0, policy_seconds=0.0, env_seconds=0.0, cached_tokens=0) for t in episode.turns)
    return replace(episode, turns=turns, seconds=0.0)


def test_the_same_seed_gives_the_same_episode_and_another_one_does_not():
    def once(seed):
        script = policy_of(thinking("hm", "one"), thinking(None, "two"), thinking(None, "stop"))
        return strip_times(played(stage_of(Walk, script), seed=seed))

    assert once(7) == once(7)
    assert {t.seed for t in once(7).turns}.isdisjoint(t.seed for t in once(8).turns)
