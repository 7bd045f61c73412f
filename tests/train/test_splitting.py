"""Parts of a batch: nothing lost, nothing trained twice, groups together."""

import asyncio
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampled_groups import make_decoder, make_group, trained

from phronesis.credit import GroupStandard, TrajectoryCredit
from phronesis.errors import ConfigError
from phronesis.policy import prompt_crc
from phronesis.records import Batch, Component, Episode, EpisodeGroup, Finish, Reply, Reward, Segment, Stop, Task, Turn
from phronesis.train.batching import build_batch
from phronesis.train.splitting import minibatches, shares, split


@pytest.fixture(scope="module")
def batch():
    decoder = make_decoder()
    groups = [make_group(decoder, i) for i in range(5)]
    return build_batch(groups, [asyncio.run(TrajectoryCredit(baseline=GroupStandard()).assign(g)) for g in groups])


def merged(parts):
    found = {}
    for part in parts:
        for key, tokens in trained(part).items():
            assert key not in found or not set(found[key]) & set(tokens)
            found.setdefault(key, []).extend(tokens)
    return in_order(found)


def in_order(found):
    return {k: sorted(v) for k, v in found.items()}


def test_micro_batches_hold_every_trained_token_once(batch):
    for limit in (1, 30, 45, 60, 100, 10_000):
        parts = split(batch, limit)
        assert merged(parts) == in_order(trained(batch))
        assert all(p.total_tokens == batch.total_tokens and p.sequence_tokens == batch.sequence_tokens for p in parts)
        assert all(p.tokens <= limit for p in parts) or limit < 60
    assert split(batch, batch.tokens) == [batch]


def test_groups_stay_together_where_they_fit(batch):
    parts = split(batch, 100)
    assert all(len(p.segments[0].ids) == 20 for p in parts) and len(parts) > 1
    groups = [{batch.episodes[s.episode].split("-")[1] for s in p.segments if s.episode >= 0} for p in parts]
    assert sum(map(len, groups)) == 5


def test_a_trained_ancestor_is_trained_in_one_part_only():
    def segment(parent, n, first):
        return Segment(
            parent=parent,
            ids=tuple(range(first, first + n)),
            mask=(parent is not None,) * n,
            logprobs=(0.0,) * n,
            advantages=(1.0,) * n,
            turns=(0 if parent is not None else -1,) * n,
            episode=-1 if parent is None else 0,
        )

    segments = (segment(None, 4, 0), segment(0, 3, 10), segment(1, 5, 20), segment(1, 5, 30))
    batch = Batch(segments=segments, episodes=("e",), sequence_tokens=(13,), total_tokens=13, total_sequences=1)
    parts = split(batch, 12)
    assert [p.tokens for p in parts] == [12, 12] and [p.trained_tokens for p in parts] == [8, 5]
    assert merged(parts) == in_order(trained(batch))


@given(st.integers(1, 7), st.integers(0, 3))
def test_minibatches_hold_every_trained_token_once(count, seed):
    parts = minibatches(_batch(), count, seed)
    assert len(parts) == min(count, 15)
    assert merged(parts) == in_order(trained(_batch()))
    for part in parts:
        assert part.total_tokens == part.trained_tokens == sum(part.sequence_tokens)
        assert part.total_sequences == len({s.episode for s in part.segments if any(s.mask)})
    assert minibatches(_batch(), count, seed) == parts


_cache = []


def _batch():
    if not _cache:
        decoder = make_decoder()
        groups = [make_group(decoder, i) for i in range(5)]
        rule = TrajectoryCredit(baseline=GroupStandard())
        _cache.append(build_batch(groups, [asyncio.run(rule.assign(g)) for g in groups]))
    return _cache[0]


def test_minibatches_keep_groups_and_differ_by_seed():
    parts = minibatches(_batch(), 3, seed=1)
    owners = [{_batch().episodes[s.episode].split("-")[1] for s in p.segments if s.episode >= 0} for p in parts]
    assert sum(map(len, owners)) == 5
    assert any(minibatches(_batch(), 3, seed=s) != parts for s in range(2, 6))


def test_left_out_episodes_count_in_proportion():
    batch = msgspec.structs.replace(_batch(), total_tokens=2 * _batch().trained_tokens, total_sequences=30)
    parts = minibatches(batch, 3, seed=0)
    assert [p.total_tokens for p in parts] == [2 * p.trained_tokens for p in parts]
    assert sum(p.total_sequences for p in parts) == 30


def test_impossible_limit(batch):
    with pytest.raises(ConfigError, match="max_tokens"):
        split(batch, 0)


