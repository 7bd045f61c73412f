"""What a batch leaves out or fills up: truncated episodes, faulty members of a group."""

import asyncio

import msgspec
import pytest
from sampled_groups import make_group

from phronesis.credit import GroupMean, TrajectoryCredit, VerifiedCredit
from phronesis.errors import AllFaulted
from phronesis.policy import prompt_crc
from phronesis.records import Component, Credit, Reward, Stop
from phronesis.train import crediting
from phronesis.train.batching import BatchConfig, build_batch
from phronesis.train.selection import untruncated

replace = msgspec.structs.replace


def credits_of(groups):
    return [asyncio.run(TrajectoryCredit(baseline=GroupMean()).assign(g)) for g in groups]


def stopped(group, *stops):
    """The group with other ends; a fault also loses its score."""
    episodes = [
        replace(e, stop=stop, reward=Reward() if stop.is_fault else e.reward)
        for e, stop in zip(group.episodes, stops, strict=True)
    ]
    return replace(group, episodes=tuple(episodes))


@pytest.fixture
def group(decoder):
    return make_group(decoder, 0, size=4)


def advantages(batch):
    """Per member of the batch, the set of its tokens' advantages."""
    found = [set() for _ in batch.episodes]
    for s in batch.segments:
        if s.episode >= 0:
            found[s.episode] |= {a for a, m in zip(s.advantages, s.mask, strict=True) if m}
    return found


def test_truncated_episodes_count_in_the_baseline_and_are_not_learned_from(group):
    cut = stopped(group, Stop.completed, Stop.max_tokens, Stop.completed, Stop.max_turns)
    credits = credits_of([cut])
    assert credits == credits_of([group])
    batch = build_batch([cut], credits, BatchConfig(drop_truncated=True))
    assert batch.dropped == {"truncated": 2}
    assert batch.episodes == (cut.episodes[0].id, cut.episodes[2].id)
    assert batch.total_tokens == sum(cut.episodes[i].sampled_tokens for i in (0, 2)) and batch.total_sequences == 2
    assert build_batch([cut], credits).dropped == {}, "only when asked"


@pytest.fixture
def forked(group):
    """Two branches behind the first attempt's turns, each the turn of another attempt, and an attempt by itself."""
    base, short, long, alone = group.episodes
    turns = list(base.turns)
    for tail in (short, long):
        turn = tail.turns[-1]
        crc = prompt_crc((*base.prompt(len(base.turns) - 1), *base.turns[-1].completion, *turn.context))
        turns.append(replace(turn, parent=len(base.turns) - 1, follows=len(base.turns) - 1, prompt_crc=crc))
    first, second = len(base.turns), len(base.turns) + 1
    parts = tuple(Component(name="r", score=float(k), branch=k) for k in (first, second))
    fork = replace(base, turns=tuple(turns), reward=Reward(components=parts))
    assert fork.ends == (first, second)
    return replace(group, episodes=(fork, alone))


def test_of_a_forked_episode_the_truncated_branches_are_left_out(forked):
    fork, alone = forked.episodes
    first, second = fork.ends
    shared = frozenset(range(first))
    mixed = replace(fork, stop=Stop.completed, stops=(Stop.max_turns, Stop.completed))
    assert untruncated(mixed) == shared | {second}
    assert untruncated(fork) == shared | {first, second}, "no branch was truncated"
    assert untruncated(replace(mixed, stops=(Stop.parse, Stop.timeout))) == shared | {first}
    assert untruncated(replace(mixed, stop=Stop.timeout, stops=(Stop.timeout, Stop.context))) is None

    cut = replace(forked, episodes=(mixed, alone))
    credits = credits_of([cut])
    batch = build_batch([cut], credits, BatchConfig(drop_truncated=True))
    assert batch.dropped == {"truncated_branches": 1} and batch.episodes == (fork.id, alone.id)
    left = fork.sampled_tokens - fork.turns[first].produced
    assert batch.sequence_tokens == (left, alone.sampled_tokens)
    assert batch.trained_tokens == batch.total_tokens == left + alone.sampled_tokens
    trained = {t for s in batch.segments if s.episode == 0 for t, m in zip(s.turns, s.mask, strict=True) if m}
    assert trained == shared | {second}, "turns keep their numbers"
    assert batch.total_turns == len(fork.turns) - 1 + len(alone.turns)
    assert build_batch([cut], credits).sequence_tokens[0] == fork.sampled_tokens, "only when asked"

    over = replace(mixed, stop=Stop.timeout, stops=(Stop.timeout, Stop.context))
    batch = build_batch([replace(forked, episodes=(over, alone))], credits, BatchConfig(drop_truncated=True))
    assert batch.dropped == {"truncated": 1} and batch.episodes == (alone.id,)


