"""Credit by steps inside turns: where they begin, from where they are played on, and which tokens they pay."""

import asyncio
from math import log

import msgspec
import pytest
from credit_groups import episode, group

from phronesis.credit.baselines.group import NoBaseline
from phronesis.credit.replays.montecarlo import SPOChainCredit, VinePPOCredit, line_starts, token_cuts
from phronesis.credit.replays.stepwise import VSRMCredit
from phronesis.credit.side import spread_cuts, token_places
from phronesis.errors import ConfigError

SURE, UNSURE = log(0.95), log(0.5)


class Player:
    """Rewards by place; each token says one character of a text."""

    def __init__(self, values, texts=()):
        self.values, self.texts, self.asked = values, texts, []

    async def __call__(self, episode, turn, n, *, greedy=False, token=0):
        self.asked.append((turn, token, n))
        return (self.values[turn, token],) * n


class Reader(Player):
    def said(self, turn, tokens):
        return self.texts[turn.prompt_crc][:tokens]


def told(reward, *rows, sampled=None):
    """An episode whose turns have tokens of these log-probabilities; turn k is told by its checksum."""
    e = episode([0.0] * (len(rows) - 1) + [reward])
    turns = tuple(
        msgspec.structs.replace(
            t, completion=(7,) * len(row), logprobs=row, prompt_crc=k, sampled=sampled[k] if sampled else (True,) * len(row)
        )
        for k, (t, row) in enumerate(zip(e.turns, rows, strict=True))
    )
    return msgspec.structs.replace(e, turns=turns)


def test_cuts_lie_after_a_number_of_uncertain_tokens():
    assert token_cuts([[0.5, 0.99], [0.8, 0.2, 0.95]], every=2) == ((0, 0), (1, 1))
    assert token_cuts([[0.5] * 4], every=1) == ((0, 0), (0, 1), (0, 2), (0, 3))
    assert token_cuts([[], [0.5, 0.5]], every=2) == ((1, 0),), "nothing follows the last token"
    assert token_cuts([], every=3) == ()


def test_spo_plays_on_from_inside_a_turn_and_pays_its_segments():
    """Three uncertain tokens, then a sure one in turn 0; two segments of two uncertain tokens each."""
    e = told(1.0, (UNSURE, SURE, UNSURE, UNSURE), (SURE, UNSURE))
    play = Player({(0, 0): 0.25, (0, 3): 0.5})
    credit = asyncio.run(SPOChainCredit(every=2, rollouts=3, cut="token").assign(group(e), play))
    assert play.asked == [(0, 0, 3), (0, 3, 3)]
    assert credit.values == (((0.25, 0.0, 0.25, 0.5), (0.0, 0.5)),)


def test_spo_gives_every_episode_the_same_number_of_segments():
    long, short = told(1.0, (UNSURE,) * 6), told(0.0, (UNSURE,) * 2)
    play = Player({(0, t): 0.5 for t in range(6)})
    asyncio.run(SPOChainCredit(segments=2, rollouts=1, cut="token").assign(group(long), play))
    assert play.asked == [(0, 0, 1), (0, 3, 1)]
    play.asked.clear()
    asyncio.run(SPOChainCredit(segments=3, rollouts=1, cut="token").assign(group(short), play))
    assert play.asked == [(0, 0, 1), (0, 1, 1)]
    with pytest.raises(ConfigError, match="segments 0"):
        SPOChainCredit(segments=0)


def test_credits_of_an_episode_add_up_whatever_the_cuts():
    e = told(1.0, (UNSURE,) * 5, (UNSURE,) * 3)
    values = {(k, t): 0.1 * k + 0.05 * t for k in range(2) for t in range(5)}
    for every in (1, 2, 3, 7):
        play = Player(values)
        credit = asyncio.run(SPOChainCredit(every=every, rollouts=1, cut="token").assign(group(e), play))
        flat = [(k, t, a) for k, row in enumerate(credit.values[0]) for t, a in enumerate(row)]
        starts = {(k, t) for k, t, _ in play.asked}
        assert sum(a for k, t, a in flat if (k, t) in starts) == pytest.approx(1.0 - values[0, 0])


