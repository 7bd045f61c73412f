"""Rules that play on from inside episodes: values by hand, conservation, what they ask for."""

import asyncio
import random
from itertools import count, pairwise

import msgspec
import pytest
from credit_groups import episode, group, turn
from hypothesis import given
from hypothesis import strategies as st

from phronesis.credit.replays.counterfactual import CounterfactualCredit, loo_counterfactual
from phronesis.credit.replays.montecarlo import SPOChainCredit, VinePPOCredit, cut_points, spo_chain, vineppo
from phronesis.credit.replays.stepwise import MARKERS, SPAECredit, VSRMCredit, spae, thought_cuts, vsrm
from phronesis.errors import ConfigError
from phronesis.records import Stop

numbers = st.floats(-5, 5)


class Scripted:
    """Continuations with given rewards, by episode and turn; remembers what it was asked."""

    def __init__(self, rewards):
        self.rewards, self.asked = rewards, []

    async def __call__(self, episode, turn, n, *, greedy=False):
        self.asked.append((episode.id, turn, n))
        row = self.rewards[episode.id][turn]
        return tuple(row[i % len(row)] for i in range(n))


def assign(rule, g, rerun):
    return asyncio.run(rule.assign(g, rerun))


def by_turn(credit):
    return [None if rows is None else [row[0] for row in rows] for rows in credit.values]


def test_vineppo_worked_example():
    found = vineppo([[1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0, 0]], [0, 1])
    assert found.values == pytest.approx([3 / 9, 7 / 9]) and found.advantages == pytest.approx([4 / 9, 2 / 9])
    assert vineppo([[1.0], [0.5]], [0, 1], 0.9).advantages == pytest.approx([0.9 * 0.5 - 1.0, 0.5])
    assert vineppo([], []) == ((), ())


@given(st.lists(st.tuples(st.lists(numbers, min_size=1, max_size=4), numbers), min_size=1, max_size=6))
def test_vineppo_adds_up_to_the_return_minus_the_first_value(steps):
    found = vineppo([r for r, _ in steps], [r for _, r in steps])
    assert sum(found.advantages) == pytest.approx(sum(r for _, r in steps) - found.values[0], abs=1e-9)


@given(st.lists(numbers, min_size=1, max_size=6), numbers)
def test_spo_chain_adds_up_to_the_score_minus_the_first_value(values, score):
    assert sum(spo_chain(values, score)) == pytest.approx(score - values[0], abs=1e-9)


def test_spo_chain_worked_example():
    assert spo_chain([0.25, 0.5, 0.75], 1.0) == (0.25, 0.25, 0.25)
    assert spo_chain([], 1.0) == ()


def test_vineppo_credit_reads_whole_episode_rewards():
    g = group(episode([0, 0.5, 0.5], name="a"), episode([0], name="b"))
    play = Scripted({"a": [[0, 1], [0.5, 1], [1, 1, 0.5]], "b": [[0.25]]})
    credit = assign(VinePPOCredit(rollouts=6), g, play)
    values = [0.5, 0.75, 2.5 / 3, 1.0]
    assert by_turn(credit)[0] == pytest.approx([b - a for a, b in pairwise(values)])
    assert by_turn(credit)[1] == pytest.approx([-0.25])
    assert sorted(play.asked) == [("a", 0, 6), ("a", 1, 6), ("a", 2, 6), ("b", 0, 6)]


@pytest.mark.parametrize("seed", range(5))
def test_vineppo_credit_is_conserved(seed):
    source = random.Random(seed)
    rewards = [source.choice([0, 0.5, 1]) for _ in range(source.randint(1, 6))]
    play = Scripted({"a": [[source.random() for _ in range(3)] for _ in rewards]})
    found = by_turn(assign(VinePPOCredit(rollouts=3), group(episode(rewards, name="a")), play))[0]
    assert sum(found) == pytest.approx(sum(rewards) - sum(play.rewards["a"][0]) / 3)


def test_a_lone_episode_has_credit_when_values_come_from_continuations():
    g = group(episode([1], name="a"), episode([0], stop=Stop.env_fault))
    credit = assign(VinePPOCredit(rollouts=1), g, Scripted({"a": [[0.5]]}))
    assert by_turn(credit) == [[0.5], None] and credit.reasons == (None, "env_fault")


