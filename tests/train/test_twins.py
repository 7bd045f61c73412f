"""ArCHer's critic: where its values stand, what each head learns towards, what it remembers, and that it teaches a policy."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from statistics import fmean

import pytest
import torch
from msgspec.structs import replace
from sampled_groups import make_group
from test_learning import BANDIT, lesson, rewards
from tiny_jobs import Stopped, config, essence, stop_at

from phronesis.credit import ArCHerCredit, GAECredit, Utterances
from phronesis.credit.critics.archer import transitions
from phronesis.errors import ConfigError
from phronesis.losses import LossConfig, ReinforceLoss
from phronesis.models.layout import plan
from phronesis.records import Component, Reward
from phronesis.store import Run
from phronesis.train import checkpoint, job
from phronesis.train.critic import CriticConfig, TwinConfig
from phronesis.train.metrics import undefined
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.twins import HEADS, TwinCritic

TWINS = CriticConfig(clip=None, twins=TwinConfig(), optimizer=AdamWConfig(lr=3e-3), epochs=3)
RULE = ArCHerCredit()


def twins_of(decoder, awake=True, seed=0, **changes) -> TwinCritic:
    """With heads and targets that say something, unless they are to be new."""
    critic = TwinCritic(decoder, replace(TWINS, **changes), seed)
    if awake:
        with torch.no_grad():
            for k, net in enumerate((critic.net, critic.target)):
                generator = torch.Generator().manual_seed(5 + k)
                for head in net.value_heads:
                    head[2].weight.copy_(torch.randn(head[2].weight.shape, generator=generator))
    return critic


def groups_of(decoder, n=3, **options):
    return [make_group(decoder, i, **options) for i in range(n)]


def plainly(net, episode):
    """Q and V of every turn by one forward pass over the episode, `[turns][4]`."""
    ids, at, found = [i for t in episode.turns for i in (*t.context, *t.completion)], 0, []
    with torch.no_grad():
        hidden = net._trunk[0].hidden(torch.tensor(ids), plan([len(ids)], [None]))
        for turn in episode.turns:
            at += len(turn.context)
            marks = [t for t, s in enumerate(turn.sampled) if s]
            if marks:
                before, after = hidden[at + marks[0] - 1], hidden[at + marks[-1]]
                read = [torch.cat([before, after]), torch.cat([before, after]), before, before]
                found.append([float(head(x)) for head, x in zip(net.value_heads, read, strict=True)])
            else:
                found.append([0.0] * 4)
            at += len(turn.completion)
    return found


@pytest.mark.parametrize("max_tokens", [10_000, 60, 1])
def test_values_stand_where_an_utterance_begins_and_ends(decoder, max_tokens):
    """Against a plain forward pass; also where the first or last token, or the whole turn, was forced."""
    critic = twins_of(decoder, max_tokens=max_tokens)
    groups = groups_of(decoder, forced={(0, 0), *((1, t) for t in range(6)), (2, 1)})
    look = critic.look(groups)
    for episode in (e for g in groups for e in g.episodes):
        wanted = plainly(critic.net, episode)
        assert list(zip(*look(episode), strict=True)) == [pytest.approx(tuple(row), abs=1e-5) for row in wanted]


def test_a_new_critic_expects_nothing_and_its_twins_differ(decoder):
    critic, groups = twins_of(decoder, awake=False), groups_of(decoder)
    assert all(v == 0.0 for four in critic.look(groups).found.values() for row in four for v in row)
    critic.learn(groups, RULE)
    found = list(critic.look(groups).found.values())
    assert any(f.q1 != f.q2 for f in found) and any(f.v1 != f.v2 for f in found)


def test_what_every_head_learns_towards(decoder):
    """Each twin its own target: Q towards r + .9 V_target of the next turn, V towards Q_target of what was said."""
    critic, groups = twins_of(decoder), groups_of(decoder)
    episodes = {e.id: e for g in groups for e in g.episodes}
    layout, parts = critic._lay_out(groups)
    targets, fresh = critic._targets(layout, parts, set(), RULE)
    assert all(bool(f.all()) for f in fresh)
    checked = 0
    for part, target in zip(parts, targets, strict=True):
        for u, (name, turn) in enumerate(part.names):
            said, last = plainly(critic.target, episodes[name]), turn == len(episodes[name].turns) - 1
            reward = episodes[name].reward.value if last else 0.0
            ahead = [0.0, 0.0] if last else said[turn + 1][2:]
            wanted = [reward + 0.9 * ahead[0], reward + 0.9 * ahead[1], *said[turn][:2]]
            assert target[:, u].tolist() == pytest.approx(wanted, abs=1e-5)
            checked += 1
    assert checked == sum(len(e.turns) for e in episodes.values())


def test_targets_follow_at_the_rate_of_polyak(decoder):
    critic, groups = twins_of(decoder, epochs=1), groups_of(decoder)
    before = [p.clone() for p in critic.target.parameters()]
    critic.learn(groups, RULE)
    for was, now, leader in zip(before, critic.target.parameters(), critic.net.parameters(), strict=True):
        torch.testing.assert_close(now, 0.9 * was + 0.1 * leader)


def test_it_finds_the_fixed_point(decoder):
    """No two utterances are alike, so Q of the last one becomes the reward, of the one before it .9 of that. (V cannot:
    attempts at one task begin alike.)"""
    groups = groups_of(decoder, 2)
    critic = twins_of(decoder, awake=False, epochs=20, twins=TwinConfig(polyak=0.5))
    seen = [critic.learn(groups, RULE) for _ in range(12)]
    assert seen[-1].loss < 0.5 * seen[0].loss and seen[-1].explained_variance > 0.9 and seen[0].clip_share == 0.0
    look = critic.look(groups)
    for episode in (e for g in groups for e in g.episodes):
        wanted = [0.9 ** (len(episode.turns) - 1 - k) * episode.reward.value for k in range(len(episode.turns))]
        assert look(episode).q1 == pytest.approx(tuple(wanted), abs=0.2)


def test_earlier_steps_teach_q_and_only_the_present_one_teaches_v(decoder):
    """The policy of earlier steps said other things, which V must not take for this one's."""
    first, second = groups_of(decoder, 1), [make_group(decoder, 5)]
    critic = twins_of(decoder, epochs=1)
    assert critic.learn(first, RULE).tokens == sum(len(e.turns) for e in first[0].episodes)
    assert [e.id for e in critic.buffer] == [e.id for e in first[0].episodes]
    layout, parts = critic._lay_out([*second, *first])
    _, fresh = critic._targets(layout, parts, {e.id for e in first[0].episodes}, RULE)
    marks = {key: bool(f) for part, row in zip(parts, fresh, strict=True) for key, f in zip(part.names, row, strict=True)}
    assert marks == {
        (e.id, k): e in second[0].episodes for g in (*first, *second) for e in g.episodes for k in range(len(e.turns))
    }
    again = critic.learn(second, RULE)
    assert again.tokens == sum(len(e.turns) for g in (*first, *second) for e in g.episodes)


