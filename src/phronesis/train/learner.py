"""The learner: turns a batch into new weights.

One update scores the trained tokens, checks them against what the sampler recorded, evaluates the loss and steps the
optimiser. The rule this module keeps: a loss, gradient or log-probability that cannot be right stops training before any
weight changes. The first pass over a batch that is one optimiser step scores it once: the scores are both `theta` and `old`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from math import isfinite
from time import perf_counter
from typing import Any, Literal, Protocol

import torch
from msgspec import Struct
from torch import Tensor

from phronesis.errors import ConfigError, MismatchError, TrainingError
from phronesis.losses import (
    DFTLoss,
    Loss,
    LossConfig,
    LossInputs,
    LossOutput,
    ReadsDistributions,
    SupervisedLoss,
    measure_mismatch,
)
from phronesis.models.causal import LanguageModel
from phronesis.models.lora import Adapters
from phronesis.records import Batch
from phronesis.seeding import rng, stream
from phronesis.train.control import Controller
from phronesis.train.optimizer import AdamWConfig, Constant, OptimizerConfig, Schedule, Stepper
from phronesis.train.packed import Packed, pack
from phronesis.train.pulls import Whole, evaluate_whole, needs_whole
from phronesis.train.results import StepResult, Tally, UpdateMetrics, summary
from phronesis.train.scoring import Entropy, Precision, Scores, Teaching, score
from phronesis.train.splitting import minibatches, split
from phronesis.train.step_size import lr_factor, moved, sequence_weights
from phronesis.train.variance import centred

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


class Teaches(Protocol):
    """Says what predicts each trained token in its eyes."""

    @property
    def decoder(self) -> LanguageModel:
        """Reads its states out; must not change before the update ends."""
        ...

    def states(self, batch: Batch, packed: Packed) -> Tensor:
        """`[K, D]` of a part of a step, without gradient.

        Args:
            batch: the part.
            packed: the same as tensors.
        """
        ...


class Learner:
    """A decoder, an optimiser and how to use them. The weights are changed in place, so an engine that holds the same
    decoder sees them at once (tell it with `Versioned.advance`)."""

    def __init__(
        self, decoder: LanguageModel, config: LearnerConfig, *, reference: bool = False, adapters: Adapters | None = None
    ):
        """Begins with the decoder as it is.

        Args:
            decoder: its weights are changed in place.
            config: how.
            reference: keep a frozen copy of the weights as they are now, also where the loss has no divergence from it.
            adapters: over the same decoder; they alone are trained. None trains all weights.

        Raises:
            ConfigError: the weights are not float32.
        """
        if decoder.dtype != torch.float32:
            raise ConfigError(f"the weights are {decoder.dtype}, training needs float32; use precision bf16 for bf16 products")
        self.decoder, self.config, self.adapters = decoder, config, adapters
        trained = decoder if adapters is None else adapters
        self.stepper = Stepper(trained.named_parameters(), config.optimizer, config.schedule)
        self.updates = 0
        self._loss = config.loss.build()
        self._entropy: Entropy = "gradient" if config.loss.entropy_gradient else "value" if config.entropy else "no"
        self.controller = Controller(config.loss)
        self.reference: LanguageModel | None = None
        if reference or config.loss.kl is not None:
            self.reference = deepcopy(decoder).requires_grad_(False)
        self.average: LanguageModel | None = None
        if config.average is not None:
            if adapters is not None:
                raise ConfigError(
                    "a running average of weights that adapters leave alone never moves; set learner.average=none"
                )
            self.average = deepcopy(decoder).requires_grad_(False)
        self._base = _copied(decoder) if config.restart else None
        self._device = self.stepper.parameters[0].device
        self._abandoned = False

    def abandon(self) -> None:
        """Ends an update that goes on in another thread at its next micro-batch, with TrainingError, because nobody wants what
        comes of it any more. The weights may be between two of its steps; the learner is of no further use."""
        self._abandoned = True

    def update(self, batch: Batch, teacher: Teaches | None = None) -> UpdateMetrics:
        """Learns from a batch. An empty batch changes nothing and gives metrics with `steps` 0.

        Args:
            batch: what to learn from.
            teacher: for an objective over whole distributions; asked once, before the first step.

        Raises:
            MismatchError: a token's recomputed log-probability is further from the recorded one than `mismatch_error`.
            TrainingError: a loss or gradient is not finite. In both cases the failing step changed no weight.
        """
        began = perf_counter()
        config = self.config
        results: list[StepResult] = []
        computed = 0
        if batch.trained_tokens:
            cut = self._plan(batch)
            plans = [[pack(part, self._device) for part in step] for step in cut]
            told: list[list[Teaching | None]] = [[None] * len(parts) for parts in plans]
            if teacher is not None:
                told = [self._told(teacher, *step) for step in zip(cut, plans, strict=True)]
            olds: list[list[Tensor | None]] = [[None] * len(parts) for parts in plans]
            if config.old == "learner" and (len(plans) > 1 or config.restart):
                olds = [[self._logp(self.decoder, part) for part in parts] for parts in plans]
            self._begin()
            frozen = None if config.loss.kl is None else self.reference
            refs = None if frozen is None else [[self._logp(frozen, part) for part in parts] for parts in plans]
            for epoch in range(config.epochs):
                order = list(range(len(plans)))
                if epoch:
                    rng(config.seed, "epoch", self.updates, epoch).shuffle(order)
                for i in order:
                    results.append(
                        self.descend(
                            plans[i],
                            self._loss,
                            olds=olds[i],
                            refs=None if refs is None else refs[i],
                            told=told[i],
                            check=not results
                            or (epoch == 0 and config.old == "learner"),  # else updates would count as mismatch
                            keep=config.old == "learner",
                        )
                    )
                    computed += sum(p.ids_N.numel() for p in plans[i])
            self._follow()
        self.updates += 1
        return summary(results, batch, computed=computed, seconds=perf_counter() - began)

    def descend(
        self,
        parts: Sequence[Packed],
        loss: Loss,
        *,
        olds: list[Tensor | None] | None = None,
        refs: Sequence[Tensor] | None = None,
        told: Sequence[Teaching | None] | None = None,
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
            refs: per part, the reference's log-probabilities `[K]`; None means that the loss reads none.
            told: per part, what a teacher says; None means that the loss reads none.
            check: compare the scores with what the sampler recorded.
            hits: count most likely tokens.
            keep: enter this step's scores into `olds` where there are none, for later passes over the same tokens.

        Raises:
            MismatchError, TrainingError: as for `update`; no weight changed.
        """
        config = self.config
        tally = Tally()
        try:
            if config.baseline == "variance":
                parts, tally.baseline = centred(self.decoder, parts, self.stepper.parameters, precision=config.precision)
            whole = self._whole(parts, loss, olds, refs)
            for i, part in enumerate(parts):
                if self._abandoned:
                    raise TrainingError("the update was abandoned; continue from the newest checkpoint")
                scores = score(
                    self.decoder,
                    part,
                    precision=config.precision,
                    checkpointing=config.checkpointing,
                    entropy=self._entropy,
                    hits=hits,
                    teaching=None if told is None else told[i],
                )
                now, ref = scores.logp_K.detach(), None if refs is None else refs[i]
                given = None if olds is None else olds[i]
                if check:
                    self._compare(tally, now if given is None else given, part)
                if keep and olds is not None and given is None:
                    olds[i] = now
                if whole is None:
                    tally.outputs.append(_finite(loss(self._inputs(part, scores, given, ref))))
                    tally.outputs[-1].loss.backward()  # pyright: ignore[reportUnknownMemberType]
                else:
                    whole.pulls[i].apply(scores.logp_K, scores.entropy_K)
                tally.hits += 0.0 if scores.hits_K is None else float(scores.hits_K.sum())
                if config.step_size == "effective":
                    tally.moved.append(moved(now, part))
            norm = self._clip()
            lr = self._advance(parts[0], tally.moved)
            if self.adapters is not None:
                self.adapters.merge()
        finally:
            self.stepper.clear()
        if whole is not None:
            tally.outputs = [whole.output]
        result = tally.result(norm, lr)
        self.controller.observe(result.sums, parts[0].totals.sequences)
        return result

    def state(self) -> dict[str, Any]:
        """All that a checkpoint must keep besides the weights: with a reference, its weights too."""
        kept = {"updates": self.updates, "stepper": self.stepper.state(), "controller": self.controller.state()}
        if self._base is not None:
            kept["base"] = self._base
        if self.adapters is not None:
            kept["adapters"] = self.adapters.state()
        if self.average is not None:
            kept["average"] = self.average.state_dict()
        return kept if self.reference is None else {**kept, "reference": self.reference.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a `state` of a learner with the same config."""
        if (self.adapters is not None) != ("adapters" in state):
            raise ConfigError(
                "the checkpoint and the learner do not both train adapters; continue with the lora settings it had"
            )
        if self.adapters is not None:
            self.adapters.restore(state["adapters"])
        self.stepper.restore(state["stepper"])
        self.updates = int(state["updates"])
        if "controller" in state:
            self.controller.restore(state["controller"])
        if self._base is not None:
            if "base" not in state:
                raise ConfigError("the checkpoint was made without restarts; continue with the learner it was made with")
            self._base = {name: tensor.to(self._device) for name, tensor in state["base"].items()}
        if self.reference is not None:
            if "reference" not in state:
                raise ConfigError("the checkpoint was made without a reference; continue with the loss it was made with")
            self.reference.load_state_dict(state["reference"])
        if self.average is not None:
            if "average" not in state:
                raise ConfigError(
                    "the checkpoint was made without a running average; continue with the learner it was made with"
                )
            self.average.load_state_dict(state["average"])

    def _begin(self) -> None:
        """Forgets the optimiser's state, and what was learned, where the config says so."""
        if self._base is not None:
            self.decoder.load_state_dict(self._base)
            if self.adapters is not None:
                self.adapters.reset()
        if self._base is not None or self.config.reset:
            self.stepper.forget()

    def _told(self, teacher: Teaches, cut: Sequence[Batch], parts: Sequence[Packed]) -> list[Teaching | None]:
        """What the teacher says of every part of a step.

        Raises:
            ConfigError: the objective has no use for it.
        """
        objective = self.config.loss.objective
        if not isinstance(objective, ReadsDistributions):
            raise ConfigError("a teacher's distributions are for the objectives gkd and sdpo; choose one of them")
        pairs = zip(cut, parts, strict=True)
        return [Teaching(teacher.decoder, teacher.states(b, p), objective.divergence) for b, p in pairs]

    def _follow(self) -> None:
        """Moves the running average of the weights."""
        share = self.config.average
        if self.average is None or share is None:
            return
        with torch.no_grad():
            for slow, now in zip(self.average.parameters(), self.decoder.parameters(), strict=True):
                slow.lerp_(now, share)

    def _plan(self, batch: Batch) -> list[list[Batch]]:
        """Optimiser steps, each as its micro-batches."""
        config = self.config
        steps = minibatches(batch, config.minibatches, stream(config.seed, "update", self.updates))
        return [split(step, config.max_tokens) for step in steps]

    def _logp(self, decoder: LanguageModel, part: Packed) -> Tensor:
        with torch.no_grad():
            return score(decoder, part, precision=self.config.precision).logp_K

    def _inputs(self, part: Packed, scores: Scores, old: Tensor | None, ref: Tensor | None) -> LossInputs:
        """What the loss reads; without `old` the ratio refers to the scores themselves or to the recorded ones."""
        if old is None:
            old = part.logp_infer_K if self.config.old == "sampler" else scores.logp_K.detach()
        return part.inputs(
            scores.logp_K,
            old,
            entropy_K=scores.entropy_K,
            logp_ref_K=ref,
            coefficients=self.controller.coefficients,
            divergence_K=scores.divergence_K,
            version=self.updates,
        )

    def _whole(
        self, parts: Sequence[Packed], loss: Loss, olds: list[Tensor | None] | None, refs: Sequence[Tensor] | None
    ) -> Whole | None:
        """The loss of all parts at once where they do not add up; None where they do."""
        if not needs_whole(self.config.loss.scope, parts):
            return None
        inputs: list[LossInputs] = []
        for i, part in enumerate(parts):
            with torch.no_grad():
                entropy: Entropy = "no" if self._entropy == "no" else "value"
                scores = score(self.decoder, part, precision=self.config.precision, entropy=entropy)
            inputs.append(self._inputs(part, scores, None if olds is None else olds[i], None if refs is None else refs[i]))
        whole = evaluate_whole(loss, inputs)
        _finite(whole.output)
        return whole

    def _advance(self, part: Packed, log_ratios: Sequence[Tensor]) -> float:
        """Steps the optimiser; the learning rate used. With `log_ratios`, it is scaled to the effective number of sequences."""
        if not log_ratios:
            lr = self.stepper.lr
            self.stepper.step()
            return lr
        log_S = torch.stack(list(log_ratios)).sum(0)[part.totals.tokens_S > 0]
        factor = float(lr_factor(sequence_weights(log_S)))
        lr = self.stepper.lr * factor
        self.stepper.step(factor)
        return lr

    def _compare(self, tally: Tally, old_K: Tensor, part: Packed) -> None:
        """Enters how far the scores are from what the sampler recorded.

        Raises:
            MismatchError: too far.
        """
        config = self.config
        fresh_K, stale_K = part.by_age_K(self.updates)
        found = measure_mismatch(old_K, part.logp_infer_K, fresh_K, bound=config.mismatch_warn)
        if found.max_abs > config.mismatch_error:
            raise MismatchError(
                f"recomputed and recorded log-probabilities differ by up to {found.max_abs:.3g} nats (bound "
                f"{config.mismatch_error:g}, mean {found.mean_abs:.3g}, {found.above_share:.1%} of tokens above "
                f"{config.mismatch_warn:g}). Sampler and learner must use the same weights, temperature and ids, and "
                "sampling must not truncate (top_p 1, top_k 0, min_p 0)"
            )
        if found.max_abs > config.mismatch_warn >= tally.mismatch.max_abs:
            log.warning("sampler and learner log-probabilities differ by up to %.3g nats", found.max_abs)
        tally.mismatch = tally.mismatch.merge(found)
        if stale_K is not None:
            tally.stale = tally.stale.merge(measure_mismatch(old_K, part.logp_infer_K, stale_K))
        tally.look(old_K, part, fresh_K)

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


def _copied(decoder: LanguageModel) -> dict[str, Tensor]:
    """The weights as they are now."""
    return {name: tensor.detach().clone() for name, tensor in decoder.state_dict().items()}


def _finite(output: LossOutput) -> LossOutput:
    value = float(output.loss.detach())
    if not isfinite(value):
        raise TrainingError(f"the loss is {value!r}; no weight was changed. Lower the learning rate or use fp32")
    return output
