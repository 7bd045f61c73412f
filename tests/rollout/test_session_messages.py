"""Sessions with a policy that takes messages.

Pinned: the whole conversation and the tools are sent every time; turns hold no ids and say what they took; limits count the
endpoint's own tokens; calls get ids of their own where theirs cannot be told apart; forks share the past; a fault is data.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest
from msgspec.structs import replace
from rollout_worlds import TOOLS, Agent, SavedWalk, Walk, calling, played, spec_of

from phronesis.errors import ConfigError, EndpointFault, Untrainable
from phronesis.policy import Answer, SamplingParams, prompt_crc
from phronesis.reason.react import ReAct
from phronesis.records import EpisodeGroup, Finish, Message, Reply, Stop, ToolCall, ToolSpec, Usage, say
from phronesis.rollout.limits import Limits, Sampling
from phronesis.rollout.messages import message_stage
from phronesis.rollout.play import Stage, score
from phronesis.rollout.session import EpisodeSession
from phronesis.store import codec
from phronesis.store.row import Place, summarise
from phronesis.view.episode import Setting, chat
from phronesis.view.terminal import render


class Talker:
    """Says what it is told and remembers what it was sent."""

    def __init__(self, *said: Message | Exception, tokens: int = 5):
        self.said, self.tokens = list(said), tokens
        self.sent: list[tuple[tuple[Message, ...], tuple[ToolSpec, ...], SamplingParams, int]] = []
        self.released: list[str] = []

    async def chat(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec], params: SamplingParams, turn: int = 0
    ) -> Answer:
        self.sent.append((tuple(messages), tuple(tools), params, turn))
        said = self.said[(len(self.sent) - 1) % len(self.said)]
        if isinstance(said, Exception):
            raise said
        usage = Usage(input_tokens=20, output_tokens=self.tokens, cached_tokens=7, cost=0.5)
        return Answer(message=said, finish=Finish.stop, usage=usage)

    def release(self, cache_key: str) -> None:
        self.released.append(cache_key)


def stage_of(policy: Talker, make: type[Walk] = Walk, agent: object = None, **limits: object) -> Stage:
    return message_stage(spec_of(make), policy, agent or ReAct(), limits=Limits(**{"max_turns": 8, **limits}))  # type: ignore[arg-type]


def test_turns_hold_no_ids_and_say_what_they_took():
    policy = Talker(say("assistant", "one"), say("assistant", "two"), say("assistant", "three"))
    episode = played(stage_of(policy))
    assert episode.stop is Stop.completed and [t.action.text for t in episode.turns if t.action] == ["one", "two", "three"]
    for k, turn in enumerate(episode.turns):
        assert (turn.context, turn.completion, turn.sampled, turn.logprobs, turn.spans) == ((), (), (), (), ())
        assert (turn.parent, turn.prompt_crc, turn.cached_tokens) == (k - 1 if k else None, prompt_crc(()), 7)
        assert turn.usage == Usage(input_tokens=20, output_tokens=5, cached_tokens=7, cost=0.5)
    assert (episode.sampled_tokens, episode.context_tokens) == (15, 60)
    assert episode.usage == Usage(input_tokens=60, output_tokens=15, cached_tokens=21, cost=1.5)
    texts = [[m.text for m in messages] for messages, *_ in policy.sent]
    assert texts == [["walk", "go"], ["walk", "go", "one", "seen 1"], ["walk", "go", "one", "seen 1", "two", "seen 2"]]
    assert [turn for *_, turn in policy.sent] == [0, 1, 2] and policy.released == ["e/0"]
    assert len({params.seed for *_, params, _ in policy.sent}) == 3
    assert policy.sent[0][2].stop_ids == () and policy.sent[0][2].max_tokens == Limits().max_turn_tokens


def test_a_cost_that_is_not_known_is_none_for_the_whole_episode():
    episode = played(stage_of(Talker(say("assistant", "x"))))
    first = replace(episode.turns[0], usage=Usage(output_tokens=1))
    whole = replace(episode, turns=(first, *episode.turns[1:])).usage
    assert whole is not None and whole.cost is None and whole.output_tokens == 11
    assert replace(episode, turns=()).usage is None


def test_the_token_limit_counts_the_endpoints_tokens():
    policy = Talker(say("assistant", "x"), tokens=5)
    episode = played(stage_of(policy, max_tokens=8, max_turn_tokens=6))
    assert episode.stop is Stop.max_tokens and len(episode.turns) == 2
    assert [params.max_tokens for _, _, params, _ in policy.sent] == [6, 3]


def test_calls_get_ids_of_their_own_where_theirs_are_missing_or_taken():
    same = Message(role="assistant", tool_calls=tuple(ToolCall(id=i, name="step", arguments={}) for i in ("a", "a", "")))
    episode = played(stage_of(Talker(same)))
    ids = [[c.id for c in t.action.tool_calls] for t in episode.turns if t.action is not None]
    assert ids == [["a", "call_0_1", "call_0_2"], ["call_1_0", "call_1_1", "call_1_2"], ["call_2_0", "call_2_1", "call_2_2"]]


def test_a_malformed_call_is_a_parse_error_and_the_episode_goes_on():
    broken = Message(role="assistant", tool_calls=(ToolCall(id="a", name="f", arguments={}, error="no JSON", raw="{"),))
    episode = played(stage_of(Talker(broken)))
    assert episode.turns[0].parse_error == "'f': no JSON" and len(episode.turns) == 3


class Tooled(Walk):
    """Offers tools at the beginning and others after the first step."""

    async def reset(self, task: object, seed: int) -> Reply:
        return replace(await super().reset(task, seed), tools=TOOLS)  # type: ignore[no-untyped-call]

    async def step(self, action: Message) -> Reply:
        reply = await super().step(action)  # type: ignore[no-untyped-call]
        return replace(reply, tools=(*TOOLS, replace(TOOLS[0], name="jump"))) if self.at == 1 else reply


def test_tools_are_sent_as_they_stand():
    policy = Talker(calling("step"))
    episode = played(stage_of(policy, Tooled))
    assert [[t.name for t in tools] for _, tools, *_ in policy.sent] == [["step"], ["step", "jump"], ["step", "jump"]]
    assert episode.stop is Stop.completed and [t.follows for t in episode.turns] == [-1, 0, 1]


@pytest.mark.parametrize("make", [Walk, SavedWalk])
def test_a_fork_shares_the_past(make: type[Walk]):
    async def fork(session: EpisodeSession) -> None:
        await session.act(await session.sample())
        branch = await session.fork(0)
        other = await branch.sample()
        await branch.act(other)
        while not session.done:
            await session.act(await session.sample())

    policy = Talker(*(say("assistant", word) for word in ("a", "b", "c", "d")))
    episode = played(stage_of(policy, make, Agent(fork)))
    assert [t.follows for t in episode.turns] == [-1, -1, 0, 2] and episode.stop is Stop.completed
    assert [m.text for m in policy.sent[1][0]] == ["walk", "go"]
    assert [m.text for m in policy.sent[2][0]] == ["walk", "go", "a", "seen 1"]


def test_a_fault_of_the_endpoint_is_no_reward_and_says_why():
    fault = EndpointFault("POST http://h/v1 failed (6 times): 503", url="http://h/v1", status=503, attempts=6)
    stage = stage_of(Talker(say("assistant", "x"), fault))
    episode = played(stage)
    assert episode.stop is Stop.infra_fault and episode.failure is not None
    assert (episode.failure.where, episode.failure.kind) == ("policy.chat", "EndpointFault")
    assert "503" in episode.failure.message
    scored = asyncio.run(score(stage.spec, EpisodeGroup(id="g", task=episode.task, episodes=(episode,))))
    assert scored.episodes[0].reward is None and not scored.valid


def test_given_ids_and_limits_on_ids_are_refused():
    async def force(session: EpisodeSession) -> None:
        await session.sample(forced=(1, 2))

    episode = played(stage_of(Talker(say("assistant", "x")), agent=Agent(force)))
    assert episode.stop is Stop.infra_fault and episode.failure is not None and "forces none" in episode.failure.message
    for limit in ({"context": 100}, {"thought_tokens": 5}):
        with pytest.raises(ConfigError, match=next(iter(limit))):
            stage_of(Talker(say("assistant", "x")), **limit)


def test_there_is_nothing_to_render():
    chat = stage_of(Talker(say("assistant", "x"))).chat
    for ask in (lambda: chat.render(say("assistant", "x")), lambda: chat.parse((1, 2))):
        with pytest.raises(Untrainable, match="has no ids"):
            ask()


def test_sampling_reaches_the_endpoint():
    policy = Talker(say("assistant", "x"))
    stage = message_stage(spec_of(Walk), policy, ReAct(), sampling=Sampling(temperature=0.25, top_p=0.5, top_k=3, min_p=0.1))
    played(stage)
    sent = policy.sent[0][2]
    assert (sent.temperature, sent.top_p, sent.top_k, sent.min_p) == (0.25, 0.5, 3, 0.1)
    assert math.isclose(played(stage).turns[0].temperature, 0.25)


def test_such_an_episode_is_stored_listed_and_shown():
    broken = Message(role="assistant", tool_calls=(ToolCall(id="a", name="f", arguments={}, error="no JSON", raw="{"),))
    episode = played(stage_of(Talker(broken, say("assistant", "two"))))
    line = codec.encode(episode)
    assert codec.decode(line).episode == episode
    row = summarise(line, Place(kind="k", file="f", offset=0, length=1), {})
    assert (row.sampled_tokens, row.context_tokens, row.turns) == (15, 60, 3)
    shown = render(episode, decode=str, tokens=True)
    assert "no JSON" in shown and "two" in shown and "15 tokens" in shown
    assert "two" in str(chat(episode, Setting(run="r", decode=str), "e"))
