"""What optimiser steps and updates did, as numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.losses import NO_MISMATCH, LossOutput, Mismatch
from phronesis.losses.mismatch import perplexity_ratio
from phronesis.records import Batch
from phronesis.train.packed import Packed


class UpdateMetrics(Struct, frozen=True, kw_only=True):
    """What an update did. Means are over trained tokens, and over optimiser steps where there are several."""

    loss: float
    """The objective minimised."""
    grad_norm: float
    """Euclidean norm of the gradient before clipping."""
    lr: float
    """Learning rate of the last optimiser step."""
    steps: int
    """Optimiser steps done; 0 when the batch was empty and nothing changed."""
    tokens: int
    """Trained tokens."""
    computed_tokens: int
    """Tokens of the forward pass, each pass counted."""
    kl_k1: float
    """Nats, mean of log old - log theta."""
    kl_k2: float
    """Nats, half the mean squared log-ratio."""
    kl_k3: float
    """Nats, mean of r - 1 - log r."""
    clip_share: float
    """Share of tokens whose gradient the loss cut."""
    ratio_max: float
    """Largest theta / old probability ratio."""
    entropy: float | None
    """Nats, mean exact entropy at trained tokens; None when not computed."""
    advantage_mean: float
    """Mean advantage."""
    advantage_std: float
    """Population standard deviation of the advantage."""
    mismatch_kl: float
    """Nats, k3 divergence of the learner from the sampler before the update."""
    mismatch_k1: float
    """Nats, k1 estimate of the same."""
    mismatch_max: float
    """Nats, largest |learner - sampler| log-probability."""
    mismatch_mean: float
    """Nats, mean |learner - sampler| log-probability."""
    mismatch_above: float
    """Share of tokens above `mismatch_warn`."""
    mismatch_ess: float
    """Effective share of tokens under the weights learner / sampler."""
    mismatch_chi2: float
    """Mean squared probability ratio learner / sampler, minus 1."""
    mismatch_tokens: int = 0
    """Tokens compared: those that the same weights sampled."""
    stale_kl: float | None = None
    """Nats, k3 divergence of the learner before the update from older weights, over what they sampled; None without any."""
    stale_ess: float | None = None
    """Effective share of those tokens under the weights learner / sampler."""
    perplexity_ratio: float | None = None
    """Mean over sequences of the learner's perplexity over the sampler's; None when nothing was compared."""
    seconds: float
    """Wall-clock time."""
    shares: dict[str, float] = {}
    """The loss's own shares by name, e.g. ``clip_high``."""


class StepResult(NamedTuple):
    """One optimiser step."""

    loss: float
    """The objective."""
    grad_norm: float
    """Before clipping."""
    lr: float
    """Learning rate used."""
    sums: dict[str, float]
    """The loss's means by name."""
    maxima: dict[str, float]
    """The loss's maxima by name."""
    mismatch: Mismatch
    """Learner against sampler, over tokens that the same weights sampled, where it was measured."""
    hits: float
    """Trained tokens that were the most likely ones; 0 unless asked for."""
    perplexities: tuple[float, ...] = ()
    """Per sequence, the learner's perplexity over the sampler's, where it was measured."""
    stale: Mismatch = NO_MISMATCH
    """Learner against older weights, over the tokens those sampled."""


