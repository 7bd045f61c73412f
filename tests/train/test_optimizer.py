"""Optimisers and schedules against hand-computed numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sampled_groups import make_decoder
from torch.nn import Parameter

from phronesis.errors import ConfigError
from phronesis.models.tiny import tiny
from phronesis.models.tokenizer import train_tokenizer
from phronesis.train import recipes
from phronesis.train.optimizer import AdamWConfig, Constant, Cosine, Linear, Muon, MuonConfig, Stepper, orthogonalise
from phronesis.train.seat import seat


def test_schedules():
    assert [Constant(warmup=3).factor(s) for s in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert [Linear(steps=4).factor(s) for s in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert [Linear(steps=6, warmup=2, final=0.5).factor(s) for s in (0, 1, 2, 4, 6)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 0.75, 0.5]
    )
    assert [Cosine(steps=4).factor(s) for s in (0, 2, 4, 9)] == pytest.approx([1, 0.5, 0, 0])
    assert Cosine(steps=4, final=0.2).factor(4) == pytest.approx(0.2)


def test_a_schedule_without_steps_spans_the_run_it_is_told_of():
    for kind in (Linear, Cosine):
        assert kind(warmup=1, final=0.5).over(9) == kind(steps=9, warmup=1, final=0.5)
        assert kind(steps=4).over(9) == kind(steps=4)
        with pytest.raises(ConfigError, match="does not know how long the run is"):
            Stepper([("w", Parameter(torch.zeros(1)))], AdamWConfig(), kind())
    assert Constant(warmup=2).over(9) == Constant(warmup=2)


@pytest.mark.parametrize("name", recipes.names())
def test_recipes_decay_over_however_many_steps_are_asked_for(name):
    """Two passes over every step: 20 steps are 40 updates, and the last of them is near the final tenth."""
    for steps in (20, 110):
        config = replace(recipes.get(name), steps=steps)
        assert config.updates == 2 * steps
        tokenizer = train_tokenizer(["Say a."] * 2, 290)
        schedule = seat(config, tokenizer, tiny(config.model.tiny, len(tokenizer), 0)).learner.stepper.schedule
        assert schedule == Linear(steps=2 * steps, warmup=3, final=0.1)
        assert schedule.factor(2 * steps - 1) == pytest.approx(0.1 + 0.9 / (2 * steps - 3))


def test_first_adamw_step_is_the_sign_of_the_gradient():
    p = Parameter(torch.tensor([[1.0, -2.0]]))
    stepper = Stepper([("w", p)], AdamWConfig(lr=0.1, weight_decay=0.5), Constant())
    p.grad = torch.tensor([[3.0, -0.001]])
    stepper.step()
    assert p.tolist() == [pytest.approx([0.95 - 0.1, -1.9 + 0.1], abs=1e-4)]


def test_vectors_are_not_decayed():
    p = Parameter(torch.tensor([2.0]))
    stepper = Stepper([("norm", p)], AdamWConfig(lr=0.1, weight_decay=0.5), Constant())
    p.grad = torch.zeros(1)
    stepper.step()
    assert p.tolist() == [2.0]


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 5))
def test_orthogonalised_matrices_have_singular_values_near_one(rows, columns, seed):
    x = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    keep = torch.linalg.svdvals(x)[..., -1] > 0.1 * torch.linalg.svdvals(x)[..., 0]
    values = torch.linalg.svdvals(orthogonalise(x, 8))[keep]
    assert ((values > 0.5) & (values < 1.3)).all()


def test_orthogonalising_keeps_the_directions():
    x = torch.diag(torch.tensor([5.0, 2.0]))
    out = orthogonalise(x[None])[0]
    assert out[0, 1].abs() < 1e-6 and (out.diagonal() > 0.6).all()
    torch.testing.assert_close(orthogonalise(x[None].mT), out[None].mT)


def test_muon_step():
    wide, tall = Parameter(torch.zeros(2, 4)), Parameter(torch.zeros(8, 2))
    muon = Muon([wide, tall], MuonConfig(lr=0.02, momentum=0.5))
    gradients = torch.randn(2, 4), torch.randn(8, 2)
    wide.grad, tall.grad = gradients[0].clone(), gradients[1].clone()
    muon.step()
    # momentum = g / 2, the step's direction = g + (momentum - g) / 2 = 0.75 g; the scale does not matter
    torch.testing.assert_close(wide.data, -0.02 * orthogonalise(gradients[0][None])[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tall.data, -0.02 * 2 * orthogonalise(gradients[1][None])[0], atol=1e-5, rtol=1e-4)


def test_muon_takes_hidden_matrices_only():
    decoder = make_decoder()
    stepper = Stepper(decoder.named_parameters(), MuonConfig(lr=0.1, rest=AdamWConfig(lr=1e-30)), Constant())
    before = {n: p.detach().clone() for n, p in decoder.named_parameters()}
    for p in decoder.parameters():
        p.grad = torch.ones_like(p)
    stepper.step()
    moved = {n.rsplit(".", 1)[-1] for n, p in decoder.named_parameters() if (p - before[n]).abs().max() > 1e-6}
    assert moved == {"qkv", "o", "gate_up", "down"}
    assert stepper.lr == 0.1 and stepper.steps == 1


def test_learning_rate_follows_the_schedule():
    p = Parameter(torch.tensor([0.0]))
    stepper = Stepper([("w", p)], AdamWConfig(lr=1.0), Linear(steps=2))
    rates = []
    for _ in range(3):
        rates.append(stepper.lr)
        p.grad = torch.ones(1)
        stepper.step()
        stepper.clear()
    assert rates == [1.0, 0.5, 0.0] and p.grad is None
    assert p.item() == pytest.approx(-1.5, abs=1e-5)


@pytest.mark.parametrize("make", [lambda: AdamWConfig(lr=0), lambda: AdamWConfig(beta2=1.0), lambda: MuonConfig(iterations=0)])
def test_impossible_settings(make):
    with pytest.raises(ConfigError):
        make()


def test_a_model_without_parameters():
    with pytest.raises(ConfigError, match="no parameters"):
        Stepper([], AdamWConfig(), Constant())
