"""Pins: text and tools of the Gymnasium worlds, exact values against simulation and known numbers, snapshots, no leaks."""

from __future__ import annotations

import asyncio
import itertools
import random

import msgspec
import numpy as np
import pytest
from env_scripts import act, call, play, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from phronesis.envs.adapters import toy_text
from phronesis.envs.adapters.blackjack import NO_CARDS, Hand, blackjack, dealer_totals, mean_value, value
from phronesis.envs.adapters.tables import solve
from phronesis.envs.check import check
from phronesis.envs.scripted import Clock, expert, play_scripted, uniform
from phronesis.errors import ConfigError, UnknownName
from phronesis.records import Stop, say


def move(*directions):
    return act(*(call("move", {"direction": d}, i) for i, d in enumerate(directions)))


def oracle(spec, index=0, seed=0, split="train"):
    return asyncio.run(play_scripted(spec, spec.task(split, index), seed, expert(), clock=Clock(5)))


# FrozenLake


def test_frozenlake_text_tools_and_reward():
    spec = toy_text.frozenlake()
    played, reward = play(spec, [move("down"), move("down", "right"), move("right", "down", "right")])
    assert played.opening.messages[0].text.endswith("\n\n@FFF\nFHFH\nFFFH\nHFFG")
    assert [t.name for t in played.opening.tools] == ["move", "legal_actions"]
    assert played.opening.tools[0].parameters["properties"]["direction"]["enum"] == ["left", "down", "right", "up"]
    assert texts(played.replies[0]) == ["SFFF\n@HFH\nFFFH\nHFFG"]
    assert texts(played.replies[2])[-1] == "SFFF\nFHFH\nFFFH\nHFF@\nYou reached the goal."
    assert [r.done for r in played.replies] == [False, False, True]
    assert reward.value == 1.0
    assert reward.component("raw_return").score == 1.0
    assert reward.component("raw_return").audit


def test_a_hole_ends_the_episode_and_later_calls_of_the_message_are_refused():
    played, reward = play(toy_text.frozenlake(), [move("down", "right", "left")])
    (reply,) = played.replies
    assert texts(reply)[1].endswith("You fell into a hole.")
    assert texts(reply)[2] == "error: the episode is over"
    assert (reply.done, reply.errors, reply.stop, reward.value) == (True, ("episode_over",), None, 0.0)


def test_legal_actions_and_wrong_ones():
    played, _ = play(
        toy_text.frozenlake(), [act(call("legal_actions")), move("north"), act(call("jump")), say("assistant", "hm")]
    )
    assert texts(played.replies[0]) == ["left, down, right, up"]
    assert texts(played.replies[1]) == [
        "error: argument 'direction': must be one of 'left', 'down', 'right', 'up'; got 'north'"
    ]
    assert [r.errors for r in played.replies] == [(), ("bad_argument",), ("unknown_tool",), ("no_call",)]
    assert all(r.state_key == played.opening.state_key for r in played.replies)


def test_the_step_limit_truncates():
    played, reward = play(toy_text.frozenlake(max_turns=2), [move("left"), move("left")])
    assert (played.replies[-1].done, played.replies[-1].stop) == (True, Stop.max_turns)
    assert texts(played.replies[-1])[0].endswith("No steps are left.")
    assert reward.value == 0.0


def test_any_map_can_be_played():
    spec = toy_text.frozenlake(rows=["SFHG", "HFFF"])
    played = oracle(spec)
    assert [a.tool_calls[0].arguments["direction"] for a in played.actions] == ["right", "down", "right", "right", "up"]
    assert spec.max_turns == 8
    assert played.replies[-1].reward == 1.0


@pytest.mark.parametrize("rows", [[], ["SG", "F"], ["SFX", "FFG"], ["FF", "FG"], ["SH", "HG"], ["SF", "FF"]])
def test_impossible_maps_are_refused(rows):
    with pytest.raises(ConfigError, match="lake map"):
        toy_text.frozenlake(rows=rows)


def test_random_maps_differ_are_solvable_and_split_by_content():
    spec = toy_text.frozenlake(random_size=3)
    maps = {s: {tuple(spec.task(s, i).payload["options"]["desc"]) for i in range(30)} for s in ("train", "heldout")}
    assert not maps["train"] & maps["heldout"]
    assert len(maps["train"]) > 10
    for split, index in itertools.product(maps, range(5)):
        played = oracle(spec, index, split=split)
        assert played.replies[-1].reward == 1.0
    assert spec.task("train", 3) == spec.task("train", 3)


