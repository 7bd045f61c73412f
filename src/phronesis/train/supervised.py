"""Supervised learning on traces: sequences of ids with marks on the tokens to learn.

Traces are packed without padding up to a token budget, in an order drawn from a named stream. A prompt common to all of
them (system message, tools) is computed once per step instead of once per trace.

Shapes: N packed tokens, K target tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Literal, NamedTuple

import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray

from phronesis.data.traces import Trace
from phronesis.errors import ConfigError, TrainingError
from phronesis.losses import Aggregation, DFTLoss, LossConfig, SupervisedLoss, TokenMean, Totals
from phronesis.models.causal import LanguageModel
from phronesis.models.layout import plan
from phronesis.models.lora import Adapters
from phronesis.seeding import rng
from phronesis.train.forest import common_prefix
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig, Constant, Cosine, Linear, OptimizerConfig, Schedule
from phronesis.train.packed import Packed
from phronesis.train.scoring import Precision


class SupervisedConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to learn from traces."""

    epochs: int = 1
    """Passes over the traces, at least 1."""
    max_steps: int | None = None
    """Most optimiser steps; None means as many as the epochs take."""
    batch_tokens: int = 4096
    """Tokens computed per optimiser step, at least 1; a single longer trace is a step of its own."""
    micro_tokens: int = 16384
    """Tokens computed at once; larger steps are accumulated, at least 1."""
    optimizer: OptimizerConfig = AdamWConfig(lr=3e-3)
    """How to step."""
    decay: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate falls from its peak over all steps."""
    warmup: int = 10
    """Steps of linear warm-up."""
    final: float = 0.1
    """Share of the peak learning rate at the end."""
    objective: SupervisedLoss | DFTLoss = SupervisedLoss()
    """Loss of one target token: cross-entropy, or DFT's, where unlikely tokens count less."""
    aggregation: Aggregation = TokenMean()
    """How target tokens are weighed."""
    max_grad_norm: float | None = 1.0
    """Longer gradients are scaled down to this Euclidean norm; None means never."""
    precision: Precision = "fp32"
    """Of matrix products."""
    checkpointing: bool = False
    """Recompute layers in the backward pass to save memory."""
    seed: int = 0
    """Seeds the order of traces; a job mixes it with the run's seed."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_tokens", "micro_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)!r} must be at least 1")

    def schedule(self, steps: int) -> Schedule:
        """The schedule over `steps` optimiser steps."""
        if self.decay == "constant":
            return Constant(warmup=self.warmup)
        kind = Linear if self.decay == "linear" else Cosine
        return kind(steps=steps, warmup=self.warmup, final=self.final)

    def learner(self, steps: int) -> LearnerConfig:
        """The learner's settings for `steps` optimiser steps."""
        return LearnerConfig(
            loss=LossConfig(objective=self.objective, aggregation=self.aggregation),
            optimizer=self.optimizer,
            schedule=self.schedule(steps),
            max_grad_norm=self.max_grad_norm,
            precision=self.precision,
            checkpointing=self.checkpointing,
            max_tokens=self.micro_tokens,
        )


class SupervisedStep(NamedTuple):
    """One optimiser step."""

    step: int
    """From 1."""
    steps: int
    """How many there will be."""
    loss: float
    """Mean negative log-likelihood per target token (with the default objective and aggregation), nats."""
    accuracy: float
    """Share of target tokens that were the most likely ones before the step."""
    grad_norm: float
    """Before clipping."""
    lr: float
    """Learning rate used."""
    tokens: int
    """Target tokens."""
    computed_tokens: int
    """Tokens of the forward pass."""
    seconds: float
    """Wall-clock time since the start."""


class SupervisedSummary(NamedTuple):
    """A finished `fit`."""

    steps: int
    """Optimiser steps done."""
    tokens: int
    """Target tokens learned from, each pass counted."""
    computed_tokens: int
    """Tokens of all forward passes."""
    loss: float
    """Mean of the last tenth of the steps, nats."""
    accuracy: float
    """Mean of the last tenth of the steps."""
    left_out: int
    """Traces without any target token."""
    seconds: float
    """Wall-clock time."""


