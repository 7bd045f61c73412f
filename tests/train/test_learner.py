"""The learner: the gradient it follows, its accounting, and what stops it."""

import asyncio
import logging

import msgspec
import pytest
import torch
from sampled_groups import full_logp, make_decoder, make_group, trained

from phronesis.credit import GroupStandard, TrajectoryCredit
from phronesis.errors import ConfigError, MismatchError, TrainingError
from phronesis.losses import ConstantNorm, LossConfig, PPOClipLoss, ReinforceLoss, SequenceMeanTokenMean
from phronesis.models.layout import plan
from phronesis.records import Batch
from phronesis.train import scoring
from phronesis.train.batching import BatchConfig, build_batch
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig
from phronesis.train.packed import pack
from phronesis.train.scoring import score

replace = msgspec.structs.replace


def make_batch(decoder, n=3, config=None, **options):
    groups = [make_group(decoder, i, **options) for i in range(n)]
    rule = TrajectoryCredit(baseline=GroupStandard())
    return build_batch(groups, [asyncio.run(rule.assign(g)) for g in groups], config)


@pytest.fixture
def batch(decoder):
    return make_batch(decoder)


def gradients(decoder, batch, **settings):
    """Gradients an update would follow, by parameter name (an update with learning rate almost 0 leaves the weights)."""
    learner = Learner(decoder, LearnerConfig(optimizer=AdamWConfig(lr=1e-30), max_grad_norm=None, **settings))
    caught = {}

    def catch():
        caught.update({n: p.grad.clone() for n, p in decoder.named_parameters()})

    learner.stepper.step = catch
    learner.update(batch)
    return caught


def close(a, b, tolerance=1e-5):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=tolerance, msg=name)


def test_scores_equal_a_plain_forward_pass(decoder, batch):
    packed = pack(batch)
    logp = score(decoder, packed).logp_K.tolist()
    expected = [
        full_logp(decoder, [*before, token])[-1].item()
        for _, tokens in trained(batch).items()
        for before, token, _, _ in tokens
    ]
    assert sorted(logp) == pytest.approx(sorted(expected), abs=1e-5)
    assert logp == pytest.approx(packed.logp_infer_K.tolist(), abs=1e-5)


def test_scores_at_the_temperature_of_the_sample(decoder):
    batch = make_batch(decoder, temperature=0.5)
    packed = pack(batch)
    assert set(packed.temperatures_K.tolist()) == {0.5}
    assert score(decoder, packed).logp_K.tolist() == pytest.approx(packed.logp_infer_K.tolist(), abs=1e-5)