@settings(max_examples=10)
@given(st.integers(2, 6), st.integers(0, 1000))
def test_the_oracle_solves_every_dry_map_within_the_turns(size, index):
    spec = toy_text.frozenlake(random_size=size, frozen=0.7)
    played = oracle(spec, index)
    assert played.replies[-1].reward == 1.0
    assert len(played.replies) <= spec.max_turns


def rewards_of(spec, speaker, episodes):
    """Final rewards of this many episodes, each with its own task and seed."""

    async def run():
        size = spec.sizes["train"] or episodes
        games = [await play_scripted(spec, spec.task("train", i % size), i, speaker, clock=Clock(5)) for i in range(episodes)]
        return [sum(r.reward for r in g.replies) for g in games]

    return asyncio.run(run())


def test_exact_values_agree_with_simulation():
    """4x4, slippery, 100 steps: the oracle and the random agent lie within 4 standard errors of their exact values."""
    spec = toy_text.frozenlake(slippery=True)
    assert spec.oracle_reward == pytest.approx(0.7442, abs=1e-4)
    assert spec.chance_reward == pytest.approx(0.0139, abs=1e-4)
    for speaker, promised, n in [(expert(), spec.oracle_reward, 150), (uniform(random.Random(0)), spec.chance_reward, 400)]:
        assert abs(np.mean(rewards_of(spec, speaker, n)) - promised) < 4 * np.sqrt(promised * (1 - promised) / n)


def test_slips_come_from_the_episodes_seed():
    spec = toy_text.frozenlake(slippery=True)
    actions = [move("right")] * 4
    walks = {seed: [texts(r) for r in play(spec, actions, seed=seed)[0].replies[:2]] for seed in range(12)}
    assert len({str(w) for w in walks.values()}) > 1
    assert walks[3] == [texts(r) for r in play(spec, actions, seed=3)[0].replies[:2]]


# Taxi


def test_taxi_is_always_delivered_in_at_most_18_steps_with_the_best_return():
    spec = toy_text.taxi()
    assert spec.sizes["train"] + spec.sizes["heldout"] == 300
    lengths = []
    for index in range(0, 240, 12):
        played = oracle(spec, index)
        returns = sum(r.metrics["raw_return"] for r in played.replies)
        assert returns == 21 - len(played.replies)
        lengths.append(len(played.replies))
    assert max(lengths) <= 18
    every = [len(oracle(spec, i, split="heldout").replies) for i in range(0, 58, 3)]
    assert max(every) <= 18


def test_taxi_text_names_places():
    spec = toy_text.taxi()
    played, _ = play(spec, [act(call("act", {"action": "pickup"}))], index=0)
    text = played.opening.messages[0].text
    assert "|R: | : :G|" in text
    assert text.splitlines()[-1].startswith("Taxi: row 0 column 0. Passenger: at ")


# CliffWalking


def test_cliff_throws_back_and_the_safe_way_has_thirteen_steps():
    spec = toy_text.cliffwalking()
    played, reward = play(spec, [move("right"), move("up", *["right"] * 11, "down")])
    assert texts(played.replies[0])[0].splitlines()[-1] == "@CCCCCCCCCCG"
    assert reward.value == 1.0
    assert reward.component("raw_return").score == -100 - 13
    assert len(oracle(spec).replies) == 13


# Blackjack


def test_hands_agree_with_the_rules():
    assert NO_CARDS.add(1).add(10) == Hand(total=21, usable_ace=True)
    assert NO_CARDS.add(1).add(1) == Hand(total=12, usable_ace=True)
    assert NO_CARDS.add(10).add(6).add(1) == Hand(total=17, usable_ace=False)
    assert NO_CARDS.add(1).add(5).add(10) == Hand(total=16, usable_ace=False)


def test_dealer_probabilities_sum_to_one_and_aces_bust_less():
    for card in range(1, 11):
        assert sum(dealer_totals(NO_CARDS.add(card)).values()) == pytest.approx(1.0)
    assert dealer_totals(NO_CARDS.add(6))[0] == pytest.approx(0.4232, abs=1e-3)
    assert dealer_totals(NO_CARDS.add(1))[0] < dealer_totals(NO_CARDS.add(10))[0] < dealer_totals(NO_CARDS.add(6))[0]