def fit(
    decoder: LanguageModel,
    traces: Sequence[Trace],
    config: SupervisedConfig,
    progress: Callable[[SupervisedStep], bool | None] | None = None,
    *,
    adapters: Adapters | None = None,
) -> SupervisedSummary:
    """Learns from traces, changing the decoder's weights in place.

    Args:
        decoder: the model.
        traces: at least one with a target token.
        config: how.
        progress: called after every step; returning False stops early.
        adapters: over the decoder; they alone learn. None means all weights.

    Raises:
        TrainingError: no trace has a target token, a trace is malformed, or a loss or gradient is not finite.
    """
    began = perf_counter()
    rows = [_Row.of(i, t) for i, t in enumerate(traces)]
    used = [r for r in rows if r.targets.size]
    if not used:
        raise TrainingError(f"none of the {len(traces)} traces has a target token; check their masks")
    packer = _Packer(used, decoder.device)
    schedule = [batch for epoch in range(config.epochs) for batch in packer.batches(config, epoch)][: config.max_steps]
    settings = config.learner(len(schedule))
    learner, loss = Learner(decoder, settings, adapters=adapters), settings.loss.build()
    history: list[SupervisedStep] = []
    for number, batch in enumerate(schedule, 1):
        parts = packer.pack(batch, config.micro_tokens)
        result = learner.descend(parts, loss, hits=True)
        tokens = parts[0].totals.tokens
        computed = sum(p.ids_N.numel() for p in parts)
        done = SupervisedStep(
            step=number,
            steps=len(schedule),
            loss=result.loss,
            accuracy=result.hits / tokens,
            grad_norm=result.grad_norm,
            lr=result.lr,
            tokens=tokens,
            computed_tokens=computed,
            seconds=perf_counter() - began,
        )
        history.append(done)
        if progress is not None and progress(done) is False:
            break
    last = history[-max(1, len(history) // 10) :]
    return SupervisedSummary(
        steps=len(history),
        tokens=sum(s.tokens for s in history),
        computed_tokens=sum(s.computed_tokens for s in history),
        loss=sum(s.loss for s in last) / len(last),
        accuracy=sum(s.accuracy for s in last) / len(last),
        left_out=len(rows) - len(used),
        seconds=perf_counter() - began,
    )


class _Row(NamedTuple):
    """A trace as arrays, cut before its last target, which is only predicted."""

    ids: NDArray[np.int64]
    """`[L]`."""
    targets: NDArray[np.int64]
    """Positions of target tokens in the whole trace."""
    target_ids: NDArray[np.int64]
    """Their ids."""

    @classmethod
    def of(cls, index: int, trace: Trace) -> _Row:
        """A checked trace."""
        if len(trace.ids) != len(trace.mask) or any(trace.mask[:1]):
            raise TrainingError(
                f"trace {index}: {len(trace.ids)} ids, {len(trace.mask)} marks, first marked: {trace.mask[:1]!r}; "
                "lengths must agree and the first token cannot be a target"
            )
        ids = np.array(trace.ids, dtype=np.int64)
        targets = np.flatnonzero(np.array(trace.mask, dtype=np.bool_))
        end = int(targets[-1]) if targets.size else 0
        return cls(ids[:end], targets, ids[targets])


class _Packer:
    """Makes packed tensors of sets of rows under a prompt that all rows share."""

    def __init__(self, rows: Sequence[_Row], device: torch.device):
        self.rows, self.device = rows, device
        first = rows[0].ids.tolist()
        shared = len(first) - 1
        for row in rows:
            shared = min(
                shared, int(row.targets[0]), len(row.ids) - 1, common_prefix(first[:shared], row.ids[:shared].tolist())
            )
        # A short common prompt is not worth a segment.
        self.shared = shared if shared >= 16 and len(rows) > 1 else 0

    def batches(self, config: SupervisedConfig, epoch: int) -> Iterator[list[int]]:
        """Row indices of each step of an epoch."""
        order = list(range(len(self.rows)))
        rng(config.seed, "supervised", epoch).shuffle(order)
        return self._fill(order, config.batch_tokens)

    def _fill(self, order: Sequence[int], budget: int) -> Iterator[list[int]]:
        batch: list[int] = []
        size = self.shared
        for i in order:
            own = len(self.rows[i].ids) - self.shared
            if batch and size + own > budget:
                yield batch
                batch, size = [], self.shared
            batch.append(i)
            size += own
        if batch:
            yield batch

    def pack(self, batch: Sequence[int], micro_tokens: int) -> list[Packed]:
        """A step as micro-batches with common denominators; sequences are numbered by their place in `batch`."""
        counts = torch.tensor([self.rows[i].targets.size for i in batch])
        totals = Totals(int(counts.sum()), len(batch), counts.to(self.device), turns=len(batch))
        place = {i: n for n, i in enumerate(batch)}
        return [self._pack(part, place, totals) for part in self._fill(batch, micro_tokens)]

    def _pack(self, part: Sequence[int], place: dict[int, int], totals: Totals) -> Packed:
        rows, shared = [self.rows[i] for i in part], self.shared
        lengths = [len(r.ids) - shared for r in rows]
        pieces = [r.ids[shared:] for r in rows]
        starts = np.cumsum([shared, *lengths[:-1]])
        # Position t of a row lies at start + t - shared, or at t inside the shared prompt.
        before = [r.targets - 1 for r in rows]
        predictors = np.concatenate([np.where(b < shared, b, b + (s - shared)) for b, s in zip(before, starts, strict=True)])
        parents: list[int | None] = [None] * len(rows)
        if shared:
            lengths, pieces, parents = [shared, *lengths], [rows[0].ids[:shared], *pieces], [None] + [0] * len(rows)
        owners = np.repeat([place[i] for i in part], [r.targets.size for r in rows])
        zeros = torch.zeros(predictors.size, device=self.device)

        def tensor(values: NDArray[np.int64]) -> torch.Tensor:
            return torch.as_tensor(values, dtype=torch.int64, device=self.device)

        return Packed(
            ids_N=tensor(np.concatenate(pieces)),
            plan=plan(lengths, parents).to(self.device),
            predictors_K=tensor(predictors),
            targets_K=tensor(np.concatenate([r.target_ids for r in rows])),
            logp_infer_K=zeros,
            advantages_K=zeros,
            temperatures_K=None,
            sequence_K=tensor(owners),
            turn_K=torch.zeros_like(zeros, dtype=torch.int64),
            totals=totals,
        )