def test_vineppo_judges_branches_from_the_point_they_share():
    e = episode([0, 1, 0], name="a")
    e = msgspec.structs.replace(e, turns=(turn(None), turn(0), turn(0)))
    credit = assign(VinePPOCredit(rollouts=2), group(e), Scripted({"a": [[0, 0], [1, 0], [1, 0]]}))
    # Before the fork .0, at it .5, the episode earned 1.
    assert by_turn(credit)[0] == pytest.approx([0.5, 0.5, 0.5])


def test_segments_are_cut_after_enough_uncertain_tokens():
    assert cut_points([[0.5, 0.99], [0.8], [0.95], [0.2]], every=2) == (0, 2)
    assert cut_points([[0.99]] * 3, every=1) == (0,) and cut_points([], every=1) == ()
    assert cut_points([[0.1] * 9, [0.1]], every=5) == (0, 1)


def test_spo_chain_credit_trains_uncertain_tokens_only():
    e = episode([0, 0, 1], name="a", logprobs=(-1.0, -0.01))
    credit = assign(SPOChainCredit(every=2, rollouts=2), group(e), play := Scripted({"a": [[0, 0], [], [1, 0]]}))
    # One uncertain token a turn: segments of turns (0, 1) and (2,); values 0 and .5, reward 1.
    assert credit.values[0] == ((0.5, 0.0), (0.5, 0.0), (0.5, 0.0))
    assert sorted(t for _, t, _ in play.asked) == [0, 2]
    forked = msgspec.structs.replace(e, turns=(turn(None), turn(0), turn(0)))
    with pytest.raises(ConfigError, match="forks"):
        assign(SPOChainCredit(), group(forked), play)


def test_counterfactual_compares_with_the_turn_drawn_anew():
    assert loo_counterfactual(1.0, [0.0, 1.0, 0.5, 0.0]) == 0.625 and loo_counterfactual(1.0, []) == 0.0
    g = group(episode([0, 1], name="a"), episode([0], name="b"))
    play = Scripted({"a": [[0, 0, 1, 0], [1]], "b": [[1, 0]]})
    assert by_turn(assign(CounterfactualCredit(), g, play)) == [[0.75, 0.0], [-0.5]]


def test_vsrm_worked_examples():
    assert vsrm([0.25, 0.25, 0.75, 0.75]) == ((0.0, 0.5, 0.0), (pytest.approx(0.35), 0.5, 0.0))
    assert vsrm([0, 0, 0, 0.5, 0.25], gamma=0.5, window=2).reward == (0.125, 0.25, 0.5, -0.25)
    assert vsrm([0, 0, 0, 0.5], gamma=0.5, window=1).reward == (0.0, 0.25, 0.5)
    assert vsrm([0, 0.1, 0.6], gamma=0.5, tie=0.1).reward == (pytest.approx(0.25), 0.5)
    assert vsrm([0.5]) == ((), ()) and vsrm([]) == ((), ())
    assert vsrm([0, 0, 1], window=0).reward == (0.0, 1.0)


def test_thoughts_are_cut_at_marker_words():
    text = "Add 2 and 3. So 5. However, 6. Sofas. nothing So. Wait"
    assert [text[i:].split()[0] for i in thought_cuts(text, gap=1)] == ["So", "However,", "Wait"]
    assert thought_cuts(text, gap=10) == (13, 48 + 2)
    assert thought_cuts(text, gap=1, skip=20) == (50,)
    assert thought_cuts("") == () and "Wait" in MARKERS


def test_vsrm_credit_is_the_gain_to_go_against_the_others():
    g = group(episode([0, 1], name="a"), episode([0, 0], name="b"))
    play = Scripted({"a": [[0, 0], [0, 1]], "b": [[0, 1], [0, 0]]})
    # a: accuracies 0 .5 1, gains .5 .5, with the outcome .5 1.5, to go 2 1.5; b: .5 0 0, gains -.5 0, to go -.5 0.
    assert by_turn(assign(VSRMCredit(rollouts=2), g, play)) == [pytest.approx([1.25, 0.75]), pytest.approx([-1.25, -0.75])]