@pytest.mark.parametrize("entropy", ["no", "value", "gradient"])
def test_sliced_read_out_equals_whole(decoder, batch, monkeypatch, entropy):
    packed = pack(batch)

    def run():
        scores = score(decoder, packed, entropy=entropy, hits=True)
        total = (scores.logp_K * packed.advantages_K).sum()
        if entropy == "gradient":
            total = total + scores.entropy_K.sum()
        grads = torch.autograd.grad(total, list(decoder.parameters()))
        return scores, grads

    whole, whole_grads = run()
    monkeypatch.setattr(scoring, "MAX_LOGITS", 7 * decoder.config.vocab_size)
    sliced, sliced_grads = run()
    torch.testing.assert_close(sliced.logp_K, whole.logp_K)
    assert sliced.hits_K.tolist() == whole.hits_K.tolist()
    for a, b in zip(sliced_grads, whole_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    if entropy != "no":
        logits = decoder.logits(decoder.hidden(packed.ids_N, packed.plan)[packed.predictors_K])
        expected = torch.distributions.Categorical(logits=logits).entropy()
        torch.testing.assert_close(sliced.entropy_K, expected)
        assert sliced.entropy_K.requires_grad == (entropy == "gradient")


@pytest.mark.parametrize(
    "loss", [LossConfig(), LossConfig(aggregation=SequenceMeanTokenMean()), LossConfig(aggregation=ConstantNorm(horizon=9))]
)
def test_gradient_is_that_of_separate_sequences(decoder, loss):
    """The packed gradient equals a sum over episodes, each computed alone from its plain token sequence."""
    groups = [make_group(decoder, i) for i in range(3)]
    credits = [asyncio.run(TrajectoryCredit(baseline=GroupStandard()).assign(g)) for g in groups]
    found = gradients(decoder, build_batch(groups, credits), loss=loss)
    episodes = [(e, v) for g, c in zip(groups, credits, strict=True) for e, v in zip(g.episodes, c.values, strict=True)]
    tokens = sum(e.sampled_tokens for e, _ in episodes)
    decoder.zero_grad()
    for e, values in episodes:
        for k, turn in enumerate(e.turns):
            n, prompt = len(turn.completion), e.prompt(k)
            ids = torch.tensor(prompt + turn.completion)
            logits = decoder.logits(decoder.hidden(ids, pack_plan(len(ids))))
            logp = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, ids[len(prompt) :, None])[:, 0]
            weight = {
                "token_mean": 1 / tokens,
                "sequence_mean_token_mean": 1 / (e.sampled_tokens * len(episodes)),
                "constant_norm": 1 / (9 * len(episodes)),
            }[type(loss.aggregation).__struct_config__.tag]
            (-(logp * torch.tensor(values[k])).sum() * weight).backward()
            assert n == logp.numel()
    close(found, {n: p.grad for n, p in decoder.named_parameters()})


def pack_plan(n):
    return plan([n], [None])


@pytest.mark.parametrize("settings", [{"max_tokens": 40}, {"max_tokens": 1}, {"checkpointing": True}])
def test_accumulation_and_checkpointing_change_no_gradient(decoder, batch, settings):
    close(gradients(decoder, batch, **settings), gradients(decoder, batch))


def test_first_ppo_step_follows_reinforce(decoder, batch):
    ppo = gradients(decoder, batch, loss=LossConfig(objective=PPOClipLoss()))
    close(ppo, gradients(decoder, batch, loss=LossConfig(objective=ReinforceLoss())))


def test_dropping_silent_episodes_changes_no_gradient(decoder):
    groups = [make_group(decoder, i) for i in range(3)]
    rule = TrajectoryCredit(baseline=GroupStandard())
    credits = [asyncio.run(rule.assign(g)) for g in groups]
    zeros = tuple(tuple(tuple(0.0 for _ in row) for row in rows) for rows in credits[1].values)
    credits[1] = replace(credits[1], values=zeros)
    for loss in (LossConfig(), LossConfig(aggregation=SequenceMeanTokenMean())):
        all_in = gradients(decoder, build_batch(groups, credits, BatchConfig(drop_silent=False)), loss=loss)
        close(gradients(decoder, build_batch(groups, credits), loss=loss), all_in)


def test_one_step_runs_the_forward_pass_once(decoder, batch, monkeypatch):
    calls = []
    plain = decoder.hidden
    monkeypatch.setattr(decoder, "hidden", lambda *a, **k: calls.append(1) or plain(*a, **k))
    Learner(decoder, LearnerConfig()).update(batch)
    assert len(calls) == 1
    Learner(decoder, LearnerConfig(epochs=2, minibatches=2, mismatch_error=9)).update(batch)
    assert len(calls) == 1 + 2 + 4
    Learner(decoder, LearnerConfig(epochs=3, mismatch_error=9)).update(batch)
    assert len(calls) == 1 + 2 + 4 + 3  # the first pass says where the ratios start


