"""Episodes that fork or rewrite their history: what follows what, and what each trajectory earned."""

import asyncio

import msgspec
import pytest
from credit_groups import group, task, turn

from phronesis.credit import TurnReturnCredit, discounted_returns
from phronesis.credit.baselines.returns import token_returns
from phronesis.records import Component, Episode, Reward, Stop
from phronesis.rewards import acted_turns
from phronesis.store.codec import decode, encode


def tree(*links, scores=(), whole=None, name="e"):
    """An episode of turns given as (parent, follows); `scores` are rewards of turns, `whole` that of the episode."""
    turns = tuple(msgspec.structs.replace(turn(parent), follows=follows) for parent, follows in links)
    parts = [Component(name="turn", score=s, turn=k) for k, s in enumerate(scores)]
    parts += [] if whole is None else [Component(name="whole", score=whole)]
    return Episode(id=name, task=task(), seed=0, turns=turns, stop=Stop.completed, reward=Reward(components=tuple(parts)))


REPEATED = [(None, -1), (None, 0), (None, 1)]
"""Three turns with one and the same prompt, in a row: history was rewritten to what it had been."""
FORKED = [(None, -1), (0, 0), (0, 0), (2, 2), (None, -1)]
"""Turn 0; 1 and 2 follow it; 3 follows 2; 4 is a second beginning."""


def test_a_repeated_prompt_is_no_fork_where_it_was_noted():
    assert tree(*REPEATED).before == (None, 0, 1) and tree(*REPEATED).ends == (2,)
    assert tree((None, -1), (None, -1)).before == (None, None)
    unknown = tree((None, None), (None, None), (None, None))
    assert unknown.before == (None, None, None), "what nobody noted is guessed from prompts"


def test_lines_and_ends():
    forked = tree(*FORKED)
    assert forked.before == (None, 0, 0, 2, None) and forked.ends == (1, 3, 4)
    assert [forked.line(end) for end in forked.ends] == [(0, 1), (0, 2, 3), (4,)]
    assert acted_turns(tree(*FORKED[:4])) == (0, 2, 3), "what the agent did is the line it ended on"
    assert tree().ends == () and tree().earned == () and acted_turns(tree()) == ()


def test_an_old_line_reads_as_before():
    noted = tree(*FORKED, whole=1.0)
    line = encode(noted)
    assert decode(line).episode == noted
    old = line.replace(b'"follows":-1,', b"").replace(b'"follows":0,', b"").replace(b'"follows":2,', b"")
    assert b"follows" not in old
    episode, substitutions = decode(old)
    assert [t.follows for t in episode.turns] == [None] * 5 and not substitutions
    assert episode.before == noted.before


def test_what_belongs_to_no_turn_counts_once_on_every_trajectory():
    forked = tree(*FORKED, scores=(0.5, 1.0, 0.0, 2.0, 0.0), whole=4.0)
    assert forked.earned == (0.5, 5.0, 0.0, 6.0, 4.0)
    assert discounted_returns(forked, 1.0) == (0.5 + (5.0 + 6.0) / 2, 5.0, 6.0, 6.0, 4.0)
    assert token_returns(forked) == [6.0, 6.0, 5.0, 5.0, 6.0, 6.0, 6.0, 6.0, 4.0, 4.0]
    rewritten = tree(*REPEATED, whole=3.0)
    assert rewritten.earned == (0.0, 0.0, 3.0) and discounted_returns(rewritten, 0.5) == (0.75, 1.5, 3.0)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_a_fork_without_rewards_of_turns_is_worth_what_a_chain_is(gamma):
    """Both branches are as long; so the shared turn must return what a chain returns, not twice as much nor half."""
    forked, chain = tree((None, -1), (0, 0), (0, 0), whole=2.0), tree((None, -1), (0, 0), whole=2.0)
    assert discounted_returns(forked, gamma) == (2.0 * gamma, 2.0, 2.0)
    assert discounted_returns(chain, gamma) == (2.0 * gamma, 2.0)
    credit = asyncio.run(TurnReturnCredit(gamma=gamma).assign(group(forked, chain)))
    assert credit.zero_variance
