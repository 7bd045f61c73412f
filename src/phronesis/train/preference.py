"""Learning from pairs: DPO, IPO, Step-DPO and Step-APO on packed segments, against a frozen reference.

The reference is the model before the first step unless another is given. Its log-probabilities are computed once and kept in
the stream a sampler's would be in, so that the reference itself need not be. What the sides of a pair share is computed once,
as a segment without trained tokens: it adds the same to both sides of a margin and cancels.

Shapes: K trained tokens, P pairs of a step; sequence ``2p`` is the chosen side of pair p, ``2p + 1`` the rejected one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from time import perf_counter
from typing import Literal, NamedTuple, cast

import torch
from msgspec import Struct

from phronesis.data.preferences import Preference, first_step
from phronesis.data.traces import Trace, common_prefix
from phronesis.errors import ConfigError, TrainingError
from phronesis.losses.inputs import LossInputs, LossOutput
from phronesis.losses.loss import Loss
from phronesis.losses.preference.dpo import DPOLoss
from phronesis.losses.preference.ipo import IPOPreferenceLoss
from phronesis.losses.preference.pairs import Pairs, sequence_log_ratio
from phronesis.losses.preference.step_apo import StepAPOLoss
from phronesis.models.decoder import Decoder
from phronesis.records import Batch, Segment
from phronesis.seeding import rng
from phronesis.train.forest import Forest
from phronesis.train.learner import Learner, LearnerConfig
from phronesis.train.optimizer import AdamWConfig, Constant, Cosine, Linear, OptimizerConfig, Schedule
from phronesis.train.packed import Packed, pack
from phronesis.train.scoring import Precision, score

AnyPairObjective = DPOLoss | IPOPreferenceLoss | StepAPOLoss
"""The built-in losses of pairs, told apart by their tag in configs."""


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
    decoder: Decoder,
    pairs: Sequence[Preference],
    config: PreferenceConfig,
    *,
    reference: Decoder | None = None,
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
    rows, left_out = _usable(pairs, config)
    if not rows:
        raise TrainingError(f"none of {len(pairs)} pairs can be learned from: {left_out!r}")
    rows = _referenced(decoder if reference is None else reference, rows, config)
    schedule = _schedule(len(rows), config)
    learner = Learner(decoder, config.learner(len(schedule)))
    history: list[PreferenceStep] = []
    for number, chosen in enumerate(schedule, 1):
        batch = [rows[i] for i in chosen]
        parts = _pack(batch, config.micro_tokens, decoder.device)
        result = learner.descend(parts, _loss(batch, config.objective))
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


class _Piece(NamedTuple):
    """One trace of one side behind what it shares with the other side."""

    side: int
    """0 chosen, 1 rejected."""
    shared: tuple[int, ...]
    """Ids in common with the other side's trace."""
    ids: tuple[int, ...]
    """Ids of its own, at least one."""
    mask: tuple[bool, ...]
    """Which of them are trained."""
    reference: tuple[float, ...]
    """Nats, the reference's log-probability of each; 0 where not trained."""


class _Row(NamedTuple):
    """A pair as pieces."""

    pieces: tuple[_Piece, ...]
    values: tuple[float, float]
    """Of the chosen and the rejected side."""

    @property
    def tokens(self) -> int:
        """Tokens to compute, if nothing is shared with other pairs."""
        return sum(map(len, {p.shared for p in self.pieces})) + sum(len(p.ids) for p in self.pieces)


def _usable(pairs: Sequence[Preference], config: PreferenceConfig) -> tuple[list[_Row], dict[str, int]]:
    rows: list[_Row] = []
    left_out = dict[str, int]()
    for pair in pairs:
        cut = first_step(pair) if config.first_step else pair
        row = None if cut is None else _row(cut)
        if row is None:
            reason = "no_common_step" if cut is None else "same"
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            rows.append(row)
    return rows, left_out


def _row(pair: Preference) -> _Row | None:
    """A pair as pieces; None when nothing trained tells the sides apart."""
    pieces: list[_Piece] = []
    for sides in zip_longest(pair.chosen, pair.rejected):
        shared = _shared(sides)
        for side, trace in enumerate(sides):
            if trace is None:
                continue
            if len(trace.ids) != len(trace.mask) or any(trace.mask[:1]):
                raise TrainingError(
                    f"a trace of {len(trace.ids)} ids has {len(trace.mask)} marks, the first {trace.mask[:1]!r}; lengths must "
                    "agree and the first token cannot be a target"
                )
            ids, mask = trace.ids[shared:], trace.mask[shared:]
            pieces.append(_Piece(side, trace.ids[:shared], ids, mask, (0.0,) * len(ids)))
    told_apart = any(any(p.mask) for p in pieces) and pair.chosen != pair.rejected
    return _Row(tuple(pieces), (pair.chosen_value, pair.rejected_value)) if told_apart else None