class Tally:
    """What the micro-batches of one optimiser step add up to, while they are computed."""

    def __init__(self) -> None:
        self.outputs: list[LossOutput] = []
        """The loss of each; of the whole step where the parts do not add up."""
        self.mismatch = self.stale = NO_MISMATCH
        """Learner against sampler."""
        self.hits = 0.0
        """Trained tokens that were the most likely ones."""
        self.moved: list[Tensor] = []
        """Log-ratios of sequences, theta over sampler, `[S]` each."""
        self.baseline: float | None = None
        """What was taken from the credit; None when nothing was."""
        self._compared: list[tuple[Tensor, Tensor, Tensor]] = []

    def look(self, old_K: Tensor, part: Packed, fresh_K: Tensor | None) -> None:
        """Keeps the log-probabilities of the tokens (None means all) that the same weights sampled."""
        rows = (old_K, part.logp_infer_K, part.sequence_K)
        self._compared.append(rows if fresh_K is None else tuple(row[fresh_K] for row in rows))  # pyright: ignore[reportArgumentType]

    def result(self, grad_norm: float, lr: float) -> StepResult:
        """The step, once its weights have changed."""
        sums, maxima = merged([o.sums for o in self.outputs], sum), merged([o.maxima for o in self.outputs], max)
        if self.baseline is not None:
            sums["baseline"] = self.baseline
        loss = sum(float(o.loss.detach()) for o in self.outputs)
        return StepResult(loss, grad_norm, lr, sums, maxima, self.mismatch, self.hits, self._perplexities(), self.stale)

    def take(self, other: Tally) -> None:
        """Adds what another process measured of other micro-batches of the same step."""
        self.outputs += other.outputs
        self.mismatch, self.stale = self.mismatch.merge(other.mismatch), self.stale.merge(other.stale)
        self.hits += other.hits
        self.moved += other.moved
        self._compared += other._compared

    def _perplexities(self) -> tuple[float, ...]:
        if not self._compared:
            return ()
        old_K, infer_K, sequence_K = (torch.cat(column) for column in zip(*self._compared, strict=True))
        if not sequence_K.numel():
            return ()
        ratio_S = perplexity_ratio(old_K.double(), infer_K.double(), sequence_K, int(sequence_K.max()) + 1)
        return tuple(float(r) for r in ratio_S[~ratio_S.isnan()])


def together(tallies: Sequence[Tally]) -> Tally:
    """What the micro-batches of all processes add up to; the first is added to."""
    first, *others = tallies
    for other in others:
        first.take(other)
    return first


def merged(parts: Sequence[dict[str, Tensor]], combine: Callable[[list[float]], float]) -> dict[str, float]:
    """Numbers of micro-batches by name, combined over the parts that have them, e.g. by `sum` or `max`."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: combine([float(part[name]) for part in parts if name in part]) for name in names}


def summary(results: Sequence[StepResult], batch: Batch, *, computed: int, seconds: float) -> UpdateMetrics:
    """What an update did, from its optimiser steps (none when the batch was empty).

    Args:
        results: in order.
        batch: what was learned from.
        computed: tokens of the forward passes.
        seconds: wall-clock time.
    """
    advantages = [a for s in batch.segments for a, m in zip(s.advantages, s.mask, strict=True) if m]
    mean = sum(advantages) / max(len(advantages), 1)
    spread = (sum((a - mean) ** 2 for a in advantages) / max(len(advantages), 1)) ** 0.5
    seen, old = NO_MISMATCH, NO_MISMATCH
    for result in results:
        seen, old = seen.merge(result.mismatch), old.merge(result.stale)
    ratios = [ratio for result in results for ratio in result.perplexities]
    n = max(len(results), 1)
    sums = {name: sum(r.sums.get(name, 0.0) for r in results) / n for name in dict.fromkeys(k for r in results for k in r.sums)}
    shares = {k: v for k, v in sums.items() if k not in ("kl_k1", "kl_k2", "kl_k3", "entropy")}
    return UpdateMetrics(
        loss=sum(r.loss for r in results) / n,
        grad_norm=sum(r.grad_norm for r in results) / n,
        lr=results[-1].lr if results else 0.0,
        steps=len(results),
        tokens=len(advantages),
        computed_tokens=computed,
        kl_k1=sums.get("kl_k1", 0.0),
        kl_k2=sums.get("kl_k2", 0.0),
        kl_k3=sums.get("kl_k3", 0.0),
        clip_share=sum(v for k, v in shares.items() if k.startswith("clip_")),
        ratio_max=max((r.maxima.get("ratio", 0.0) for r in results), default=1.0),
        entropy=sums.get("entropy"),
        advantage_mean=mean,
        advantage_std=spread,
        mismatch_kl=seen.k3,
        mismatch_k1=seen.k1,
        mismatch_max=seen.max_abs,
        mismatch_mean=seen.mean_abs,
        mismatch_above=seen.above_share,
        mismatch_ess=seen.ess_share,
        mismatch_chi2=seen.chi2,
        mismatch_tokens=round(seen.tokens),
        stale_kl=old.k3 if old.tokens else None,
        stale_ess=old.ess_share if old.tokens else None,
        perplexity_ratio=fmean(ratios) if ratios else None,
        seconds=seconds,
        shares=shares,
    )
