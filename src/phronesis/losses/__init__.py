"""Losses: pure functions of tensors, one idea a file."""

from phronesis.losses.aggregation import (
    Aggregation,
    AggregationRule,
    ConstantNorm,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    SequenceMeanTraceMean,
    SequenceMeanTurnMean,
    TokenMean,
    TurnMeanTokenMean,
    aggregate,
)
from phronesis.losses.asynchrony import capacity
from phronesis.losses.clipping import (
    GPPOLoss,
    TwoSidedLoss,
    gppo,
    two_sided,
)
from phronesis.losses.composite import (
    Stream,
    composite,
)
from phronesis.losses.corrections import (
    Correction,
    CorrectionRule,
    combine,
    normalised,
    rejected,
)
from phronesis.losses.covariance import (
    ClipCovLoss,
    KLCovLoss,
    covariance,
)
from phronesis.losses.decoupled import (
    DecoupledPPOLoss,
    approximate_prox,
    decoupled,
    prox_share,
)
from phronesis.losses.dft import (
    DFTLoss,
    dft_loss,
)
from phronesis.losses.distillation import (
    GatedDistillation,
    MaskedDistillation,
    opd_masked,
    sdar,
    teacher_advantage,
)
from phronesis.losses.dpo import (
    DPOLoss,
    dpo_loss,
)
from phronesis.losses.entropy import (
    EntropyTarget,
    entropy,
)
from phronesis.losses.inputs import (
    AS_CONFIGURED,
    Coefficients,
    LossInputs,
    LossOutput,
    Scope,
    Totals,
    join,
    log_ratio,
    scope_of,
    totals_of,
)
from phronesis.losses.ipo import (
    IPOPreferenceLoss,
    ipo_loss,
)
from phronesis.losses.jsd import (
    jensen_shannon,
    kl_divergence,
    sdpo,
    top_and_tail,
)
from phronesis.losses.kl import (
    adapt_kl,
    expected,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_k3plus,
    kl_unbiased,
)
from phronesis.losses.kl_penalty import (
    KLInLoss,
    KLInReward,
    KLPenalty,
    KLTarget,
)
from phronesis.losses.loss import (
    AnyCorrection,
    AnyObjective,
    Loss,
    LossConfig,
    evaluate,
)
from phronesis.losses.mismatch import (
    NO_MISMATCH,
    Mismatch,
    measure_mismatch,
)
from phronesis.losses.policy_gradient import (
    Objective,
    PPOClipLoss,
    ReinforceLoss,
    TokenTerms,
    ppo_clip,
    reinforce,
)
from phronesis.losses.preference import (
    PairObjective,
    Pairs,
    answer_log_ratio,
    sequence_log_ratio,
)
from phronesis.losses.rejection import (
    GeometricReject,
    K2Reject,
    K3Reject,
    OffPolicySequenceMask,
    TopEntropy,
    Veto,
)
from phronesis.losses.rlag import (
    Augmented,
    rlag_loss,
)
from phronesis.losses.second_moment import (
    M2POLoss,
    m2_keep,
    second_moment,
)
from phronesis.losses.sequence_level import (
    GMPOLoss,
    GSPOLoss,
    LUSPOLoss,
    VESPOLoss,
    gmpo,
    gspo,
    vespo,
    vespo_weight,
)
from phronesis.losses.soft_gate import (
    SAPOLoss,
    sapo,
)
from phronesis.losses.step_apo import (
    StepAPOLoss,
    step_apo_loss,
)
from phronesis.losses.step_size import (
    effective_size,
    lr_factor,
    sequence_weights,
    variance_baseline,
)
from phronesis.losses.supervised import (
    SupervisedLoss,
    negative_log_likelihood,
)
from phronesis.losses.truncation import (
    IcePop,
    SequenceMIS,
    SequenceTIS,
    TokenMIS,
    TokenTIS,
)
from phronesis.losses.trust_region import (
    DPPOLoss,
    DROLoss,
    SymmetricTVLoss,
    dro,
    tv_keep,
    tv_keep_symmetric,
    tv_loss,
)
from phronesis.losses.weighted import (
    CISPOLoss,
    DISLoss,
    cispo,
    dis,
)

__all__ = [
    "AS_CONFIGURED",
    "NO_MISMATCH",
    "Aggregation",
    "AggregationRule",
    "AnyCorrection",
    "AnyObjective",
    "Augmented",
    "CISPOLoss",
    "ClipCovLoss",
    "Coefficients",
    "ConstantNorm",
    "Correction",
    "CorrectionRule",
    "DFTLoss",
    "DISLoss",
    "DPOLoss",
    "DPPOLoss",
    "DROLoss",
    "DecoupledPPOLoss",
    "EntropyTarget",
    "GMPOLoss",
    "GPPOLoss",
    "GSPOLoss",
    "GatedDistillation",
    "GeometricReject",
    "IPOPreferenceLoss",
    "IcePop",
    "K2Reject",
    "K3Reject",
    "KLCovLoss",
    "KLInLoss",
    "KLInReward",
    "KLPenalty",
    "KLTarget",
    "LUSPOLoss",
    "Loss",
    "LossConfig",
    "LossInputs",
    "LossOutput",
    "M2POLoss",
    "MaskedDistillation",
    "Mismatch",
    "Objective",
    "OffPolicySequenceMask",
    "PPOClipLoss",
    "PairObjective",
    "Pairs",
    "ReinforceLoss",
    "SAPOLoss",
    "Scope",
    "SequenceMIS",
    "SequenceMeanTokenMean",
    "SequenceMeanTokenSum",
    "SequenceMeanTraceMean",
    "SequenceMeanTurnMean",
    "SequenceTIS",
    "StepAPOLoss",
    "Stream",
    "SupervisedLoss",
    "SymmetricTVLoss",
    "TokenMIS",
    "TokenMean",
    "TokenTIS",
    "TokenTerms",
    "TopEntropy",
    "Totals",
    "TurnMeanTokenMean",
    "TwoSidedLoss",
    "VESPOLoss",
    "Veto",
    "adapt_kl",
    "aggregate",
    "answer_log_ratio",
    "approximate_prox",
    "capacity",
    "cispo",
    "combine",
    "composite",
    "covariance",
    "decoupled",
    "dft_loss",
    "dis",
    "dpo_loss",
    "dro",
    "effective_size",
    "entropy",
    "evaluate",
    "expected",
    "gmpo",
    "gppo",
    "gspo",
    "ipo_loss",
    "jensen_shannon",
    "join",
    "kl_divergence",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_k3plus",
    "kl_unbiased",
    "log_ratio",
    "lr_factor",
    "m2_keep",
    "measure_mismatch",
    "negative_log_likelihood",
    "normalised",
    "opd_masked",
    "ppo_clip",
    "prox_share",
    "reinforce",
    "rejected",
    "rlag_loss",
    "sapo",
    "scope_of",
    "sdar",
    "sdpo",
    "second_moment",
    "sequence_log_ratio",
    "sequence_weights",
    "step_apo_loss",
    "teacher_advantage",
    "top_and_tail",
    "totals_of",
    "tv_keep",
    "tv_keep_symmetric",
    "tv_loss",
    "two_sided",
    "variance_baseline",
    "vespo",
    "vespo_weight",
]
