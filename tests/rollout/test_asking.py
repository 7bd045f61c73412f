"""Pins: answers and hints are scored in prompts of their own, token for token, and reach no prompt of an episode."""

from __future__ import annotations

import asyncio
from math import log

import msgspec
import pytest
from rollout_worlds import CHAT, TOKENIZER, Walk, policy_of, stage_of, thinking

from phronesis.credit import HCACredit, IGPOCredit, NoBaseline, SelfDistilledCredit
from phronesis.credit.side import Asks
from phronesis.engine.scripted import ScriptedPolicy
from phronesis.errors import ConfigError
from phronesis.records import Component, EpisodeGroup, Reward, Task, say
from phronesis.rollout.asking import hinted
from phronesis.rollout.play import Ticket, play
from phronesis.rollout.rerun import Reruns

GOLD = "total 5"


class Scoring(ScriptedPolicy):
    """The more often it has read ``seen`` the surer it is of anything; a hint makes every token twice as likely."""

    asked: list[tuple[int, ...]]

    async def score(self, ids, temperature=1.0):
        self.asked = [*getattr(self, "asked", []), tuple(ids)]
        text = TOKENIZER.decode(ids)
        p = 0.1 * (1 + text.count("seen")) * (2 if "reward of" in text else 1)
        return (log(p),) * (len(ids) - 1)


@pytest.fixture
def played():
    """A stage, and a group of one episode of three turns that earned 1."""
    script = policy_of(*(thinking(None, text) for text in ("say", "one", "more")))
    policy = Scoring(script.replies, vocab_size=512)
    stage = stage_of(Walk, policy)
    task = Task(id="t", env="walk", messages=(say("user", "go"),), payload={"gold": GOLD})
    episode = asyncio.run(play(stage, Ticket(id="e", task=task, seed=7)))
    turns = tuple(msgspec.structs.replace(t, logprobs=(log(0.2),) * len(t.completion)) for t in episode.turns)
    reward = Reward(components=(Component(name="r", score=1.0),))
    episode = msgspec.structs.replace(episode, turns=turns, reward=reward)
    return stage, EpisodeGroup(id="g", task=task, episodes=(episode,))


def credit(rule, played):
    stage, group = played
    return asyncio.run(rule.assign(group, Reruns(stage))).values[0]


def test_an_answer_is_scored_in_place_of_a_turn(played):
    stage, group = played
    episode, reruns = group.episodes[0], Reruns(stage)
    assert isinstance(reruns, Asks)
    said = CHAT.render(say("assistant", GOLD))
    gold = tuple(i for i in said if i not in CHAT.stop_ids)
    for k in range(3):
        found = asyncio.run(reruns.answer(episode, k, GOLD))
        assert found == (pytest.approx(log(0.1 * (1 + k))),) * len(gold)
        assert stage.policy.asked[-1] == episode.prompt(k) + gold
    assert not any(GOLD in TOKENIZER.decode(p) for p in stage.policy.prompts), "the policy never saw it"


def test_igpo_asks_the_policy_for_the_right_answer(played):
    rows = credit(IGPOCredit(answer="gold", baseline=NoBaseline()), played)
    # p .1, .2, .3 and reward 1: rewards .1, .1, 1.
    assert [row[0] for row in rows] == pytest.approx([1.2, 1.1, 1.0])
    with pytest.raises(ConfigError, match=r"no text or number 'answer'.*\['gold'\]"):
        credit(IGPOCredit(answer="answer", baseline=NoBaseline()), played)


def test_a_hint_ends_the_opening_and_the_turn_is_scored_as_it_was_said(played):
    stage, group = played
    episode = group.episodes[0]
    for k in range(3):
        found = asyncio.run(Reruns(stage).hindsight(episode, k, "The reward of it was 1."))
        ids, said = stage.policy.asked[-1], episode.turns[k].completion
        assert len(found) == len(said) and ids[-len(said) :] == said
        shown = TOKENIZER.decode(ids[: -len(said)])
        plain = TOKENIZER.decode(episode.prompt(k))
        assert shown.replace("\n\nThe reward of it was 1.", "") == plain
    assert [m.role for m in hinted(episode, 2, "x")] == ["system", "user", "assistant", "user", "assistant", "user"]


def test_hindsight_rules_ask_the_policy(played):
    # Sampled at .2; in hindsight .2, .4, .6: ratios pi / h of 1, 1/2, 1/3.
    assert [row[0] for row in credit(HCACredit(), played)] == pytest.approx([0.0, 0.5, 2 / 3])
    rows = credit(SelfDistilledCredit(baseline=NoBaseline(), most=0.8), played)
    assert [row[0] for row in rows] == pytest.approx([1.0, 1 + log(2), 1 + 0.8])


def test_nonsense_is_refused(played):
    stage, group = played
    episode, reruns = group.episodes[0], Reruns(stage)
    for turn in (-1, 3):
        with pytest.raises(ConfigError, match="turns"):
            asyncio.run(reruns.answer(episode, turn, GOLD))
        with pytest.raises(ConfigError, match="turns"):
            asyncio.run(reruns.hindsight(episode, turn, "x"))
