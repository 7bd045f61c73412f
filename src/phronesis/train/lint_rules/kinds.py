"""Which objectives and corrections are of which kind: what a ratio refers to, what is a product, what acts on all tokens."""

from __future__ import annotations

from phronesis.losses import (
    CISPOLoss,
    ClipCovLoss,
    CrossStageLoss,
    DecoupledPPOLoss,
    DISLoss,
    DPPOLoss,
    GMPOLoss,
    GPPOLoss,
    GSPOLoss,
    IcePop,
    KLCovLoss,
    LUSPOLoss,
    M2POLoss,
    OPDMaskedLoss,
    PPOClipLoss,
    SAPOLoss,
    SequenceMIS,
    SequenceTIS,
    SymmetricTVLoss,
    TokenMIS,
    TokenTIS,
    TwoSidedLoss,
    VESPOLoss,
)
from phronesis.losses.loss import AnyCorrection
from phronesis.train.config import RunConfig

AGAINST_OLD = (
    PPOClipLoss, GPPOLoss, TwoSidedLoss, CISPOLoss, SAPOLoss, GSPOLoss, LUSPOLoss, GMPOLoss, VESPOLoss, M2POLoss,
    DecoupledPPOLoss, ClipCovLoss, KLCovLoss, CrossStageLoss,
)  # fmt: skip
"""Objectives with a ratio of theta to old."""
AGAINST_SAMPLER = (DISLoss, DPPOLoss, SymmetricTVLoss, OPDMaskedLoss)
"""Objectives with a ratio of theta to the sampler."""
WEIGHTS = (TokenTIS, SequenceTIS, SequenceMIS, TokenMIS, IcePop)
"""Corrections that multiply by an importance weight."""
SEQUENCE_LEVEL = (GSPOLoss, LUSPOLoss, GMPOLoss)
"""Objectives defined for the mean over sequences of the token mean."""


def weights(run: RunConfig) -> list[AnyCorrection]:
    """The run's corrections that multiply by an importance weight."""
    return [c for c in run.learner.loss.corrections if isinstance(c, WEIGHTS)]


def numerator(correction: AnyCorrection) -> str:
    """What a correction compares with the sampler: ``old`` or ``theta``."""
    return str(getattr(correction, "of", "old"))


def tag_of(part: object) -> str:
    """The name of an objective, a correction or a credit rule in configs."""
    if isinstance(part, str):
        return part
    tag: object = getattr(type(part), "__struct_config__").tag  # noqa: B009
    return str(tag)


def staleness(run: RunConfig) -> int:
    """Most updates between the weights that played and those that learn."""
    return 0 if run.asynchrony is None else run.asynchrony.staleness


def updates(run: RunConfig) -> int:
    """Optimiser steps per batch."""
    return run.learner.epochs * run.learner.minibatches


def episode_tokens(run: RunConfig) -> int:
    """The most tokens an episode may sample."""
    limits = run.limits
    return limits.max_turns * limits.max_turn_tokens if limits.max_tokens is None else limits.max_tokens
