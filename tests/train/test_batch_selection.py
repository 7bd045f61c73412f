"""What a batch leaves out or fills up: truncated episodes, faulty members of a group."""

import asyncio

import msgspec
import pytest
from sampled_groups import make_group

from phronesis.credit import GroupMean, TrajectoryCredit, VerifiedCredit
from phronesis.errors import AllFaulted
from phronesis.records import Component, Reward, Stop
from phronesis.train import crediting
from phronesis.train.batching import BatchConfig, build_batch

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
