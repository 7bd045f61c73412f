"""How a batch becomes new weights: the settings of a learner."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from phronesis.errors import ConfigError
from phronesis.losses import DFTLoss, LossConfig, ReadsDistributions, SupervisedLoss
from phronesis.train.optimizer import AdamWConfig, Constant, OptimizerConfig, Schedule
from phronesis.train.scoring import Precision


class LearnerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a batch becomes new weights."""

    loss: LossConfig = LossConfig()
    """What to minimise."""
    optimizer: OptimizerConfig = AdamWConfig()
    """How to step."""
    schedule: Schedule = Constant()
    """Share of the peak learning rate at each optimiser step; one that falls does so over the whole run by default."""
    max_grad_norm: float | None = 1.0
    """Longer gradients are scaled down to this Euclidean norm; None means never."""
    precision: Precision = "fp32"
    """Of matrix products; weights and log-probabilities are always float32."""
    checkpointing: bool = False
    """Recompute layers in the backward pass: about a third more time, a fraction of the memory."""
    max_tokens: int = 16384
    """Tokens computed at once; larger batches are accumulated over micro-batches, at least 1."""
    epochs: int = 1
    """Passes over a batch, at least 1."""
    minibatches: int = 1
    """Optimiser steps per pass, at least 1."""
    old: Literal["learner", "sampler"] = "learner"
    """Log-probabilities the ratio refers to: recomputed at the start of the update, or as the sampler recorded them."""
    entropy: bool = False
    """Compute the exact entropy at trained tokens (needed for an entropy bonus; costs a pass over the logits)."""
    step_size: Literal["scheduled", "effective"] = "scheduled"
    """effective: the scheduled learning rate times sqrt(ESS / B), B sequences with weights theta / sampler (VCPO,
    arXiv 2602.17616)."""
    baseline: Literal["credit", "variance"] = "credit"
    """variance: take VCPO's baseline of least variance from every token's credit at each optimiser step, for credit without one
    (``credit.baseline.type = "none"``, ``batch.drop_silent = false``); see `phronesis.train.variance`."""
    reset: bool = False
    """Forget the optimiser's state at the beginning of every update, which is when the sampler has just got new weights: its
    averages belong to the objective under the previous behaviour policy (GLM-5, arXiv 2602.15763)."""
    restart: bool = False
    """Begin every update from the weights the learner was made with and a fresh optimiser: the newest policy plays, and what
    it did is learned from the base model anew (STaR, arXiv 2203.14465). For supervised objectives."""
    average: float | None = None
    """Keep a running average of the weights, moved by this share of the way after every update, in (0, 1]; doubles the memory
    for weights. SDPO's teacher moves by .05. None keeps none."""
    mismatch_warn: float = 0.02
    """Nats: a larger |learner - sampler| log-probability of any token is logged as a warning."""
    mismatch_error: float = 0.5
    """Nats: a larger one stops training."""
    seed: int = 0
    """Seeds the mini-batches; a job mixes it with the run's seed."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)!r} must be at least 1")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ConfigError(f"max_grad_norm {self.max_grad_norm!r} must be above 0, or null for none")
        if self.restart and (self.old != "learner" or not isinstance(self.loss.objective, SupervisedLoss | DFTLoss)):
            raise ConfigError(
                "restart learns from the base model what another policy did, which no ratio can answer for; set the objective "
                'to "supervised" or "dft" and old to "learner", or restart to false'
            )
        if self.average is not None and not 0 < self.average <= 1:
            raise ConfigError(f"average {self.average!r} must lie in (0, 1], or null for none")
        if isinstance(self.loss.objective, ReadsDistributions) and self.loss.scope != "token":
            raise ConfigError(
                "an objective over whole distributions is computed slice by slice and cannot be combined with corrections or "
                "divergences that look at whole sequences or steps; leave them out"
            )
        if self.loss.needs_entropy and not self.entropy:
            raise ConfigError("an entropy bonus, an entropy target and ent_top need entropy = true for the learner")
