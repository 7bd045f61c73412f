"""Batches for lessons: of attempts whatever their credit, and of traces nobody in this run has sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from msgspec.structs import replace

from phronesis.credit.rule import members
from phronesis.data.traces import Trace
from phronesis.models.causal import LanguageModel
from phronesis.records import Batch, Credit, EpisodeGroup, Segment
from phronesis.train.batching import BatchConfig, build_batch
from phronesis.train.packed import pack
from phronesis.train.scoring import Precision, score
from phronesis.train.splitting import split


def attempts_batch(groups: Sequence[EpisodeGroup], config: BatchConfig, left_out: Mapping[str, str] | None = None) -> Batch:
    """All sampled tokens of the episodes that count, with credit 0, which the objectives of lessons do not read.

    Args:
        groups: scored groups.
        config: what to leave out; silent episodes stay.
        left_out: reasons by episode id, for episodes to leave out and count besides.
    """
    reasons = left_out or {}
    return build_batch(groups, [_marked(g, reasons) for g in groups], replace(config, drop_silent=False))


def _marked(group: EpisodeGroup, left_out: Mapping[str, str]) -> Credit:
    """Zeros for the episodes to learn from: a batch is built from credit."""
    found = members(group, compared=False).reasons
    reasons = tuple(r or left_out.get(e.id) for e, r in zip(group.episodes, found, strict=True))
    zeros = [tuple((0.0,) * len(t.completion) for t in e.turns) for e in group.episodes]
    values = tuple(None if r is not None else z for z, r in zip(zeros, reasons, strict=True))
    return Credit(group=group.id, values=values, reasons=reasons)


def traces_batch(traces: Sequence[Trace], names: Sequence[str]) -> Batch:
    """Traces as sequences of a batch, one segment each; their recorded log-probabilities are 0 until `scored` fills them in.

    Args:
        traces: with at least one marked token each.
        names: one per trace, unique.
    """
    segments = [
        Segment(
            parent=None,
            ids=trace.ids,
            mask=trace.mask,
            logprobs=(0.0,) * len(trace.ids),
            advantages=(0.0,) * len(trace.ids),
            turns=tuple(0 if m else -1 for m in trace.mask),
            episode=i,
        )
        for i, trace in enumerate(traces)
    ]
    counts = tuple(sum(t.mask) for t in traces)
    return Batch(
        segments=tuple(segments),
        episodes=tuple(names),
        sequence_tokens=counts,
        total_tokens=sum(counts),
        total_sequences=len(counts),
        total_turns=len(counts),
    )


def scored(batch: Batch, decoder: LanguageModel, *, max_tokens: int, precision: Precision = "fp32") -> Batch:
    """The batch as if `decoder` had sampled it: a ratio to the sampler is 1 on tokens nobody sampled.

    For a batch of traces, whose segments have no parents.
    """
    rows = iter(_logprobs(batch, decoder, max_tokens, precision))
    segments = [replace(s, logprobs=tuple(next(rows) if m else 0.0 for m in s.mask)) for s in batch.segments]
    return replace(batch, segments=tuple(segments))


def _logprobs(batch: Batch, decoder: LanguageModel, max_tokens: int, precision: Precision) -> list[float]:
    """Nats of the trained tokens, in order of segments."""
    found: list[float] = []
    for part in split(batch, max_tokens) if batch.segments else []:
        with torch.no_grad():
            logp_K = score(decoder, pack(part, decoder.device), precision=precision).logp_K
        found += cast("list[float]", logp_K.tolist())  # pyright: ignore[reportUnknownMemberType]
    return found


def joined(first: Batch, second: Batch) -> Batch:
    """Both batches as one step: denominators add up, so each token weighs the same as any other."""
    shift, episodes = len(first.segments), len(first.episodes)
    moved = [
        replace(
            s,
            parent=None if s.parent is None else s.parent + shift,
            episode=s.episode if s.episode < 0 else s.episode + episodes,
        )
        for s in second.segments
    ]
    return Batch(
        segments=(*first.segments, *moved),
        episodes=first.episodes + second.episodes,
        dropped=dict(Counter(first.dropped) + Counter(second.dropped)),
        sequence_tokens=first.sequence_tokens + second.sequence_tokens,
        total_tokens=first.total_tokens + second.total_tokens,
        total_sequences=first.total_sequences + second.total_sequences,
        total_turns=first.total_turns + second.total_turns,
        total_observed=first.total_observed + second.total_observed,
    )


def fitting(traces: Sequence[Trace], room: int) -> tuple[list[Trace], int]:
    """The traces of at most `room` ids with something to learn, and how many are not."""
    kept = [t for t in traces if len(t.ids) <= room and any(t.mask)]
    return kept, len(traces) - len(kept)