def test_metrics_of_a_step(decoder, batch):
    before = {n: p.clone() for n, p in decoder.named_parameters()}
    m = Learner(decoder, LearnerConfig(optimizer=AdamWConfig(lr=1e-3), entropy=True)).update(batch)
    assert any(not torch.equal(p, before[n]) for n, p in decoder.named_parameters())
    assert (m.steps, m.tokens, m.computed_tokens, m.lr) == (1, batch.trained_tokens, batch.tokens, 1e-3)
    assert m.kl_k1 == m.kl_k2 == m.kl_k3 == m.clip_share == 0 and m.ratio_max == 1
    assert 0 < m.mismatch_max < 1e-4 and m.mismatch_ess == pytest.approx(1) and m.mismatch_above == 0
    advantages = [a for tokens in trained(batch).values() for *_, a in tokens]
    assert m.advantage_mean == pytest.approx(sum(advantages) / len(advantages))
    assert m.loss == pytest.approx(
        -sum(p * a for tokens in trained(batch).values() for *_, p, a in tokens) / len(advantages), abs=1e-4
    )
    assert 0 < m.entropy < torch.tensor(61.0).log().item() and m.grad_norm > 0


def test_several_steps_measure_movement_from_the_start(decoder, batch):
    config = LearnerConfig(epochs=4, optimizer=AdamWConfig(lr=1e-2), loss=LossConfig(objective=PPOClipLoss()))
    m = Learner(decoder, config).update(batch)
    assert m.steps == 4 and m.kl_k3 > 1e-4 and m.kl_k2 > 1e-4 and m.ratio_max > 1.28 and 0 < m.clip_share < 1
    assert m.clip_share == pytest.approx(m.shares["clip_high"] + m.shares["clip_low"])
    assert m.mismatch_max < 1e-4


def test_sampler_ratios_skip_the_recomputation(decoder, batch, monkeypatch):
    calls = []
    plain = decoder.hidden
    monkeypatch.setattr(decoder, "hidden", lambda *a, **k: calls.append(1) or plain(*a, **k))
    m = Learner(decoder, LearnerConfig(epochs=3, old="sampler", loss=LossConfig(objective=PPOClipLoss()))).update(batch)
    assert len(calls) == 3 and m.mismatch_max < 1e-4 and m.kl_k3 > 0


def test_updates_raise_the_probability_of_what_was_good(decoder, batch):
    learner = Learner(decoder, LearnerConfig(optimizer=AdamWConfig(lr=2e-3), mismatch_error=50, mismatch_warn=40))
    packed = pack(batch)

    def objective():
        with torch.no_grad():
            return (score(decoder, packed).logp_K * packed.advantages_K).mean().item()

    start = objective()
    for _ in range(5):
        learner.update(batch)
    assert objective() > start + 0.05


def test_wrong_behaviour_logprobs_stop_training(decoder, batch, caplog):
    before = {n: p.clone() for n, p in decoder.named_parameters()}

    def shifted(by):
        segments = [
            replace(s, logprobs=tuple(p + by * m for p, m in zip(s.logprobs, s.mask, strict=True))) for s in batch.segments
        ]
        return replace(batch, segments=tuple(segments))

    learner = Learner(decoder, LearnerConfig())
    with pytest.raises(MismatchError, match=r"differ by up to 0\.6"):
        learner.update(shifted(0.6))
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in decoder.named_parameters())
    with caplog.at_level(logging.WARNING):
        m = learner.update(shifted(0.1))
    assert "differ by up to 0.1" in caplog.text
    assert m.mismatch_max == pytest.approx(0.1, abs=1e-4) and m.mismatch_above == 1
    assert m.mismatch_k1 == pytest.approx(0.1, abs=1e-4)


def test_another_temperature_is_a_mismatch(decoder):
    batch = make_batch(decoder, temperature=0.3)
    cold = replace(batch, segments=tuple(replace(s, temperature=1.0) for s in batch.segments))
    with pytest.raises(MismatchError, match="temperature"):
        Learner(decoder, LearnerConfig()).update(cold)


