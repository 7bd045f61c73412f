"""The critic: where its values stand, what it learns and what it leaves alone, and that a run with one resumes bit for bit."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace as replace_data

import msgspec
import pytest
import torch
from msgspec.structs import replace
from sampled_groups import make_group
from tiny_jobs import Stopped, config, essence, stop_at, weights

from phronesis.credit import GAECredit, POADCredit, SAOCredit, TrajectoryCredit, TurnGAECredit
from phronesis.credit.rule import members
from phronesis.errors import ConfigError, TrainingError
from phronesis.models.layout import plan
from phronesis.records import Stop
from phronesis.store import Run
from phronesis.train import checkpoint, job
from phronesis.train.critic import Critic, CriticConfig, sao_critic, withheld
from phronesis.train.optimizer import AdamWConfig

QUICK = CriticConfig(optimizer=AdamWConfig(lr=3e-3), clip=None)


def awake(critic: Critic) -> Critic:
    """With a head that says something."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        critic.value_head.copy_(torch.randn(critic.value_head.shape, generator=generator))
        critic.value_bias.fill_(0.25)
    return critic


def groups_of(decoder, n=3, **options):
    return [make_group(decoder, i, **options) for i in range(n)]


def bits(module) -> list[bytes]:
    return [p.detach().numpy().tobytes() for p in module.parameters()]


@pytest.mark.parametrize("max_tokens", [10_000, 60, 1])
def test_values_stand_before_the_tokens_they_judge(decoder, max_tokens):
    """Against a plain forward pass over each episode: the value of token t is read after the tokens before t."""
    critic = awake(Critic(decoder, CriticConfig(max_tokens=max_tokens)))
    groups = groups_of(decoder, forced={(0, 0), (1, 1)})
    look = critic.look(groups)
    for episode in (e for g in groups for e in g.episodes):
        found, at, ids = look(episode), 0, [i for t in episode.turns for i in (*t.context, *t.completion)]
        with torch.no_grad():
            hidden = decoder.hidden(torch.tensor(ids), plan([len(ids)], [None]))
            plain = (hidden @ critic.value_head[0] + critic.value_bias).tolist()
        for turn, row in zip(episode.turns, found, strict=True):
            at += len(turn.context)
            wanted = [plain[at + t - 1] if s else 0.0 for t, s in enumerate(turn.sampled)]
            assert row == pytest.approx(wanted, abs=1e-5)
            at += len(turn.completion)


def test_faulted_and_unscored_episodes_are_not_looked_at_and_lone_ones_are(decoder):
    group = make_group(decoder, 0)
    good, *rest = group.episodes
    faulted = [replace(rest[0], stop=Stop.env_fault), replace(rest[1], reward=None)]
    mixed = replace(group, episodes=(good, *faulted))
    look = Critic(decoder, QUICK).look([mixed])
    assert set(look.found) == {good.id}
    assert withheld(mixed).reasons == ("critic_warmup", "env_fault", "unscored") and withheld(mixed).values == (None,) * 3
    empty = Critic(decoder, QUICK)
    nothing = empty.look([replace(group, episodes=tuple(faulted))])
    assert nothing.parts == [] and empty.learn(nothing, SAOCredit().targets) is None and empty.steps == 1


def test_a_new_critic_expects_nothing(decoder):
    look = Critic(decoder, QUICK).look(groups_of(decoder))
    assert all(v == 0.0 for turns in look.found.values() for row in turns for v in row)


@pytest.mark.parametrize("max_tokens", [10_000, 60])
def test_it_learns_returns_and_leaves_the_policy_alone(decoder, max_tokens):
    groups, before = groups_of(decoder, 4), bits(decoder)
    critic = Critic(decoder, replace(QUICK, epochs=2, max_tokens=max_tokens))
    rule = GAECredit(gamma=1.0)
    seen = [critic.learn(critic.look(groups), rule.targets) for _ in range(40)]
    assert seen[0].explained_variance == pytest.approx(0.0, abs=1e-6) and seen[0].value_mean == 0.0
    assert seen[-1].explained_variance > 0.9 and seen[-1].loss < 0.1 * seen[0].loss
    kept = [g.episodes[i] for g in groups for i in members(g).kept]
    rewards = [e.reward.value for e in kept for t in e.turns for _ in t.sampled]
    assert seen[0].tokens == len(rewards) and seen[0].target_mean == pytest.approx(sum(rewards) / len(rewards))
    assert seen[0].loss == pytest.approx(0.5 * sum(r * r for r in rewards) / len(rewards))
    assert bits(decoder) == before


def test_micro_batches_add_up(decoder):
    groups, rule = groups_of(decoder), POADCredit()
    whole, parts = (awake(Critic(decoder, replace(QUICK, max_tokens=n))) for n in (10_000, 40))
    for critic in (whole, parts):
        critic.learn(critic.look(groups), rule.targets)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_a_head_on_the_policy_trains_the_head_only(decoder):
    groups, before = groups_of(decoder), bits(decoder)
    critic = Critic(decoder, replace(QUICK, trunk="policy", optimizer=AdamWConfig(lr=0.05)))
    assert sum(p.numel() for p in critic.parameters()) == decoder.config.width + 1
    seen = [critic.learn(critic.look(groups), SAOCredit().targets) for _ in range(60)]
    assert seen[-1].loss < 0.5 * seen[0].loss and bits(decoder) == before
    other = critic.look(groups)
    with torch.no_grad():
        decoder.final_norm.mul_(2)
    moved = critic.look(groups)
    assert moved.found != other.found, "it reads the policy as it is now"


