"""Batches: every trained token once, on the path the engine consumed; contradictions are refused."""

import asyncio

import msgspec
import pytest
from sampled_groups import VOCABULARY, make_group, trained

from phronesis.credit import GroupStandard, TrajectoryCredit
from phronesis.errors import TrainingError
from phronesis.policy import prompt_crc
from phronesis.records import Component, Credit, EpisodeGroup, Finish, Reward, Stop, Turn
from phronesis.train.batching import BatchConfig, build_batch

replace = msgspec.structs.replace


def credits_of(groups):
    return [asyncio.run(TrajectoryCredit(baseline=GroupStandard()).assign(g)) for g in groups]


@pytest.fixture
def groups(decoder):
    return [make_group(decoder, i) for i in range(3)]


def check_against(batch, groups, credits):
    found = trained(batch)
    for group, credit in zip(groups, credits, strict=True):
        for episode, values in zip(group.episodes, credit.values, strict=True):
            if episode.id not in batch.episodes:
                continue
            for k, turn in enumerate(episode.turns):
                prompt = episode.prompt(k)
                expected = [
                    (prompt + turn.completion[:t], turn.completion[t], turn.logprobs[t], values[k][t])
                    for t in range(len(turn.completion))
                    if turn.sampled[t]
                ]
                assert found.pop((episode.id, k), []) == expected
    assert found == {}


def test_every_sampled_token_is_trained_once_after_what_was_consumed(groups):
    credits = credits_of(groups)
    batch = build_batch(groups, credits)
    check_against(batch, groups, credits)
    assert batch.total_tokens == sum(e.sampled_tokens for g in groups for e in g.episodes) == batch.trained_tokens
    assert batch.sequence_tokens == tuple(e.sampled_tokens for g in groups for e in g.episodes)
    assert batch.total_sequences == 9 and batch.dropped == {}


def test_prompts_are_computed_once(groups):
    batch = build_batch(groups, credits_of(groups))
    roots = [s for s in batch.segments if s.parent is None]
    assert [len(r.ids) for r in roots] == [20]
    prompts = [s for s in batch.segments if s.parent == 0]
    assert [len(s.ids) for s in prompts] == [3, 3, 3] and all(s.episode == -1 for s in prompts)
    separate = sum(len(e.prompt(len(e.turns) - 1)) + len(e.turns[-1].completion) for g in groups for e in g.episodes)
    assert batch.tokens == separate - 8 * 20 - 6 * 3


def test_a_short_common_beginning_is_not_shared(decoder):
    groups = [make_group(decoder, i, shared=5) for i in range(2)]
    batch = build_batch(groups, credits_of(groups))
    assert [len(s.ids) for s in batch.segments if s.parent is None] == [8, 8]


def test_forced_tokens_are_context(decoder):
    groups = [make_group(decoder, i, forced={(0, 0)}) for i in range(2)]
    credits = credits_of(groups)
    batch = build_batch(groups, credits)
    check_against(batch, groups, credits)
    assert batch.trained_tokens == sum(len(t.completion) for g in groups for e in g.episodes for t in e.turns) - 6


def silent_group(group):
    reward = Reward(components=(Component(name="r", score=1.0),))
    return EpisodeGroup(id=group.id, task=group.task, episodes=tuple(replace(e, reward=reward) for e in group.episodes))


def test_silent_episodes_leave_but_count(groups):
    groups = [silent_group(groups[0]), *groups[1:]]
    credits = credits_of(groups)
    everything = build_batch(groups, credits, BatchConfig(drop_silent=False))
    counted, uncounted = build_batch(groups, credits), build_batch(groups, credits, BatchConfig(count_silent=False))
    assert everything.dropped == {} and counted.dropped == uncounted.dropped == {"no_signal": 3}
    assert len(counted.episodes) == 6 and counted.segments == uncounted.segments
    assert (counted.total_tokens, counted.total_sequences) == (everything.total_tokens, 9)
    assert (uncounted.total_tokens, uncounted.total_sequences) == (counted.trained_tokens, 6)
    check_against(counted, groups, credits)


def test_nothing_with_a_signal_gives_an_empty_batch(groups):
    groups = [silent_group(g) for g in groups]
    batch = build_batch(groups, credits_of(groups))
    assert batch.segments == () and batch.dropped == {"no_signal": 9}


def test_left_out_episodes_are_counted_by_reason(groups):
    group = groups[0]
    episodes = (replace(group.episodes[0], stop=Stop.env_fault), replace(group.episodes[1], turns=()), group.episodes[2])
    groups = [EpisodeGroup(id=group.id, task=group.task, episodes=episodes), *groups[1:]]
    batch = build_batch(groups, credits_of(groups))
    assert batch.dropped == {"env_fault": 1, "no_tokens": 1}


