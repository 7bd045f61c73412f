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
from phronesis.losses.dft import DFTLoss, dft_loss
from phronesis.losses.distillation import GatedDistillation, MaskedDistillation, opd_masked, sdar, teacher_advantage
from phronesis.losses.dpo import DPOLoss, dpo_loss
from phronesis.losses.inputs import LossInputs, LossOutput, Totals, log_ratio, totals_of
from phronesis.losses.ipo import IPOPreferenceLoss, ipo_loss
from phronesis.losses.jsd import jensen_shannon, kl_divergence, sdpo, top_and_tail
from phronesis.losses.kl import kl_k1, kl_k2, kl_k3
from phronesis.losses.loss import AnyObjective, Loss, LossConfig, evaluate
from phronesis.losses.mismatch import NO_MISMATCH, Mismatch, measure_mismatch
from phronesis.losses.policy_gradient import Objective, PPOClipLoss, ReinforceLoss, TokenTerms, ppo_clip, reinforce
from phronesis.losses.preference import PairObjective, Pairs, answer_log_ratio, sequence_log_ratio
from phronesis.losses.rlag import Augmented, rlag_loss
from phronesis.losses.step_apo import StepAPOLoss, step_apo_loss
from phronesis.losses.supervised import SupervisedLoss, negative_log_likelihood

__all__ = [
    "NO_MISMATCH",
    "Aggregation",
    "AggregationRule",
    "AnyObjective",
    "Augmented",
    "ConstantNorm",
    "DFTLoss",
    "DPOLoss",
    "GatedDistillation",
    "IPOPreferenceLoss",
    "Loss",
    "LossConfig",
    "LossInputs",
    "LossOutput",
    "MaskedDistillation",
    "Mismatch",
    "Objective",
    "PPOClipLoss",
    "PairObjective",
    "Pairs",
    "ReinforceLoss",
    "SequenceMeanTokenMean",
    "SequenceMeanTokenSum",
    "StepAPOLoss",
    "SupervisedLoss",
    "TokenMean",
    "TokenTerms",
    "Totals",
    "aggregate",
    "answer_log_ratio",
    "dft_loss",
    "dpo_loss",
    "evaluate",
    "ipo_loss",
    "jensen_shannon",
    "kl_divergence",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "log_ratio",
    "measure_mismatch",
    "negative_log_likelihood",
    "opd_masked",
    "ppo_clip",
    "reinforce",
    "rlag_loss",
    "sdar",
    "sdpo",
    "sequence_log_ratio",
    "step_apo_loss",
    "teacher_advantage",
    "top_and_tail",
    "totals_of",
]
