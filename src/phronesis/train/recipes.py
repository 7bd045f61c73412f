"""Recipes: named configs. Each is a function that returns a `RunConfig`; the command line and files change what they like."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from phronesis.credit.turnwise.gigpo import GiGPOCredit
from phronesis.errors import UnknownName
from phronesis.losses import LossConfig, PPOClipLoss, TokenMean
from phronesis.models.tiny import TinyModel
from phronesis.rollout.limits import Limits
from phronesis.train.config import EnvChoice, EvalConfig, ModelConfig, PrimeConfig, RunConfig
from phronesis.train.learner import LearnerConfig
from phronesis.train.optimizer import AdamWConfig, Linear, MuonConfig
from phronesis.train.supervised import SupervisedConfig


def quickstart() -> RunConfig:
    """The main job on a laptop: a small policy learns to keep books over a database it reaches only through a tool.

    Priming on imperfect demonstrations (arXiv 2510.06534), then reinforcement learning with the episode's advantage plus
    the advantage among turns in the same state (GiGPO, arXiv 2505.10978) under PPO's clipped ratio, clip-higher
    (arXiv 2503.14476), token mean, two passes over each step's episodes. One thread: at this size two gain nothing.
    """
    return RunConfig(
        name="quickstart",
        env=EnvChoice(name="ledger"),
        model=ModelConfig(
            tiny=TinyModel(width=64, layers=4, heads=2, kv_heads=2, head_dim=32, mlp_width=192, embed_std=0.4),
            vocab_size=512,
        ),
        limits=Limits(max_turns=14, max_turn_tokens=48),
        prime=PrimeConfig(
            demonstrations=5000,
            supervised=SupervisedConfig(
                batch_tokens=1000,
                optimizer=MuonConfig(lr=0.03, rest=AdamWConfig(lr=5e-3)),
                decay="linear",
                final=0.05,
            ),
        ),
        steps=70,
        groups=8,
        group_size=8,
        credit=GiGPOCredit(omega=1.0, gamma=1.0),
        learner=LearnerConfig(
            loss=LossConfig(objective=PPOClipLoss(eps_low=0.2, eps_high=0.28), aggregation=TokenMean()),
            optimizer=AdamWConfig(lr=8e-4),
            schedule=Linear(warmup=3, final=0.1),
            epochs=2,
        ),
        evaluation=EvalConfig(tasks=512),
        threads=1,
    )


def quickstart_nothink() -> RunConfig:
    """`quickstart` without think blocks: the same tasks, demonstrations and sampled tokens, and nowhere to keep a total.

    An episode without thoughts samples about 70 tokens instead of 115, so there are 120 steps instead of 70.
    """
    base, steps = quickstart(), 120
    return replace(
        base,
        name="quickstart-nothink",
        prime=None if base.prime is None else replace(base.prime, think=False),
        steps=steps,
        evaluation=replace(base.evaluation, swapped=False),
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {
    "quickstart": quickstart,
    "quickstart-nothink": quickstart_nothink,
}
"""All recipes by name."""


def names() -> list[str]:
    """Names of all recipes."""
    return list(RECIPES)


def get(name: str) -> RunConfig:
    """The recipe of that name.

    Raises:
        UnknownName: there is none; names near ones.
    """
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES)
    return RECIPES[name]()