def test_forced_tokens_are_neither_counted_nor_paid():
    e = told(1.0, (UNSURE,) * 4, sampled=[(True, False, False, True)])
    play = Player({(0, 0): 0.0, (0, 1): 0.5})
    credit = asyncio.run(SPOChainCredit(every=1, rollouts=1, cut="token").assign(group(e), play))
    assert play.asked == [(0, 0, 1), (0, 1, 1)] and credit.values == (((0.5, 0.0, 0.0, 0.5),),)


def test_lines_and_the_tokens_that_hold_them():
    assert line_starts("2 + 3\n\nis 5\n") == (7,) and line_starts("\n\nnow\nthen") == (6,) and line_starts("") == ()
    turn = told(0.0, (SURE,) * 6).turns[0]

    class Chunks:
        """Tokens of two characters each."""

        def said(self, turn, tokens):
            return "abcdefghijkl"[: 2 * tokens]

    assert token_places(Chunks(), turn, [0, 3, 4, 5, 99]) == [0, 1, 2]
    e = told(0.0, (SURE,) * 3, (SURE,) * 2)
    assert spread_cuts(e, [(0, 0), (0, 2), (1, 1)], [1.0, 2.0, 3.0]) == [[1.0, 1.0, 2.0], [2.0, 3.0]]


def test_vineppo_by_lines():
    """Turn 0 says "a\\nb\\nc": lines begin at tokens 2 and 4; turn 1 is one line."""
    e = told(1.0, (UNSURE,) * 5, (UNSURE,) * 2)
    play = Reader({(0, 0): 0.1, (0, 2): 0.3, (0, 4): 0.3, (1, 0): 0.8}, ("a\nb\nc", "de"))
    credit = asyncio.run(VinePPOCredit(rollouts=2, step="line").assign(group(e), play))
    assert play.asked == [(0, 0, 2), (0, 2, 2), (0, 4, 2), (1, 0, 2)]
    first, second = credit.values[0]
    assert first == pytest.approx((0.2, 0.2, 0.0, 0.0, 0.5)) and second == pytest.approx((0.2, 0.2))
    with pytest.raises(ConfigError, match="Player cannot read"):
        asyncio.run(VinePPOCredit(step="line").assign(group(e), Player({})))


def test_vsrm_by_marker_words():
    """ "Go. So on. Wait" is cut at So and at Wait; only the last piece changes the chance, and the one before shares it."""
    text = "Go. So on. Wait"
    e = told(1.0, (UNSURE,) * len(text))
    play = Reader({(0, 0): 0.25, (0, 4): 0.25, (0, 11): 0.5}, (text,))
    rule = VSRMCredit(rollouts=1, gap=3, step="marker", gamma=0.5, window=1, baseline=NoBaseline())
    credit = asyncio.run(rule.assign(group(e), play))
    assert [(k, t) for k, t, _ in play.asked] == [(0, 0), (0, 4), (0, 11)]
    # Gains 0, .25, .5; the first shares half of the second's; the reward comes at the end.
    (row,) = credit.values[0]
    assert row[11] == 1.5 and row[4] == row[10] == 1.75 and row[0] == row[3] == 1.875
    with pytest.raises(ConfigError, match="no state of their own"):
        VSRMCredit(step="marker", pool="state")


def test_steps_of_one_number_are_compared():
    text = "Go. So"
    won, lost = told(1.0, (UNSURE,) * 6), told(0.0, (UNSURE,) * 6)
    play = Reader({(0, 0): 0.5, (0, 4): 0.5}, (text,))
    credit = asyncio.run(VSRMCredit(rollouts=1, gap=3, step="marker", window=0).assign(group(won, lost), play))
    # Gains 0 and reward - .5, returns of both steps .5 + 1 and -.5 + 0.
    assert credit.values[0] == ((1.0,) * 6,) and credit.values[1] == ((-1.0,) * 6,)