def test_the_oldest_episodes_go_first_and_no_more_are_drawn_than_asked(decoder):
    critic = twins_of(decoder, epochs=1, twins=TwinConfig(capacity=4, replay=2))
    for i in range(3):
        seen = critic.learn([make_group(decoder, i)], RULE)
    assert [e.id for e in critic.buffer] == ["e-1-2", "e-2-0", "e-2-1", "e-2-2"]
    assert seen.tokens <= sum(1 + i for i in range(3)) + 2 * 3
    forgetful = twins_of(decoder, twins=TwinConfig(capacity=0))
    forgetful.learn(groups_of(decoder), RULE)
    assert forgetful.buffer == []


@pytest.mark.parametrize("trunk", ["copy", "policy"])
def test_the_policy_is_left_alone_and_micro_batches_add_up(decoder, trunk):
    before = [p.detach().clone() for p in decoder.parameters()]
    groups = groups_of(decoder)
    whole, cut = (twins_of(decoder, trunk=trunk, max_tokens=n, epochs=1) for n in (10_000, 40))
    for critic in (whole, cut):
        critic.learn(groups, RULE)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(before, decoder.parameters(), strict=True))


def test_a_critic_goes_on_from_its_state(decoder):
    whole, other = twins_of(decoder), twins_of(decoder, awake=False, seed=0)
    whole.learn([make_group(decoder, 0)], RULE)
    other.restore(deepcopy(whole.state()))
    assert other.buffer == whole.buffer and other.steps == 1
    for critic in (whole, other):
        critic.learn([make_group(decoder, 1)], RULE)
    for a, b in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_transitions_pass_over_forced_turns(decoder):
    """The middle turn was forced: what it earned belongs to the first, which the last follows."""
    episode = make_group(decoder, 0, size=3, forced={(1, t) for t in range(6)}).episodes[2]
    assert [any(t.sampled) for t in episode.turns] == [True, False, True]
    paid = [Component(name="r", score=float(10**k), turn=k) for k in range(3)]
    episode = replace(episode, reward=Reward(components=tuple(paid)))
    assert transitions(episode) == [(0, 11.0, {2: 1.0}), (2, 100.0, {})]
    assert RULE.utterance_targets(episode, [9.0, 9.0, 2.0]) == pytest.approx([11 + 0.9 * 2, 0.0, 100.0])


