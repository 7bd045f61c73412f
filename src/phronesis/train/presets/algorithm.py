"""What an algorithm is, apart from the run it is used in: credit, loss, passes, group size, what is left out, a critic.

A preset is a function of a run that returns an `Algorithm`. `Algorithm.over` replaces those settings of the run and leaves
all others alone: environment, model, priming, steps, learning rate and schedule, precision, evaluation. Published learning
rates belong to models of billions of parameters and are not taken over.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from phronesis.credit.build import CreditConfig
from phronesis.losses import Aggregation, AnyObjective, LossConfig, PPOClipLoss, SequenceMeanTokenMean, TokenMean
from phronesis.reason.players.build import Alone, PlayerConfig
from phronesis.train.batching import BatchConfig
from phronesis.train.config import RunConfig
from phronesis.train.critic import CriticConfig
from phronesis.train.dynamic import DynamicConfig
from phronesis.train.lessons.build import LessonConfig
from phronesis.train.optimizer import AdamWConfig, OptimizerConfig

PASSES = 2
"""Passes over each step's episodes where a preset's ratio must be able to move; ours. With one pass it is 1 throughout."""


class Algorithm(Struct, frozen=True, kw_only=True):
    """The algorithm part of a run; every field it does not name is at its default, whatever the run had before."""

    credit: CreditConfig
    """Who earned the reward."""
    loss: LossConfig
    """What to minimise."""
    passes: int = 1
    """Passes over each step's episodes, one optimiser step each."""
    old: Literal["learner", "sampler"] = "learner"
    """What the ratio refers to."""
    reset: bool = False
    """Forget the optimiser's state whenever the sampler gets new weights."""
    restart: bool = False
    """Begin every update from the base model."""
    average: float | None = None
    """How far a running average of the weights follows each update."""
    group_size: int | None = None
    """Episodes per task; None keeps the run's. With 1 the run plays as many episodes a step as before, each of another task."""
    batch: BatchConfig = BatchConfig()
    """What of a step's episodes is learned from."""
    dynamic: DynamicConfig | None = None
    """Replacement of groups without signal."""
    critic: CriticConfig | None = None
    """Who expects the return."""
    player: PlayerConfig = Alone()
    """How the attempts of a group come about."""
    lesson: LessonConfig | None = None
    """What attempts become, where it is not credit."""

    def over(self, run: RunConfig) -> RunConfig:
        """The run with this algorithm instead of its own."""
        single = self.group_size == 1
        return replace(
            run,
            credit=self.credit,
            player=self.player,
            critic=self.critic,
            dynamic=self.dynamic,
            lesson=self.lesson,
            group_size=run.group_size if self.group_size is None else self.group_size,
            groups=run.groups * run.group_size if single else run.groups,
            batch=replace(self.batch, shortest_prefix=run.batch.shortest_prefix),
            learner=replace(
                run.learner,
                loss=self.loss,
                epochs=self.passes,
                minibatches=1,
                old=self.old,
                reset=self.reset,
                restart=self.restart,
                average=self.average,
                step_size="scheduled",
                baseline="credit",
            ),
        )


def horizon(run: RunConfig) -> int:
    """The most tokens an episode of the run may sample: the constant that presets divide sums over tokens by."""
    limits = run.limits
    return limits.max_turns * limits.max_turn_tokens if limits.max_tokens is None else limits.max_tokens


def clipped(
    *, eps_low: float = 0.2, eps_high: float = 0.2, dual: float | None = None, aggregation: Aggregation | None = None
) -> LossConfig:
    """Clipped PPO, by default on the mean over sequences of the token mean."""
    return per_sequence(PPOClipLoss(eps_low=eps_low, eps_high=eps_high, dual=dual), aggregation)


def per_sequence(objective: AnyObjective, aggregation: Aggregation | None = None) -> LossConfig:
    """An objective on the mean over sequences of the token mean."""
    return LossConfig(objective=objective, aggregation=aggregation or SequenceMeanTokenMean())


def per_token(objective: AnyObjective) -> LossConfig:
    """An objective on the mean over all tokens of the step."""
    return LossConfig(objective=objective, aggregation=TokenMean())


def faster(optimizer: OptimizerConfig, factor: float) -> AdamWConfig:
    """AdamW at a multiple of another optimiser's peak learning rate, for a critic."""
    return AdamWConfig(lr=factor * optimizer.peak)
