"""Learning on probes with a known optimum, three seeds each: every probe adds one difficulty (see `phronesis.envs.probes`).

The policy is primed on random or careless behaviour (`lessons`), so that it can answer, and then has to find out what pays.
Controls with a learning rate of nothing, or with credit turned around, must not get there.
"""

from __future__ import annotations

from statistics import fmean

import pytest
from msgspec.structs import replace

from phronesis.credit import GiGPOCredit, TrajectoryCredit
from phronesis.losses import LossConfig, PPOClipLoss
from phronesis.models.tiny import TinyModel
from phronesis.rollout.limits import Limits
from phronesis.store import Run
from phronesis.train import job
from phronesis.train.asynchrony import AsyncConfig
from phronesis.train.config import EnvChoice, EvalConfig, ModelConfig, PrimeConfig, RunConfig
from phronesis.train.learner import LearnerConfig
from phronesis.train.optimizer import AdamWConfig, MuonConfig
from phronesis.train.supervised import SupervisedConfig

TINY = TinyModel(width=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp_width=64, embed_std=0.4)
BANDIT = {"demonstrations": 250, "tokens": 20}
SHORT = {"demonstrations": 400, "tokens": 200}
LONG = {"demonstrations": 500, "tokens": 220, "epochs": 3}


def lesson(probe: str, seed: int, *, steps: int, lr: float, shown: dict[str, int], width: int = 32, **changes) -> RunConfig:
    """A run of `steps` of 4 x 8 episodes."""
    supervised = SupervisedConfig(
        epochs=shown.get("epochs", 2),
        max_steps=250 if probe == "bandit" else None,
        batch_tokens=shown["tokens"],
        optimizer=MuonConfig(lr=0.03, rest=AdamWConfig(lr=5e-3)),
        decay="linear",
        final=0.05,
        warmup=2,
    )
    config = RunConfig(
        name=probe,
        seed=seed,
        env=EnvChoice(name=f"lessons:{probe}"),
        model=ModelConfig(tiny=replace(TINY, width=width), vocab_size=420 if probe == "recovery" else 300),
        limits=Limits(max_turns=4, max_turn_tokens=14),
        prime=PrimeConfig(demonstrations=shown["demonstrations"], supervised=supervised),
        steps=steps,
        groups=4,
        group_size=8,
        credit=TrajectoryCredit(),
        learner=LearnerConfig(loss=LossConfig(objective=PPOClipLoss()), optimizer=AdamWConfig(lr=lr), epochs=2),
        evaluation=EvalConfig(tasks=0),
        checkpoint_every=1000,
    )
    return replace(config, **changes)


def rewards(config: RunConfig, folder) -> list[float]:
    """Mean reward of every step."""
    job.run(config, folder)
    with Run.open(folder) as run:
        return [value for _, value in run.curve("reward/mean")]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bandit(tmp_path, seed):
    """One decision. Random answers earn 0.4."""
    curve = rewards(lesson("bandit", seed, steps=14, lr=4e-3, shown=BANDIT), tmp_path / "run")
    assert curve[0] < 0.7 and fmean(curve[-4:]) > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bandit_while_playing_goes_on(tmp_path, seed):
    """The same with batches of up to two updates older weights, whose ratio refers to what the sampler recorded. Which weights
    these are depends on the machine, so that no two runs are alike: twice the steps, and the last third counts."""
    config = lesson("bandit", seed, steps=36, lr=4e-3, shown=BANDIT)
    config = replace(config, asynchrony=AsyncConfig(staleness=2), learner=replace(config.learner, old="sampler"))
    curve = rewards(config, tmp_path / "run")
    assert curve[0] < 0.7 and fmean(curve[-12:]) > 0.9
    with Run.open(tmp_path / "run") as run:
        assert fmean(v for _, v in run.curve("age/mean")) > 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_copy(tmp_path, seed):
    """The best answer depends on the prompt. Any answer that does not look at it earns 0.5."""
    curve = rewards(lesson("copy", seed, steps=24, lr=3e-3, shown=SHORT), tmp_path / "run")
    assert curve[0] < 0.75 and fmean(curve[-4:]) > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_memory(tmp_path, seed):
    """The answer is asked for a turn later. Without memory 0.5."""
    curve = rewards(lesson("memory", seed, steps=60, lr=3e-3, shown=SHORT), tmp_path / "run")
    assert curve[0] < 0.75 and fmean(curve[-4:]) > 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_recovery(tmp_path, seed):
    """The reward comes late, and only looking again after a failure leads there. Guessing earns 0.5."""
    credit = TrajectoryCredit() if seed else GiGPOCredit(omega=1.0, gamma=1.0)
    config = lesson("recovery", seed, steps=14, lr=2e-3, shown=LONG, width=48, credit=credit)
    curve = rewards(config, tmp_path / "run")
    assert curve[0] < 0.8 and fmean(curve[-4:]) > 0.9


def test_without_a_learning_rate_nothing_is_learned(tmp_path):
    curve = rewards(lesson("copy", 0, steps=24, lr=1e-9, shown=SHORT), tmp_path / "run")
    assert 0.3 < fmean(curve[-8:]) < 0.7


def test_credit_turned_around_makes_it_worse(tmp_path):
    config = lesson("bandit", 0, steps=14, lr=4e-3, shown=BANDIT, credit="own_worlds:Reversed")
    curve = rewards(config, tmp_path / "run")
    assert fmean(curve[-4:]) < 0.2