def test_spae_worked_examples():
    assert spae([0.8, 1.0], [0.5, 1.0]) == (pytest.approx((0.5, 1.0)), (False, True))
    assert spae([0.0], [0.9]).phi == (-0.9,)
    assert spae([], []) == ((), ())


def test_spae_credit_punishes_checking_again():
    g = group(episode([0, 0, 1], name="a"), episode([0, 0], name="b"))
    play = Scripted({"a": [[0, 1], [1], [1]], "b": [[0], [0]]})
    found = by_turn(assign(SPAECredit(rollouts=2, xi=1.0, penalty=0.25), g, play))
    # phi of a: .5 * .5 * 1.5 + .25 - .5 = .125, then 1, 1, 1; of b: -1 throughout; group advantages ±.5.
    assert found[0] == pytest.approx([0.5 + 0.875, 0.5 - 0.25, 0.5 - 0.25]) and found[1] == pytest.approx([-0.5, -0.5])


@pytest.mark.parametrize(
    "make",
    [
        lambda: VinePPOCredit(rollouts=0),
        lambda: SPOChainCredit(every=0),
        lambda: SPOChainCredit(below=0.0),
        lambda: CounterfactualCredit(rollouts=0),
        lambda: VSRMCredit(window=-1),
        lambda: VSRMCredit(gamma=2.0),
        lambda: SPAECredit(penalty=-1.0),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ConfigError):
        make()


class Walk:
    """A chain of coin flips with one decisive turn: the reward is the flip at that turn."""

    def __init__(self, decisive, seed):
        self.decisive, self.source, self.played = decisive, random.Random(seed), count()

    async def __call__(self, episode, turn, n, *, greedy=False):
        next(self.played)
        won = sum(c.score for c in episode.reward.components)
        return tuple(won if turn > self.decisive else float(self.source.random() < 0.5) for _ in range(n))


def test_the_decisive_turn_gets_the_largest_credit():
    for seed in range(3):
        e = episode([0, 0, 0, 0, 0, 1], name="a")
        found = by_turn(assign(VinePPOCredit(rollouts=64), group(e), Walk(3, seed)))[0]
        assert max(range(6), key=lambda k: abs(found[k])) == 3 and found[3] == pytest.approx(0.5, abs=0.2)
        assert found[4:] == [0.0, 0.0]


P, Q, WORTH = 0.3, (0.6, 0.2), ((1.0, 0.25), (0.0, 2.0))
"""Chance of the first and second draw being 1, and what each pair is worth."""


def flips(a, b):
    """Rewards of enough continuations to have every outcome as often as it is likely."""
    after = [WORTH[a][0]] * round(10 * (1 - Q[a])) + [WORTH[a][1]] * round(10 * Q[a])
    first = [WORTH[x][y] for x, n in ((0, 7), (1, 3)) for y, m in ((0, 1 - Q[x]), (1, Q[x])) for _ in range(round(10 * n * m))]
    return [first, after]


@pytest.mark.parametrize("kind", [VinePPOCredit, CounterfactualCredit])
def test_the_expected_gradient_is_the_true_one(kind):
    found = [0.0, 0.0]
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        chance = (P if a else 1 - P) * (Q[a] if b else 1 - Q[a])
        g = group(episode([0, WORTH[a][b]], name="a"))
        # 100 continuations hold every pair in proportion.
        credit = by_turn(assign(kind(rollouts=100), g, Scripted({"a": flips(a, b)})))[0]
        found[0] += chance * credit[0] * (a - P)
        found[1] += chance * credit[1] * (b - Q[a])
    values = [WORTH[a][0] * (1 - Q[a]) + WORTH[a][1] * Q[a] for a in (0, 1)]
    second = sum(w * Q[a] * (1 - Q[a]) * (WORTH[a][1] - WORTH[a][0]) for a, w in ((0, 1 - P), (1, P)))
    assert found == pytest.approx([P * (1 - P) * (values[1] - values[0]), second])
