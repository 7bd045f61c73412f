"""The learner: turns a batch into new weights.

One update scores the trained tokens, checks them against what the sampler recorded, evaluates the loss and steps the
optimiser. The rule this module keeps: a loss, gradient or log-probability that cannot be right stops training before any
weight changes. The first pass over a batch that is one optimiser step scores it once: the scores are both `theta` and `old`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import isfinite
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor

from phronesis.errors import ConfigError, MismatchError, TrainingError
from phronesis.losses import Loss, LossInputs, LossOutput, ReadsDistributions, measure_mismatch
from phronesis.models.causal import LanguageModel
from phronesis.models.lora import Adapters
from phronesis.records import Batch
from phronesis.seeding import rng, stream
from phronesis.train.control import Controller
from phronesis.train.learner_config import LearnerConfig
from phronesis.train.optimizer import Stepper
from phronesis.train.packed import Packed, pack
from phronesis.train.peers import Alone, Peers
from phronesis.train.pulls import Whole, needs_whole, share_whole
from phronesis.train.results import StepResult, Tally, UpdateMetrics, summary, together
from phronesis.train.scoring import Entropy, Scores, Teaching, score
from phronesis.train.sharded import fill, whole
from phronesis.train.splitting import minibatches
from phronesis.train.step_size import lr_factor, moved, sequence_weights
from phronesis.train.variance import centred

log = logging.getLogger(__name__)


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
        self,
        decoder: LanguageModel,
        config: LearnerConfig,
        *,
        reference: bool = False,
        adapters: Adapters | None = None,
        peers: Peers | None = None,
    ):
        """Begins with the decoder as it is.

        Args:
            decoder: its weights are changed in place.
            config: how.
            reference: keep a frozen copy of the weights as they are now, also where the loss has no divergence from it.
            adapters: over the same decoder; they alone are trained. None trains all weights.
            peers: the other processes that hold this learner; None means that there are none.

        Raises:
            ConfigError: the weights are not float32.
        """
        if decoder.dtype != torch.float32:
            raise ConfigError(f"the weights are {decoder.dtype}, training needs float32; use precision bf16 for bf16 products")
        self.decoder, self.config, self.adapters = decoder, config, adapters
        self.peers: Peers = peers or Alone()
        trained = decoder if adapters is None else adapters
        self.stepper = Stepper(trained.named_parameters(), config.optimizer, config.schedule)
        self.updates = 0
        self._loss = config.loss.build()
        self._entropy: Entropy = "gradient" if config.loss.entropy_gradient else "value" if config.entropy else "no"
        self.controller = Controller(config.loss)
        self.reference: LanguageModel | None = None
        if reference or config.loss.kl is not None:
            self.reference = self.peers.copy(decoder).requires_grad_(False)
        self.average: LanguageModel | None = None
        if config.average is not None:
            if adapters is not None:
                raise ConfigError(
                    "a running average of weights that adapters leave alone never moves; set learner.average=none"
                )
            self.average = self.peers.copy(decoder).requires_grad_(False)
        self._base = _copied(decoder) if config.restart else None
        self._device = self.stepper.parameters[0].device
        self._abandoned = False

    def close(self) -> None:
        """Nothing runs besides this process."""

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
        computed = sum(self.peers.gathered(computed))
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
            total = self._whole(parts, loss, olds, refs)
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
                if total is None:
                    output = _finite(loss(self._inputs(part, scores, given, ref)))
                    output.loss.backward()  # pyright: ignore[reportUnknownMemberType]
                    tally.outputs.append(output._replace(loss=output.loss.detach()))
                else:
                    total.pulls[i].apply(scores.logp_K, scores.entropy_K)
                tally.hits += 0.0 if scores.hits_K is None else float(scores.hits_K.sum())
                if config.step_size == "effective":
                    tally.moved.append(moved(now, part))
            self.peers.add_gradients(self.stepper.parameters)
            tally = together(self.peers.gathered(tally))
            norm = self._clip()
            lr = self._advance(parts[0], tally.moved)
            if self.adapters is not None:
                self.adapters.merge()
        finally:
            self.stepper.clear()
        if total is not None:
            tally.outputs = [total.output]
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
            fill(self.reference, state["reference"])
        if self.average is not None:
            if "average" not in state:
                raise ConfigError(
                    "the checkpoint was made without a running average; continue with the learner it was made with"
                )
            fill(self.average, state["average"])

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
        return [self.peers.parts(step, config.max_tokens) for step in steps]

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
        scope = self.config.loss.scope
        if scope == "token" or not any(self.peers.gathered(needs_whole(scope, parts, self.peers.size))):
            return None
        inputs: list[LossInputs] = []
        for i, part in enumerate(parts):
            with torch.no_grad():
                entropy: Entropy = "no" if self._entropy == "no" else "value"
                scores = score(self.decoder, part, precision=self.config.precision, entropy=entropy)
            inputs.append(self._inputs(part, scores, None if olds is None else olds[i], None if refs is None else refs[i]))
        found = share_whole(loss, inputs, self.peers)
        _finite(found.output)
        return found

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
        norm = whole(torch.nn.utils.get_total_norm(grads))
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