def test_credit_on_truncated_branches_alone_is_no_signal(forked):
    fork, alone = forked.episodes
    first = fork.ends[0]
    mixed = replace(fork, stop=Stop.completed, stops=(Stop.max_turns, Stop.completed))
    values = tuple(tuple(float(k == first) if m else 0.0 for m in t.sampled) for k, t in enumerate(fork.turns))
    credit = Credit(group=forked.id, values=(values, None), reasons=(None, "alone"))
    cut = replace(forked, episodes=(mixed, alone))
    batch = build_batch([cut], [credit], BatchConfig(drop_truncated=True))
    assert batch.dropped == {"truncated_branches": 1, "no_signal": 1, "alone": 1} and batch.segments == ()


def test_copies_take_the_places_of_faults(group):
    torn = stopped(group, Stop.completed, Stop.env_fault, Stop.completed, Stop.completed)
    credits = credits_of([torn])
    batch = build_batch([torn], credits, BatchConfig(repair=True))
    assert batch.dropped == {"env_fault": 1}
    assert batch.episodes == tuple(torn.episodes[i].id for i in (0, 2, 3, 0))
    rewards = [torn.episodes[i].reward.value for i in (0, 2, 3)]
    expected = [r - sum(rewards) / 3 for r in rewards]
    assert [next(iter(a)) for a in advantages(batch)] == pytest.approx([*expected, expected[0]])
    tokens = [torn.episodes[i].sampled_tokens for i in (0, 2, 3, 0)]
    assert batch.sequence_tokens == tuple(tokens) and batch.trained_tokens == batch.total_tokens == sum(tokens)
    assert build_batch([torn], credits).episodes == batch.episodes[:3], "only when asked"


def test_a_group_with_half_of_it_missing_is_left_out(group, decoder):
    torn = stopped(group, Stop.completed, Stop.env_fault, Stop.completed, Stop.infra_fault)
    whole = make_group(decoder, 1)
    batch = build_batch([torn, whole], credits_of([torn, whole]), BatchConfig(repair=True))
    assert batch.dropped == {"group_broken": 2, "env_fault": 1, "infra_fault": 1}
    assert batch.episodes == tuple(e.id for e in whole.episodes)


def test_members_left_out_for_what_they_did_are_no_faults(group):
    """Under `verified` a failed attempt has no credit; only the faulty one is filled up, from the successes."""
    scored = replace(
        group,
        episodes=tuple(
            replace(e, reward=Reward(components=(Component(name="r", score=r),)))
            for e, r in zip(group.episodes, (1.0, 1.0, 0.0, 1.0), strict=True)
        ),
    )
    clean = asyncio.run(VerifiedCredit().assign(scored))
    batch = build_batch([scored], [clean], BatchConfig(repair=True))
    assert batch.dropped == {"failed": 1} and len(batch.episodes) == 3
    broken = stopped(scored, Stop.completed, Stop.completed, Stop.completed, Stop.env_fault)
    batch = build_batch([broken], [asyncio.run(VerifiedCredit().assign(broken))], BatchConfig(repair=True))
    first, second = (e.id for e in broken.episodes[:2])
    assert batch.episodes == (first, second, first) and batch.dropped == {"failed": 1, "env_fault": 1}


def test_a_group_whose_continuations_all_fault_is_left_out(group):
    class Hopeless:
        async def assign(self, group, rerun=None):
            raise AllFaulted("no continuation came to an end")

    good = replace(group, id="good")
    found = asyncio.run(crediting._settled(Hopeless(), [group], None))
    assert found[0].values == (None,) * 4 and set(found[0].reasons) == {"rerun_fault"}
    batch = build_batch([group, good], [*found, *credits_of([good])])
    assert batch.dropped["rerun_fault"] == 4 and batch.total_sequences == 4