def extend(episode, parent, context, completion, **fields):
    """The episode with one more turn under `parent`."""
    before = () if parent is None else episode.prompt(parent) + episode.turns[parent].completion
    turn = Turn(
        parent=parent,
        context=context,
        completion=completion,
        sampled=(True,) * len(completion),
        logprobs=(-2.0,) * len(completion),
        finish=Finish.stop,
        prompt_crc=prompt_crc((*before, *context)),
        **fields,
    )
    return replace(episode, turns=(*episode.turns, turn))


def test_forks_share_their_parents(groups):
    group = groups[0]
    episode = group.episodes[0]
    episode = extend(episode, 0, (1, 2, 3), (10, 11))
    episode = extend(episode, 0, (1, 2, 3), (12,))
    episode = extend(episode, 0, (4,), (13, 14))
    episode = extend(episode, None, episode.turns[0].context, (15,))
    episode = extend(episode, None, (40, 41, 42), (16, 17))
    groups = [EpisodeGroup(id=group.id, task=group.task, episodes=(episode, *group.episodes[1:]))]
    credits = credits_of(groups)
    batch = build_batch(groups, credits)
    check_against(batch, groups, credits)
    shared = [s for s in batch.segments if s.ids == (1, 2, 3)]
    assert len(shared) == 1 and shared[0].episode == 0 and not any(shared[0].mask)


def test_a_change_of_temperature_starts_a_segment(groups):
    group = groups[0]
    episode = extend(group.episodes[0], len(group.episodes[0].turns) - 1, (1,), (10, 11), temperature=0.5)
    episode = extend(episode, len(episode.turns) - 1, (1,), (12,), temperature=0.0)
    groups = [EpisodeGroup(id=group.id, task=group.task, episodes=(episode, *group.episodes[1:]))]
    credits = credits_of(groups)
    batch = build_batch(groups, credits)
    check_against(batch, groups, credits)
    assert [s.temperature for s in batch.segments if s.episode == 0] == [1.0, 0.5, 1.0]


def spoil(groups, turn_index=0, **fields):
    episode = groups[1].episodes[0]
    turns = list(episode.turns)
    turns[turn_index] = replace(turns[turn_index], **fields)
    broken = replace(episode, turns=tuple(turns))
    credits = credits_of(groups)
    return [groups[0], replace(groups[1], episodes=(broken, *groups[1].episodes[1:])), groups[2]], credits


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt_crc": 1}, "other ids than recorded"),
        ({"context": (VOCABULARY,)}, "other ids than recorded"),
        ({"logprobs": (-1.0,) * 99}, "99 logprobs"),
        ({"sampled": ()}, "0 marks"),
        ({"parent": 0}, "does not come before"),
        ({"context": (), "prompt_crc": 0}, "without a prompt"),
    ],
)
def test_contradictions_name_episode_and_turn(groups, fields, message):
    with pytest.raises(TrainingError, match=r"episode 'e-1-0', turn 0: .*" + message):
        build_batch(*spoil(groups, **fields))


def test_numbers_must_be_finite(groups):
    n = len(groups[1].episodes[0].turns[0].completion)
    with pytest.raises(TrainingError, match="logprob that is not finite"):
        build_batch(*spoil(groups, logprobs=(float("-inf"),) * n))
    nan = tuple((float("nan"),) * len(t.completion) for t in groups[0].episodes[0].turns)
    credits = credits_of(groups)
    credits[0] = replace(credits[0], values=(nan, *credits[0].values[1:]))
    with pytest.raises(TrainingError, match="credit is not finite"):
        build_batch(groups, credits)


def test_credit_on_a_forced_token_is_refused(decoder):
    groups = [make_group(decoder, 0, forced={(0, 0)})]
    credits = credits_of(groups)
    rows = tuple(tuple(1.0 for _ in t.completion) for t in groups[0].episodes[0].turns)
    credits[0] = replace(credits[0], values=(rows, *credits[0].values[1:]))
    with pytest.raises(TrainingError, match="forced token has credit"):
        build_batch(groups, credits)


def test_credit_must_belong_to_its_group(groups):
    credits = credits_of(groups)
    with pytest.raises(TrainingError, match="does not belong"):
        build_batch(groups, credits[::-1])
    with pytest.raises(TrainingError, match="3 groups but 2"):
        build_batch(groups, credits[:2])
    with pytest.raises(TrainingError, match="does not belong"):
        build_batch(groups[:1], [Credit(group="g0", values=(), reasons=())])
