"""The checker holds cheats and planted weaknesses to what a world says of them."""

import asyncio
from dataclasses import replace

import pytest

from phronesis.env import EnvSpec
from phronesis.envs import registry
from phronesis.envs.check import check
from phronesis.records import Component, EpisodeGroup, Reward, say


class Paid:
    """Pays whoever says the right word, and flags or audits it."""

    def __init__(self, word, audits):
        self.word, self.audits = word, audits

    async def score(self, group: EpisodeGroup):
        found = []
        for episode in group.episodes:
            said = " ".join(t.action.text for t in episode.turns if t.action is not None)
            paid = Component(name="success", score=float(self.word in said))
            found.append(Reward(components=(paid, *(Component(name=n, score=s, audit=True) for n, s in self.audits.items()))))
        return found


def world(audits=None, **fields) -> EnvSpec:
    return replace(registry.get("probe-bandit"), rubric=Paid("magic", audits or {}), **fields)


def saying(text):
    async def speak(env, tools):
        return say("assistant", text)

    return lambda: speak


def verdict(spec, rule):
    (finding,) = asyncio.run(check(spec, rules=[rule])).findings
    return finding.verdict, finding.explanation


def test_a_paid_cheat_fails_the_check():
    assert verdict(world(cheats={"begs": saying("please"), "spells": saying("magic")}), "cheats") == (
        "fail",
        "the cheat 'spells' is paid 1 on task 'train-0', and nothing flags it",
    )


def test_cheats_that_earn_nothing_or_are_flagged_pass():
    assert verdict(world(cheats={"begs": saying("please")}), "cheats")[0] == "ok"
    assert verdict(world({"flagged": 1.0}, cheats={"spells": saying("magic")}), "cheats")[0] == "ok"


@pytest.mark.parametrize(
    ("audits", "word", "said", "text"),
    [
        ({"true": 0.0}, "magic", "ok", "paid in 4 of 4 episodes"),
        ({"true": 0.0}, "please", "fail", "never pays"),
        ({"true": 1.0}, "magic", "fail", "'true' says [1.0]"),
        ({}, "magic", "fail", "'true' says []"),
    ],
)
def test_a_planted_weakness_pays_and_is_seen_by_the_audit(audits, word, said, text):
    found = verdict(world(audits, hack=saying(word), exploit="it pays for a word"), "exploit")
    assert found[0] == said
    assert text in found[1]


def test_a_world_without_either_is_skipped():
    assert verdict(world(), "cheats")[0] == verdict(world(), "exploit")[0] == "skip"
