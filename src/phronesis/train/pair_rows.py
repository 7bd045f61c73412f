"""Pairs as rows of packed segments: what the sides share is computed once, and each side remembers its reference.

The reference's log-probabilities are computed once and kept in the stream a sampler's would be in, so that the reference
itself need not be kept. What the sides of a pair share is a segment without trained tokens: it adds the same to both sides of
a margin and cancels.

Shapes: K trained tokens, P pairs of a step; sequence ``2p`` is the chosen side of pair p, ``2p + 1`` the rejected one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple, cast

import torch

from phronesis.data.preferences import Preference, first_step
from phronesis.data.traces import Trace, common_prefix
from phronesis.errors import TrainingError
from phronesis.losses.inputs import LossInputs, LossOutput
from phronesis.losses.loss import Loss
from phronesis.losses.preference.dpo import DPOLoss
from phronesis.losses.preference.ipo import IPOPreferenceLoss
from phronesis.losses.preference.pairs import Pairs, sequence_log_ratio
from phronesis.losses.preference.step_apo import StepAPOLoss
from phronesis.models.causal import LanguageModel
from phronesis.records import Batch, Segment
from phronesis.train.forest import Forest
from phronesis.train.packed import Packed, pack
from phronesis.train.scoring import Precision, score

AnyPairObjective = DPOLoss | IPOPreferenceLoss | StepAPOLoss
"""The built-in losses of pairs, told apart by their tag in configs."""


class Piece(NamedTuple):
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


class PairRow(NamedTuple):
    """A pair as pieces."""

    pieces: tuple[Piece, ...]
    values: tuple[float, float]
    """Of the chosen and the rejected side."""

    @property
    def tokens(self) -> int:
        """Tokens to compute, if nothing is shared with other pairs."""
        return sum(map(len, {p.shared for p in self.pieces})) + sum(len(p.ids) for p in self.pieces)


def usable(pairs: Sequence[Preference], *, first: bool = False) -> tuple[list[PairRow], dict[str, int]]:
    """The pairs that can be learned from, and how many of the others there are, by reason.

    Args:
        pairs: any.
        first: compare only the first step in which the sides differ.

    Raises:
        TrainingError: a trace is malformed.
    """
    rows: list[PairRow] = []
    left_out = dict[str, int]()
    for pair in pairs:
        cut = first_step(pair) if first else pair
        row = None if cut is None else _row(cut)
        if row is None:
            reason = "no_common_step" if cut is None else "same"
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            rows.append(row)
    return rows, left_out


def _row(pair: Preference) -> PairRow | None:
    """A pair as pieces; None when nothing trained tells the sides apart."""
    pieces: list[Piece] = []
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
            pieces.append(Piece(side, trace.ids[:shared], ids, mask, (0.0,) * len(ids)))
    told_apart = any(any(p.mask) for p in pieces) and pair.chosen != pair.rejected
    return PairRow(tuple(pieces), (pair.chosen_value, pair.rejected_value)) if told_apart else None


def _shared(sides: Sequence[Trace | None]) -> int:
    """How many ids the sides' traces begin with in common; at least one is left to each of them."""
    first, second = sides
    if first is None or second is None:
        lone = first or second
        return 0 if lone is None else max(0, lone.mask.index(True) - 1 if any(lone.mask) else 0)
    common = common_prefix(first.ids, second.ids)
    common = common_prefix(first.mask[:common], second.mask[:common])  # a token trained on one side alone does not cancel
    return min(common, len(first.ids) - 1, len(second.ids) - 1)


def referenced(
    reference: LanguageModel, rows: Sequence[PairRow], *, micro_tokens: int, precision: Precision = "fp32"
) -> list[PairRow]:
    """The rows with the reference's log-probabilities, at temperature 1."""
    found: list[PairRow] = []
    for part in _fill(rows, micro_tokens):
        forest, order = _forest([(i, row) for i, row in enumerate(part)])
        packed = pack(_batch(forest, len(part)), reference.device)
        with torch.no_grad():
            scores = iter(cast("list[float]", score(reference, packed, precision=precision).logp_K.tolist()))  # pyright: ignore[reportUnknownMemberType]
        known: dict[tuple[int, int], Piece] = {}
        for i, k in order:
            piece = part[i].pieces[k]
            known[i, k] = piece._replace(reference=tuple(next(scores) if m else 0.0 for m in piece.mask))
        found += [row._replace(pieces=tuple(known[i, k] for k in range(len(row.pieces)))) for i, row in enumerate(part)]
    return found


def _fill(rows: Sequence[PairRow], budget: int) -> list[list[PairRow]]:
    """The rows in order, as parts of at most `budget` tokens or of a single row."""
    parts: list[list[PairRow]] = []
    size = 0
    for row in rows:
        if not parts or size + row.tokens > budget:
            parts.append([])
            size = 0
        parts[-1].append(row)
        size += row.tokens
    return parts


def pairs_batch(rows: Sequence[PairRow]) -> Batch:
    """All rows as one batch, pairs numbered by their place."""
    forest, _ = _forest(list(enumerate(rows)))
    return _batch(forest, len(rows))


def pack_pairs(rows: Sequence[PairRow], micro_tokens: int, device: torch.device) -> list[Packed]:
    """A step as micro-batches of whole pairs; pairs are numbered by their place in `rows`."""
    parts: list[Packed] = []
    start = 0
    for part in _fill(rows, micro_tokens):
        forest, _ = _forest([(start + i, row) for i, row in enumerate(part)])
        parts.append(pack(_batch(forest, len(rows)), device))
        start += len(part)
    return parts


def _forest(rows: Sequence[tuple[int, PairRow]]) -> tuple[Forest, list[tuple[int, int]]]:
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


def pair_loss(rows: Sequence[PairRow], objective: AnyPairObjective) -> Loss:
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
