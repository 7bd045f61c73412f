"""The learner: turns a batch into new weights.

One update scores the trained tokens, checks them against what the sampler recorded, evaluates the loss and steps the
optimiser. The rule this module keeps: a loss, gradient or log-probability that cannot be right stops training before any
weight changes. The first pass over a batch that is one optimiser step scores it once: the scores are both `theta` and `old`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import isfinite
from time import perf_counter
from typing import Any, Literal, NamedTuple

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError, MismatchError, TrainingError
from phronesis.losses import NO_MISMATCH, Loss, LossConfig, Mismatch, measure_mismatch
from phronesis.models.decoder import Decoder
from phronesis.records import Batch
from phronesis.seeding import rng, stream
from phronesis.train.optimizer import AdamWConfig, Constant, OptimizerConfig, Schedule, Stepper
from phronesis.train.packed import Packed, pack
from phronesis.train.scoring import Entropy, Precision, score
from phronesis.train.splitting import minibatches, split

log = logging.getLogger(__name__)


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
        if self.loss.entropy_bonus and not self.entropy:
            raise ConfigError("an entropy bonus needs entropy = true for the learner")


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
    """Learner against sampler, where it was measured."""
    hits: float
    """Trained tokens that were the most likely ones; 0 unless asked for."""


class Learner:
    """A decoder, an optimiser and how to use them. The weights are changed in place, so an engine that holds the same
    decoder sees them at once (tell it with `Versioned.advance`)."""

    def __init__(self, decoder: Decoder, config: LearnerConfig):
        if decoder.dtype != torch.float32:
            raise ConfigError(f"the weights are {decoder.dtype}, training needs float32; use precision bf16 for bf16 products")
        self.decoder, self.config = decoder, config
        self.stepper = Stepper(decoder.named_parameters(), config.optimizer, config.schedule)
        self.updates = 0
        self._loss = config.loss.build()
        self._entropy: Entropy = "gradient" if config.loss.entropy_bonus else "value" if config.entropy else "no"
        self._device = self.stepper.parameters[0].device

    def update(self, batch: Batch) -> UpdateMetrics:
        """Learns from a batch. An empty batch changes nothing and gives metrics with `steps` 0.

        Raises:
            MismatchError: a token's recomputed log-probability is further from the recorded one than `mismatch_error`.
            TrainingError: a loss or gradient is not finite. In both cases the failing step changed no weight.
        """
        began = perf_counter()
        config = self.config
        results: list[StepResult] = []
        computed = 0
        if batch.trained_tokens:
            plans = self._plan(batch)
            olds: list[list[Tensor | None]] = [[None] * len(parts) for parts in plans]
            if len(plans) > 1 and config.old == "learner":
                olds = [[self._old(part) for part in parts] for parts in plans]
            for epoch in range(config.epochs):
                order = list(range(len(plans)))
                if epoch:
                    rng(config.seed, "epoch", self.updates, epoch).shuffle(order)
                for i in order:
                    results.append(
                        self.descend(plans[i], self._loss, olds=olds[i], check=epoch == 0, keep=config.old == "learner")
                    )
                    computed += sum(p.ids_N.numel() for p in plans[i])
        self.updates += 1
        return _summary(results, batch, computed=computed, seconds=perf_counter() - began)

    def descend(
        self,
        parts: Sequence[Packed],
        loss: Loss,
        *,
        olds: list[Tensor | None] | None = None,
        check: bool = False,
        hits: bool = False,
        keep: bool = False,
    ) -> StepResult:
        """One optimiser step on micro-batches that together make a step.

        Args:
            parts: micro-batches with common denominators.
            loss: what to minimise.
            olds: per part, the log-probabilities `[K]` the ratio refers to; None means the scores themselves (or, with
                ``old = "sampler"``, the recorded ones).
            check: compare the scores with what the sampler recorded.
            hits: count most likely tokens.
            keep: enter this step's scores into `olds` where there are none, for later passes over the same tokens.

        Raises:
            MismatchError, TrainingError: as for `update`; no weight changed.
        """
        config = self.config
        outputs: list[tuple[float, dict[str, Tensor], dict[str, Tensor]]] = []
        seen, right = NO_MISMATCH, 0.0
        try:
            for i, part in enumerate(parts):
                scores = score(
                    self.decoder,
                    part,
                    precision=config.precision,
                    checkpointing=config.checkpointing,
                    entropy=self._entropy,
                    hits=hits,
                )
                now = scores.logp_K.detach()
                given = None if olds is None else olds[i]
                if check:
                    seen = self._compare(seen, now if given is None else given, part)
                if keep and olds is not None and given is None:
                    olds[i] = now
                old = given if given is not None else (part.logp_infer_K if config.old == "sampler" else now)
                output = loss(part.inputs(scores.logp_K, old, scores.entropy_K))
                value = float(output.loss.detach())
                if not isfinite(value):
                    raise TrainingError(f"the loss is {value!r}; no weight was changed. Lower the learning rate or use fp32")
                output.loss.backward()  # pyright: ignore[reportUnknownMemberType]
                outputs.append((value, output.sums, output.maxima))
                right += 0.0 if scores.hits_K is None else float(scores.hits_K.sum())
            lr, norm = self.stepper.lr, self._clip()
            self.stepper.step()
        finally:
            self.stepper.clear()
        sums, maxima = _merge([s for _, s, _ in outputs], sum), _merge([m for _, _, m in outputs], max)
        return StepResult(sum(v for v, _, _ in outputs), norm, lr, sums, maxima, seen, right)

    def state(self) -> dict[str, Any]:
        """All that a checkpoint must keep besides the weights."""
        return {"updates": self.updates, "stepper": self.stepper.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a `state` of a learner with the same config."""
        self.stepper.restore(state["stepper"])
        self.updates = int(state["updates"])

    def _plan(self, batch: Batch) -> list[list[Packed]]:
        """Optimiser steps, each as its micro-batches."""
        config = self.config
        steps = minibatches(batch, config.minibatches, stream(config.seed, "update", self.updates))
        return [[pack(part, self._device) for part in split(step, config.max_tokens)] for step in steps]

    def _old(self, part: Packed) -> Tensor:
        with torch.no_grad():
            return score(self.decoder, part, precision=self.config.precision).logp_K

    def _compare(self, seen: Mismatch, old_K: Tensor, part: Packed) -> Mismatch:
        config = self.config
        found = measure_mismatch(old_K, part.logp_infer_K, bound=config.mismatch_warn)
        if found.max_abs > config.mismatch_error:
            raise MismatchError(
                f"recomputed and recorded log-probabilities differ by up to {found.max_abs:.3g} nats (bound "
                f"{config.mismatch_error:g}, mean {found.mean_abs:.3g}, {found.above_share:.1%} of tokens above "
                f"{config.mismatch_warn:g}). Sampler and learner must use the same weights, temperature and ids, and "
                "sampling must not truncate (top_p 1, top_k 0, min_p 0)"
            )
        merged = seen.merge(found)
        if found.max_abs > config.mismatch_warn >= seen.max_abs:
            log.warning("sampler and learner log-probabilities differ by up to %.3g nats", found.max_abs)
        return merged

    def _clip(self) -> float:
        """Scales the gradients down where they are too long and returns their norm.

        Raises:
            TrainingError: the norm is not finite.
        """
        grads = [p.grad for p in self.stepper.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        length = float(norm)
        if not isfinite(length):
            raise TrainingError(f"the gradient norm is {length!r}; no weight was changed. Lower the learning rate or use fp32")
        limit = self.config.max_grad_norm
        if limit is not None and length > limit:
            torch.nn.utils.clip_grads_with_norm_(self.stepper.parameters, limit, norm)
        return length


def _merge(parts: Sequence[dict[str, Tensor]], combine: Callable[[list[float]], float]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: combine([float(part[name]) for part in parts if name in part]) for name in names}


def _summary(results: Sequence[StepResult], batch: Batch, *, computed: int, seconds: float) -> UpdateMetrics:
    advantages = [a for s in batch.segments for a, m in zip(s.advantages, s.mask, strict=True) if m]
    mean = sum(advantages) / max(len(advantages), 1)
    spread = (sum((a - mean) ** 2 for a in advantages) / max(len(advantages), 1)) ** 0.5
    seen = NO_MISMATCH
    for result in results:
        seen = seen.merge(result.mismatch)
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
        seconds=seconds,
        shares=shares,
    )