def _shared(sides: Sequence[Trace | None]) -> int:
    """How many ids the sides' traces begin with in common; at least one is left to each of them."""
    first, second = sides
    if first is None or second is None:
        lone = first or second
        return 0 if lone is None else max(0, lone.mask.index(True) - 1 if any(lone.mask) else 0)
    common = common_prefix(first.ids, second.ids)
    common = common_prefix(first.mask[:common], second.mask[:common])  # a token trained on one side alone does not cancel
    return min(common, len(first.ids) - 1, len(second.ids) - 1)


def _schedule(rows: int, config: PreferenceConfig) -> list[list[int]]:
    """Row indices of every step."""
    steps: list[list[int]] = []
    for epoch in range(config.epochs):
        order = list(range(rows))
        rng(config.seed, "preferences", epoch).shuffle(order)
        steps += [order[i : i + config.batch_pairs] for i in range(0, rows, config.batch_pairs)]
    return steps


def _referenced(reference: Decoder, rows: Sequence[_Row], config: PreferenceConfig) -> list[_Row]:
    """The rows with the reference's log-probabilities."""
    found: list[_Row] = []
    for part in _fill(rows, config.micro_tokens):
        forest, order = _forest([(i, row) for i, row in enumerate(part)])
        packed = pack(_batch(forest, len(part)), reference.device)
        with torch.no_grad():
            scores = iter(cast("list[float]", score(reference, packed, precision=config.precision).logp_K.tolist()))  # pyright: ignore[reportUnknownMemberType]
        known: dict[tuple[int, int], _Piece] = {}
        for i, k in order:
            piece = part[i].pieces[k]
            known[i, k] = piece._replace(reference=tuple(next(scores) if m else 0.0 for m in piece.mask))
        found += [row._replace(pieces=tuple(known[i, k] for k in range(len(row.pieces)))) for i, row in enumerate(part)]
    return found


def _fill(rows: Sequence[_Row], budget: int) -> list[list[_Row]]:
    """The rows in order, as parts of at most `budget` tokens or of a single row."""
    parts: list[list[_Row]] = []
    size = 0
    for row in rows:
        if not parts or size + row.tokens > budget:
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += row.tokens
    return parts


def _pack(rows: Sequence[_Row], micro_tokens: int, device: torch.device) -> list[Packed]:
    """A step as micro-batches of whole pairs; pairs are numbered by their place in `rows`."""
    parts: list[Packed] = []
    start = 0
    for part in _fill(rows, micro_tokens):
        forest, _ = _forest([(start + i, row) for i, row in enumerate(part)])
        parts.append(pack(_batch(forest, len(rows)), device))
        start += len(part)
    return parts


def _forest(rows: Sequence[tuple[int, _Row]]) -> tuple[Forest, list[tuple[int, int]]]:
    """Segments of numbered pairs, and, in the order of their trained tokens, which piece each segment is."""
    forest = Forest()
    anchors = forest.share([p.shared for _, row in rows for p in row.pieces], shortest=16)
    order: list[tuple[int, int]] = []
    for number, row in rows:
        for k, piece in enumerate(row.pieces):
            anchor = anchors[piece.shared]
            n = len(anchor.rest)
            mask = (False,) * n + piece.mask
            segment = Segment(
                parent=anchor.segment,
                ids=anchor.rest + piece.ids,
                mask=mask,
                logprobs=(0.0,) * n + piece.reference,
                advantages=(0.0,) * len(mask),
                turns=tuple(0 if m else -1 for m in mask),
                episode=2 * number + piece.side,
            )
            forest.add(segment)
            order.append((number, k))
    return forest, order


def _batch(forest: Forest, pairs: int) -> Batch:
    counts = [0] * (2 * pairs)
    for segment in forest.segments:
        if segment.episode >= 0:
            counts[segment.episode] += sum(segment.mask)
    return Batch(
        segments=tuple(forest.segments),
        episodes=tuple(f"{p}-{side}" for p in range(pairs) for side in ("chosen", "rejected")),
        sequence_tokens=tuple(counts),
        total_tokens=sum(counts),
        total_sequences=2 * pairs,
    )


def _loss(rows: Sequence[_Row], objective: AnyPairObjective) -> Loss:
    """Mean over the step's pairs; a micro-batch adds those it holds."""
    count = len(rows)

    def loss(inputs: LossInputs) -> LossOutput:
        sequences = sequence_log_ratio(inputs.logp_theta_N, inputs.logp_infer_N, inputs.sequence_N, 2 * count).view(-1, 2)
        here_P = torch.bincount(inputs.sequence_N // 2, minlength=count) > 0
        values = sequences.new_tensor([row.values for row in rows])[here_P]
        moved = sequences[here_P]
        pairs = Pairs(moved[:, 0], moved[:, 1], values[:, 0], values[:, 1])
        seen = moved.detach() / count
        sums = {
            "accuracy": (seen[:, 0] > seen[:, 1]).to(seen.dtype).sum() / count,
            "chosen": seen[:, 0].sum(),
            "rejected": seen[:, 1].sum(),
        }
        return LossOutput(objective.losses(pairs).sum() / count, sums, {})

    return loss
