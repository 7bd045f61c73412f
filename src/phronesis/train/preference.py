"""Learning from pairs: DPO, IPO, Step-DPO and Step-APO on packed segments, against a frozen reference.

The reference is the model before the first step unless another is given; see `phronesis.train.pair_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Literal, NamedTuple

from msgspec import Struct

from phronesis.data.preferences import Preference
from phronesis.errors import ConfigError, TrainingError
from phronesis.losses.preference.dpo import DPOLoss
from phronesis.models.causal import LanguageModel
from phronesis.seeding import rng
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig, Constant, Cosine, Linear, OptimizerConfig, Schedule
from phronesis.train.pair_rows import AnyPairObjective, pack_pairs, pair_loss, referenced, usable
from phronesis.train.scoring import Precision


class PreferenceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to learn from pairs."""

    objective: AnyPairObjective = DPOLoss()
    """Loss of one pair."""
    first_step: bool = False
    """Compare only the first step in which the sides differ: Step-DPO with `dpo`, Step-APO with `step_apo`."""
    epochs: int = 1
    """Passes over the pairs, at least 1."""
    batch_pairs: int = 16
    """Pairs per optimiser step, at least 1."""
    micro_tokens: int = 16384
    """Tokens computed at once; larger steps are accumulated, at least 1. A single larger pair is computed whole."""
    optimizer: OptimizerConfig = AdamWConfig(lr=1e-4)
    """How to step."""
    decay: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls from its peak over all steps."""
    warmup: int = 0
    """Steps of linear warm-up."""
    final: float = 0.1
    """Share of the peak learning rate at the end."""
    max_grad_norm: float | None = 1.0
    """Longer gradients are scaled down to this Euclidean norm; None means never."""
    precision: Precision = "fp32"
    """Of matrix products."""
    checkpointing: bool = False
    """Recompute layers in the backward pass to save memory."""
    seed: int = 0
    """Seeds the order of pairs."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_pairs", "micro_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)!r} must be at least 1")

    def learner(self, steps: int) -> LearnerConfig:
        """The learner's settings for `steps` optimiser steps."""
        kind = Linear if self.decay == "linear" else Cosine
        falling = kind(steps=steps, warmup=self.warmup, final=self.final)
        schedule: Schedule = Constant(warmup=self.warmup) if self.decay == "constant" else falling
        return LearnerConfig(
            optimizer=self.optimizer,
            schedule=schedule,
            max_grad_norm=self.max_grad_norm,
            precision=self.precision,
            checkpointing=self.checkpointing,
            max_tokens=self.micro_tokens,
        )


class PreferenceStep(NamedTuple):
    """One optimiser step; means over its pairs, before the step."""

    step: int
    """From 1."""
    steps: int
    """How many there will be."""
    loss: float
    """Mean loss."""
    accuracy: float
    """Share of pairs whose chosen side moved up, relative to the reference, by more than the rejected one."""
    chosen: float
    """Nats, mean log-ratio to the reference of the chosen sides. Where it falls with `rejected`, both become rarer."""
    rejected: float
    """Nats, of the rejected sides."""
    grad_norm: float
    """Before clipping."""
    lr: float
    """Learning rate used."""
    pairs: int
    """How many."""
    computed_tokens: int
    """Tokens of the forward pass."""
    seconds: float
    """Wall-clock time since the start."""

    @property
    def margin(self) -> float:
        """Nats, by how much the chosen sides moved further up than the rejected ones."""
        return self.chosen - self.rejected


class PreferenceSummary(NamedTuple):
    """A finished `fit_pairs`."""

    history: list[PreferenceStep]
    """Every step."""
    left_out: dict[str, int]
    """Pairs by reason: ``same`` (nothing tells the sides apart), ``no_common_step`` (see `first_step`)."""
    seconds: float
    """Wall-clock time."""


def fit_pairs(
    decoder: LanguageModel,
    pairs: Sequence[Preference],
    config: PreferenceConfig,
    *,
    reference: LanguageModel | None = None,
    progress: Callable[[PreferenceStep], bool | None] | None = None,
) -> PreferenceSummary:
    """Learns from pairs, changing the decoder's weights in place. Log-probabilities are taken at temperature 1.

    Args:
        decoder: the model.
        pairs: at least one whose sides differ.
        config: how.
        reference: what movement is measured from; None means the decoder as it is now.
        progress: called after every step; returning False stops early.

    Raises:
        TrainingError: no pair can be learned from, a trace is malformed, or a loss or gradient is not finite.
    """
    began = perf_counter()
    rows, left_out = usable(pairs, first=config.first_step)
    if not rows:
        raise TrainingError(f"none of {len(pairs)} pairs can be learned from: {left_out!r}")
    start = decoder if reference is None else reference
    rows = referenced(start, rows, micro_tokens=config.micro_tokens, precision=config.precision)
    schedule = _schedule(len(rows), config)
    learner = Learner(decoder, config.learner(len(schedule)))
    history: list[PreferenceStep] = []
    for number, chosen in enumerate(schedule, 1):
        batch = [rows[i] for i in chosen]
        parts = pack_pairs(batch, config.micro_tokens, decoder.device)
        result = learner.descend(parts, pair_loss(batch, config.objective))
        done = PreferenceStep(
            step=number,
            steps=len(schedule),
            loss=result.loss,
            accuracy=result.sums["accuracy"],
            chosen=result.sums["chosen"],
            rejected=result.sums["rejected"],
            grad_norm=result.grad_norm,
            lr=result.lr,
            pairs=len(batch),
            computed_tokens=sum(p.ids_N.numel() for p in parts),
            seconds=perf_counter() - began,
        )
        history.append(done)
        if progress is not None and progress(done) is False:
            break
    return PreferenceSummary(history, left_out, perf_counter() - began)


def _schedule(rows: int, config: PreferenceConfig) -> list[list[int]]:
    """Row indices of every step."""
    steps: list[list[int]] = []
    for epoch in range(config.epochs):
        order = list(range(rows))
        rng(config.seed, "preferences", epoch).shuffle(order)
        steps += [order[i : i + config.batch_pairs] for i in range(0, rows, config.batch_pairs)]
    return steps
