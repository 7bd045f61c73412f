"""Losses: pure functions of tensors, one idea a file."""

from phronesis.losses.aggregation import (
    Aggregation,
    AggregationRule,
    ConstantNorm,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    TokenMean,
    aggregate,
)
from phronesis.losses.inputs import LossInputs, LossOutput, Totals, log_ratio, totals_of
from phronesis.losses.kl import kl_k1, kl_k2, kl_k3
from phronesis.losses.loss import AnyObjective, Loss, LossConfig, evaluate
from phronesis.losses.mismatch import NO_MISMATCH, Mismatch, measure_mismatch
from phronesis.losses.policy_gradient import Objective, PPOClipLoss, ReinforceLoss, TokenTerms, ppo_clip, reinforce
from phronesis.losses.supervised import SupervisedLoss, negative_log_likelihood

__all__ = [
    "NO_MISMATCH",
    "Aggregation",
    "AggregationRule",
    "AnyObjective",
    "ConstantNorm",
    "Loss",
    "LossConfig",
    "LossInputs",
    "LossOutput",
    "Mismatch",
    "Objective",
    "PPOClipLoss",
    "ReinforceLoss",
    "SequenceMeanTokenMean",
    "SequenceMeanTokenSum",
    "SupervisedLoss",
    "TokenMean",
    "TokenTerms",
    "Totals",
    "aggregate",
    "evaluate",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "log_ratio",
    "measure_mismatch",
    "negative_log_likelihood",
    "ppo_clip",
    "reinforce",
    "totals_of",
]