def test_an_empty_batch_changes_nothing(decoder):
    before = {n: p.clone() for n, p in decoder.named_parameters()}
    learner = Learner(decoder, LearnerConfig())
    m = learner.update(Batch(segments=(), episodes=(), sequence_tokens=(), total_tokens=0, total_sequences=0))
    assert m.steps == 0 and m.tokens == 0 and learner.stepper.steps == 0 and learner.updates == 1
    assert all(torch.equal(p, before[n]) for n, p in decoder.named_parameters())


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_not_finite_changes_no_weight(decoder, batch, where):
    before = {n: p.clone() for n, p in decoder.named_parameters()}
    learner = Learner(decoder, LearnerConfig())
    plain = learner._loss

    def broken(inputs):
        out = plain(inputs)
        factor = float("nan") if where == "loss" else 1.0
        if where == "gradient":
            inputs.logp_theta_N.register_hook(lambda g: g * float("inf"))
        return out._replace(loss=out.loss * factor)

    learner._loss = broken
    with pytest.raises(TrainingError, match=f"the {where}"):
        learner.update(batch)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in decoder.named_parameters())
    assert learner.stepper.steps == 0


def test_gradient_clipping_scales_to_the_limit(decoder, batch):
    free = gradients(decoder, batch)
    learner = Learner(decoder, LearnerConfig(max_grad_norm=0.01))
    caught = {}
    learner.stepper.step = lambda: caught.update({n: p.grad.clone() for n, p in decoder.named_parameters()})
    m = learner.update(batch)
    norm = torch.stack([g.square().sum() for g in free.values()]).sum().sqrt()
    assert m.grad_norm == pytest.approx(norm.item(), rel=1e-5)
    close({n: g * (0.01 / norm) for n, g in free.items()}, caught)


def test_bf16_is_close(decoder, batch):
    exact = Learner(make_decoder(), LearnerConfig()).update(batch)
    rough = Learner(decoder, LearnerConfig(precision="bf16", mismatch_warn=1)).update(batch)
    assert rough.loss == pytest.approx(exact.loss, abs=0.02) and rough.grad_norm == pytest.approx(exact.grad_norm, rel=0.05)
    assert all(p.dtype == torch.float32 for p in decoder.parameters())


def test_half_precision_weights_are_refused(decoder):
    with pytest.raises(ConfigError, match="float32"):
        Learner(decoder.bfloat16(), LearnerConfig())


def test_entropy_bonus_raises_entropy(decoder):
    batch = make_batch(decoder, config=BatchConfig(drop_silent=False))
    config = LearnerConfig(
        loss=LossConfig(entropy_bonus=5.0), entropy=True, optimizer=AdamWConfig(lr=3e-3), mismatch_error=50, mismatch_warn=40
    )
    learner = Learner(decoder, config)
    first = learner.update(batch).entropy
    for _ in range(4):
        last = learner.update(batch).entropy
    assert last > first + 0.05


@pytest.mark.parametrize(
    "bad", [{"epochs": 0}, {"max_tokens": 0}, {"max_grad_norm": 0.0}, {"loss": LossConfig(entropy_bonus=1.0)}]
)
def test_impossible_settings(bad):
    with pytest.raises(ConfigError):
        LearnerConfig(**bad)


def test_a_trained_first_token_is_refused(batch):
    root = batch.segments[0]
    n = len(root.ids)
    spoiled = replace(root, mask=(True, *root.mask[1:]), turns=(0,) * n)
    with pytest.raises(TrainingError, match="nothing predicts it"):
        pack(replace(batch, segments=(spoiled, *batch.segments[1:])))


def test_updates_are_no_mismatch_where_old_is_the_samplers(decoder, batch):
    """Four steps of one update move the policy far; only the first says how far learner and sampler are apart."""
    config = LearnerConfig(minibatches=4, old="sampler", optimizer=AdamWConfig(lr=1e-2))
    assert Learner(decoder, config).update(batch).mismatch_max < 1e-4