def test_every_token_of_an_utterance_gets_its_advantage(decoder):
    group = make_group(decoder, 0, size=2, forced={(0, 0)})
    found = {e.id: Utterances(*((x,) * len(e.turns) for x in (0.5, 0.7, 0.4, 0.3))) for e in group.episodes}
    credit = asyncio.run(RULE.with_utterances(lambda e: found[e.id]).assign(group))
    for episode, rows in zip(group.episodes, credit.values, strict=True):
        assert rows == tuple(tuple(pytest.approx(0.2) if s else 0.0 for s in t.sampled) for t in episode.turns)
    assert credit.reasons == (None, None) and not credit.zero_variance


WITH = {
    "credit": ArCHerCredit(), "critic": replace(TWINS, warmup=1, twins=TwinConfig(replay=5)), "evaluation": config().evaluation
}  # fmt: skip


def test_a_run_resumes_bit_for_bit(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    chosen = config(checkpoint_every=1, keep_checkpoints=9, **WITH)
    job.run(chosen, whole)
    with pytest.raises(Stopped):
        job.run(chosen, stopped, listener=stop_at("train", 3))
    job.run(chosen, stopped, resume=True)
    assert essence(stopped, 4) == essence(whole, 4)
    states = [checkpoint.load(f / "checkpoints" / "step-00000004").critic for f in (whole, stopped)]
    for a, b in zip(states[0]["weights"].values(), states[1]["weights"].values(), strict=True):
        assert torch.equal(a, b)
    with Run.open(whole) as run:
        assert undefined(k for s in run.steps() for k in s.values) == ()
        assert [v for _, v in run.curve("critic/warmup")] == [1.0, 0.0, 0.0, 0.0]


def test_a_rule_and_a_critic_of_different_kinds_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="credit 'archer' asks a critic for values"):
        job.run(config(credit=ArCHerCredit()), tmp_path / "a")
    with pytest.raises(ConfigError, match="asks a critic of whole utterances"):
        job.run(config(credit=ArCHerCredit(), critic=CriticConfig()), tmp_path / "b")
    with pytest.raises(ConfigError, match="judge whole utterances, and credit 'GAECredit' does not"):
        job.run(config(credit=GAECredit(), critic=TWINS), tmp_path / "c")
    with pytest.raises(ConfigError, match="no meaning for"):
        CriticConfig(twins=TwinConfig())
    assert HEADS == ("q1", "q2", "v1", "v2")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_what_pays(tmp_path, seed):
    """A probe with optimum 1; random answers earn 0.4. Nothing but the critic tells answers apart."""
    critic = replace(TWINS, warmup=8, epochs=6)
    chosen = lesson("bandit", seed, steps=38, lr=2e-3, shown=BANDIT, credit=ArCHerCredit(), critic=critic)
    plain = LossConfig(objective=ReinforceLoss())
    curve = rewards(replace(chosen, learner=replace(chosen.learner, loss=plain, epochs=1)), tmp_path / "run")
    assert curve[0] < 0.7 and fmean(curve[-4:]) > 0.9