def test_best_play_is_the_textbook_strategy():
    def hits(total, dealer, ace=False):
        return value(Hand(total=total, usable_ace=ace), dealer, True)[1]

    assert [d for d in range(1, 11) if not hits(12, d)] == [4, 5, 6]
    assert [d for d in range(1, 11) if not hits(16, d)] == [2, 3, 4, 5, 6]
    assert not any(hits(17, d) for d in range(1, 11))
    assert [d for d in range(1, 11) if hits(18, d, ace=True)] == [1, 9, 10]


def test_exact_blackjack_values_agree_with_simulation():
    assert mean_value(True) == pytest.approx(-0.0466, abs=1e-4)
    spec = blackjack()
    for speaker, promised in [(expert(), spec.oracle_reward), (uniform(random.Random(1)), spec.chance_reward)]:
        assert abs(np.mean(rewards_of(spec, speaker, 600)) - promised) < 4 * 0.5 / np.sqrt(600)


def test_a_deal_fixes_the_first_cards_and_the_seed_the_later_ones():
    spec = blackjack()
    hit = act(call("play", {"action": "hit"}))
    games = [play(spec, [hit], index=4, seed=s)[0] for s in range(8)]
    assert len({g.opening.messages for g in games}) == 1
    assert len({str(texts(g.replies[0])) for g in games}) > 1


# All


WORLDS = {
    "frozenlake": lambda: toy_text.frozenlake(slippery=True),
    "taxi": lambda: toy_text.taxi(rainy=True),
    "cliffwalking": lambda: toy_text.cliffwalking(slippery=True),
    "blackjack": blackjack,
}


@pytest.mark.parametrize("name", WORLDS)
def test_what_gymnasium_says_in_info_never_reaches_the_policy(name):
    spec = WORLDS[name]()
    played = asyncio.run(play_scripted(spec, spec.task("train", 0), 0, uniform(random.Random(0)), clock=Clock(5)))
    shown = b"".join(msgspec.json.encode([r.messages, r.tools]) for r in (played.opening, *played.replies)).decode()
    for leak in ("prob", "action_mask", "0.333", "array(", "np."):
        assert leak not in shown


@pytest.mark.parametrize("name", WORLDS)
def test_random_worlds_keep_their_contract_too(name):
    report = asyncio.run(check(WORLDS[name](), rules=["tasks", "opening", "steps", "secrecy", "snapshots", "mistakes"]))
    assert report.ok, report.failures


def test_episodes_share_no_state():
    spec = toy_text.frozenlake()

    async def run():
        one, two = spec.make(), spec.make()
        await one.reset(spec.task("train", 0), 0)
        await two.reset(spec.task("train", 0), 0)
        await one.step(move("down"))
        return texts(await two.step(move("right")))

    assert asyncio.run(run()) == ["S@FF\nFHFH\nFFFH\nHFFG"]


def test_a_corridor_by_hand():
    """Three tiles in a row: random play from the left reaches the right end in 2 steps with 1/4, in 3 with 1/4, ..."""
    left_end, goal = 0, 2
    table = {
        s: {0: [(1.0, max(s - 1, left_end), 0, False)], 1: [(1.0, s + 1, int(s + 1 == goal), s + 1 == goal)]} for s in (0, 1)
    }
    table[2] = {a: [(1.0, 2, 0, True)] for a in (0, 1)}
    two, four = solve(table, lambda r, done: r, 2), solve(table, lambda r, done: r, 4)
    assert (two.best[0], two.random[0]) == (1.0, 0.25)
    assert (solve(table, lambda r, done: r, 1).best[0], four.random[0]) == (0.0, 0.25 + 0.125 + 0.125)
    assert [four.action(0, 4), four.action(1, 1), four.action(1, 99)] == [1, 1, 1]


def test_arguments_out_of_range_are_refused():
    for bad in (
        lambda: toy_text.frozenlake(random_size=1),
        lambda: toy_text.frozenlake(frozen=0.0),
        lambda: toy_text.frozenlake(success_rate=2.0),
        lambda: toy_text.cliffwalking(max_turns=-1),
        lambda: blackjack(max_turns=0),
        lambda: toy_text.taxi().task("train", 9999),
    ):
        with pytest.raises(ConfigError):
            bad()
    with pytest.raises(UnknownName):
        toy_text.taxi().task("test", 0)