def test_attention_can_be_frozen(decoder):
    groups = groups_of(decoder)
    critic = Critic(decoder, replace(QUICK, frozen="attention"))
    before = {n: p.detach().clone() for n, p in critic.named_parameters()}
    for _ in range(3):
        critic.learn(critic.look(groups), SAOCredit().targets)
    same = {n.rpartition(".")[2] for n, p in critic.named_parameters() if torch.equal(p, before[n])}
    assert same == {"attn_norm", "qkv", "q_norm", "k_norm", "o"}


def test_clipped_values_move_no_further(decoder):
    """Targets are far away; after the first pass each value is beyond its clip, so the second changes nothing but momentum."""
    groups = groups_of(decoder)
    critic = Critic(decoder, replace(QUICK, clip=1e-6, epochs=2))
    seen = critic.learn(critic.look(groups), lambda e, v: tuple((5.0,) * len(t.sampled) for t in e.turns))
    assert seen.clip_share == 1.0
    assert critic.learn(critic.look(groups), SAOCredit().targets).clip_share < 1.0


def test_restored_it_learns_on_bit_for_bit(decoder):
    groups, rule = groups_of(decoder), TurnGAECredit()
    one = Critic(decoder, replace(QUICK, epochs=2))
    one.learn(one.look(groups), rule.targets)
    two = Critic(decoder, replace(QUICK, epochs=2))
    two.restore(deepcopy(one.state()))
    for critic in (one, two):
        critic.learn(critic.look(groups), rule.targets)
    assert bits(one) == bits(two) and one.steps == two.steps == 2


def test_numbers_that_cannot_be_right_stop_training(decoder):
    groups, critic = groups_of(decoder), Critic(decoder, QUICK)
    before = bits(critic)
    with pytest.raises(TrainingError, match="targets are not finite"):
        critic.learn(critic.look(groups), lambda e, v: tuple((float("nan"),) * len(t.sampled) for t in e.turns))
    look = critic.look(groups)
    broken = replace_data(look, values=[v * float("inf") for v in look.values])
    with pytest.raises(TrainingError, match="loss is"):
        Critic(decoder, replace(QUICK, clip=0.1)).learn(broken, lambda e, v: tuple((1.0,) * len(t.sampled) for t in e.turns))
    assert bits(critic) == before


@pytest.mark.parametrize("changes", [{"warmup": -1}, {"epochs": 0}, {"clip": 0.0}, {"trunk": "policy", "frozen": "attention"}])
def test_settings_that_make_no_sense(changes):
    with pytest.raises(ConfigError):
        CriticConfig(**changes)


WITH = {
    "credit": GAECredit(lam=0.9),
    "critic": CriticConfig(optimizer=AdamWConfig(lr=1e-2), warmup=1, epochs=2),
    "evaluation": replace(config().evaluation, tasks=0),
}


def curves(folder) -> dict[str, list[float]]:
    with Run.open(folder) as run:
        steps = [s.values for s in run.steps() if "time/step" in s.values]
    return {key: [s[key] for s in steps if key in s] for key in {k for s in steps for k in s}}


def test_a_run_warms_its_critic_up_and_resumes_bit_for_bit(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    chosen = config(checkpoint_every=1, keep_checkpoints=9, **WITH)
    job.run(chosen, whole)
    assert weights(whole, 0) == weights(whole, 1) != weights(whole, 2), "the policy waits for the critic"
    seen = curves(whole)
    assert seen["critic/warmup"] == [1.0, 0.0, 0.0, 0.0]
    assert seen["update/tokens"][0] == 0.0 and min(seen["update/tokens"][1:]) > 0
    assert seen["critic/value_mean"][0] == 0.0 and all(seen["critic/value_mean"][1:])
    with pytest.raises(Stopped):
        job.run(chosen, stopped, listener=stop_at("train", 3))
    job.run(chosen, stopped, resume=True)
    assert essence(stopped, 4) == essence(whole, 4)
    states = [checkpoint.load(f / "checkpoints" / "step-00000004").critic for f in (whole, stopped)]
    assert states[0]["steps"] == 4
    for a, b in zip(states[0]["weights"].values(), states[1]["weights"].values(), strict=True):
        assert torch.equal(a, b)


def test_a_run_without_a_critic_has_none(tmp_path):
    job.run(config(steps=1, evaluation=WITH["evaluation"]), tmp_path / "run")
    assert not [k for k in curves(tmp_path / "run") if k.startswith(("critic/", "rerun/"))]
    newest = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert checkpoint.load(newest).critic is None and not (newest / checkpoint.CRITIC).exists()


def test_a_critic_nobody_asks_and_a_rule_without_its_critic_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="'trajectory' never asks for values"):
        job.run(config(critic=CriticConfig(), credit=TrajectoryCredit()), tmp_path / "a")
    with pytest.raises(ConfigError, match="credit 'gae' asks a critic for values, and the run has none"):
        job.run(config(credit=GAECredit()), tmp_path / "b")
    with pytest.raises(ConfigError, match="leaves none of the 4 steps to the policy"):
        job.run(config(credit=GAECredit(), critic=CriticConfig(warmup=4)), tmp_path / "c")
    assert not (tmp_path / "a").exists()


def test_one_rollout_a_prompt_is_enough():
    alone = config(group_size=1, groups=8, credit=SAOCredit(), critic=CriticConfig())
    alone.validate()
    assert alone.updates == 4 * 2 * 2
    assert config(**WITH).updates == 3 * 2 * 2, "a schedule spans the steps the policy learns in"
    assert msgspec.to_builtins(alone.credit)["type"] == "sao"


def test_the_critic_of_sao_as_published():
    found = sao_critic()
    assert (found.warmup, found.epochs, found.frozen, found.optimizer.lr) == (10, 2, "attention", 5e-6)