def test_no_episode_is_cut_where_prompts_are_rewritten():
    """Eight groups of four whose every turn answers a new prompt (a thought was stripped) under one system prompt."""
    source = random.Random(0)

    def ids(n):
        return tuple(source.randrange(60) for _ in range(n))

    system = ids(30)

    def episode(name, asked, reward):
        turns, seen = [], system + asked
        for _ in range(3):
            said = ids(8)
            turns.append(
                Turn(
                    parent=None,
                    context=seen,
                    completion=said,
                    sampled=(True,) * 8,
                    logprobs=(-1.0,) * 8,
                    finish=Finish.stop,
                    prompt_crc=prompt_crc(seen),
                    reply=Reply(),
                )
            )
            seen = seen + said[4:] + ids(16)
        task, reward = Task(id="t", env="toy"), Reward(components=(Component(name="r", score=reward),))
        return Episode(id=name, task=task, seed=0, turns=tuple(turns), stop=Stop.completed, reward=reward)

    groups = []
    for g in range(8):
        asked = ids(24)
        members = tuple(episode(f"e{g}{m}", asked, float(m % 2)) for m in range(4))
        groups.append(EpisodeGroup(id=f"g{g}", task=Task(id="t", env="toy"), episodes=members))
    whole = build_batch(groups, [asyncio.run(TrajectoryCredit().assign(g)) for g in groups])
    for count in (2, 4):
        parts = minibatches(whole, count, 0)
        assert len(parts) == count and sum(p.total_sequences for p in parts) == 32
        for e in range(32):
            assert sorted(p.sequence_tokens[e] for p in parts) == [0] * (count - 1) + [24]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_shares_hold_every_trained_token_once(batch, count):
    """With denominators of the whole step; more shares than trajectories leave some without anything."""
    found = shares(batch, count)
    kept = [s for s in found if s is not None]
    assert len(found) == count and len(kept) >= min(count, 9)
    assert merged(kept) == in_order(trained(batch))
    assert {(s.total_tokens, s.total_sequences, s.sequence_tokens) for s in kept} == {
        (batch.total_tokens, batch.total_sequences, batch.sequence_tokens)
    }
    assert shares(batch, count) == found


def lone(*lengths, parent=None, first=0):
    """Segments of trained tokens, each an episode of its own."""
    return [
        Segment(
            parent=parent, ids=(7,) * n, mask=(parent is not None,) * n, logprobs=(0.0,) * n, advantages=(0.0,) * n,
            turns=(0 if parent is not None else -1,) * n, episode=first + i,
        )
        for i, n in enumerate(lengths)
    ]  # fmt: skip


def batch_of(segments):
    n = 1 + max(s.episode for s in segments)
    tokens = tuple(sum(sum(s.mask) for s in segments if s.episode == e) for e in range(n))
    return Batch(
        segments=tuple(segments), episodes=tuple(map(str, range(n))), sequence_tokens=tokens, total_tokens=sum(tokens),
        total_sequences=n,
    )  # fmt: skip


def test_shares_are_neighbours_of_about_equal_tokens():
    prompt = Segment(parent=None, ids=(7,) * 10, mask=(False,) * 10, logprobs=(0.0,) * 10, advantages=(0.0,) * 10,
                     turns=(-1,) * 10, episode=-1)  # fmt: skip
    found = shares(batch_of([prompt, *lone(30, 30, 30, 30, parent=0)]), 2)
    assert [[len(s.ids) for s in part.segments] for part in found] == [[10, 30, 30], [10, 30, 30]]
    assert [[s.episode for s in part.segments] for part in found] == [[-1, 0, 1], [-1, 2, 3]]
    alone = shares(batch_of([prompt, *lone(30, parent=0)]), 2)
    assert sum(part is not None for part in alone) == 1
    uneven = shares(batch_of([prompt, *lone(5, 5, 200, 5, 5, parent=0)]), 2)
    assert sorted(part.tokens for part in uneven) == [20, 220]


@given(st.lists(st.integers(1, 40), min_size=8, max_size=60), st.integers(2, 6))
def test_no_share_is_far_from_equal(lengths, count):
    """Without prompts, no share is further from its part than one trajectory."""
    roots = [
        msgspec.structs.replace(s, mask=(False, *(True,) * (n - 1)), turns=(-1, *(0,) * (n - 1)))
        for s, n in zip(lone(*lengths), lengths, strict=True)
    ]
    sizes = [0 if part is None else part.tokens for part in shares(batch_of(roots), count)]
    assert sum(sizes) == sum(lengths)
    assert max(abs(size - sum(lengths) / count) for size in sizes) <= max(lengths)
