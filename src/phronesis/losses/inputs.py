"""What a loss reads and what it returns. A loss is a pure function `LossInputs -> LossOutput` of flat tensors.

Shapes: N tokens, S sequences (episodes). Four streams of log-probabilities exist: `infer` (the sampler, when it sampled),
`old` (the learner, at the start of the update), `theta` (the learner now, with gradient) and, for some losses, a frozen
reference. The rule this module keeps: positions outside the mask are replaced before any arithmetic, so NaN and infinity
there reach neither the loss nor the gradient; and every denominator is the whole step's, so micro-batches add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to plus or minus this before `exp`."""

TIE = 1e-9
"""Nats (or probability): numbers this near to a bound count as equal to it. A closed interval then holds them, an open one
does not, so that rounding (1 - .8 is .19999999999999996) does not decide."""

Scope = Literal["token", "sequence", "step"]
"""What the loss of a token may depend on: itself, the other tokens of its sequence, or all tokens of the step. Micro-batches
of a loss of scope ``token`` add up however they are cut; ``sequence`` needs whole sequences, ``step`` needs all at once."""


class Totals(NamedTuple):
    """Denominators of the whole step, over all its micro-batches. Sequences without a trained token are not counted."""

    tokens: int
    """Trained tokens of the step."""
    sequences: int
    """Sequences of the step with at least one trained token."""
    tokens_S: Tensor
    """`[S]` trained tokens of each sequence, indexed by `LossInputs.sequence_N`."""
    turns: int = 0
    """Turns of the step with at least one trained token."""
    observed: int = 0
    """Observed tokens of the step, learned by cross-entropy."""


class Coefficients(NamedTuple):
    """Coefficients that a controller moves during a run."""

    kl: float | None = None
    """Of the divergence from the reference; None means as configured."""
    entropy: float | None = None
    """Of the entropy bonus; None means as configured."""


AS_CONFIGURED = Coefficients()
"""No controller says anything."""


class Versions(NamedTuple):
    """Which weights are meant by which stream, as counts of updates."""

    behaviour_N: Tensor
    """int64: those that sampled each token (`infer`)."""
    prox: int
    """Those at the start of the update (`old`)."""
    theta: int
    """Those being made (`theta`)."""


class LossInputs(NamedTuple):
    """Flat tensors over N tokens; usually only trained ones, then `mask_N` is None."""

    logp_theta_N: Tensor
    """Nats, current weights; carries the gradient."""
    logp_old_N: Tensor
    """Nats, the learner at the start of the update; may equal `logp_infer_N`. No gradient."""
    logp_infer_N: Tensor
    """Nats, as the sampler recorded them. No gradient."""
    advantages_N: Tensor
    """Credit of each token. No gradient."""
    sequence_N: Tensor
    """int64: the episode each token belongs to, an index into `Totals.tokens_S`."""
    turn_N: Tensor
    """int64: the turn of that episode."""
    totals: Totals
    """Denominators of the whole step."""
    entropy_N: Tensor | None = None
    """Nats, entropy of the current distribution; None when not computed."""
    mask_N: Tensor | None = None
    """bool: False where nothing may be read; None means all True."""
    logp_ref_N: Tensor | None = None
    """Nats, a frozen reference; None when no loss asks for it. No gradient."""
    observed_N: Tensor | None = None
    """bool: tokens of the environment, outside `mask_N`, whose `logp_theta_N` may be read; None when there are none."""
    trace_N: Tensor | None = None
    """int64: which of its episode's separate contexts (sub-traces) each token belongs to; None means all to the first."""
    coefficients: Coefficients = AS_CONFIGURED
    """What the learner's controllers say."""
    versions: Versions | None = None
    """How old the sampler's weights were; None when not noted."""
    divergence_N: Tensor | None = None
    """Nats, of the current distribution from a teacher's, as the objective measures it; carries the gradient. None when no
    objective asks for it."""

    def cleaned(self) -> LossInputs:
        """The same inputs with 0 at masked positions, where no gradient flows. Idempotent, free when there is no mask."""
        mask = self.mask_N
        if mask is None:
            return self

        def keep(x_N: Tensor) -> Tensor:
            return torch.where(mask, x_N, torch.zeros((), dtype=x_N.dtype, device=x_N.device))

        return self._replace(
            logp_theta_N=keep(self.logp_theta_N),
            logp_old_N=keep(self.logp_old_N),
            logp_infer_N=keep(self.logp_infer_N),
            advantages_N=keep(self.advantages_N),
            entropy_N=None if self.entropy_N is None else keep(self.entropy_N),
            logp_ref_N=None if self.logp_ref_N is None else keep(self.logp_ref_N),
            divergence_N=None if self.divergence_N is None else keep(self.divergence_N),
        )


class LossOutput(NamedTuple):
    """A loss and what it measured. Micro-batches combine by adding `loss` and `sums` and taking the larger of `maxima`."""

    loss: Tensor
    """Scalar; minimise it."""
    sums: dict[str, Tensor]
    """Scalars by name, already divided by the step's trained tokens, so that micro-batches add up to the step's mean."""
    maxima: dict[str, Tensor]
    """Scalars by name; the step's value is the largest of its parts."""


def totals_of(sequence_N: Tensor, sequences: int, mask_N: Tensor | None = None, turn_N: Tensor | None = None) -> Totals:
    """Denominators when these tokens are the whole step.

    Args:
        sequence_N: int64 `[N]`, each in ``[0, sequences)``.
        sequences: S, how many sequence ids exist.
        mask_N: bool `[N]`; None means all True.
        turn_N: int64 `[N]`; None means that every sequence is one turn.

    >>> totals_of(torch.tensor([0, 0, 2]), 3)[:2]
    (3, 2)
    """
    kept = sequence_N if mask_N is None else sequence_N[mask_N]
    tokens_S = torch.bincount(kept, minlength=sequences)
    live = int((tokens_S > 0).sum())
    turns = live if turn_N is None else distinct(kept, turn_N if mask_N is None else turn_N[mask_N])[0].shape[0]
    return Totals(tokens=int(kept.numel()), sequences=live, tokens_S=tokens_S, turns=turns)


def distinct(first_N: Tensor, second_N: Tensor) -> tuple[Tensor, Tensor]:
    """The different pairs of two columns of int64 (none negative): their first members `[U]`, and `[N]` which pair each is.

    [0, 0, 1] and [0, 2, 2]: [0, 0, 1] and [0, 1, 2].
    """
    width = int(second_N.max()) + 1 if second_N.numel() else 1
    found = cast("tuple[Tensor, Tensor]", torch.unique(first_N * width + second_N, return_inverse=True))  # pyright: ignore[reportUnknownMemberType]
    return torch.div(found[0], width, rounding_mode="floor"), found[1]


def log_ratio(to_N: Tensor, from_N: Tensor) -> Tensor:
    """``log(to / from)`` in nats, clamped to ±`MAX_LOG_RATIO`; beyond the clamp no gradient flows.

    `log_ratio(old, infer)` is the mismatch between learner and sampler, `log_ratio(theta, old)` the policy's movement,
    `log_ratio(theta, infer)` their sum.   Formula [ratio].
    """
    return (to_N - from_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def scope_of(part: object) -> Scope:
    """What a part of a loss depends on: its `scope`; parts without one are of scope ``token``."""
    return getattr(part, "scope", "token")


def widest(parts: Sequence[object]) -> Scope:
    """The widest scope among them; ``token`` when there are none."""
    order: tuple[Scope, ...] = ("token", "sequence", "step")
    return order[max((order.index(scope_of(p)) for p in parts), default=0)]


def join(parts: Sequence[LossInputs]) -> LossInputs:
    """Micro-batches of one step, at least one, as one; they have the same optional streams and denominators."""

    def joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
        found = [t for t in tensors if t is not None]
        return torch.cat(found) if len(found) == len(tensors) else None

    if len(parts) == 1:
        return parts[0]
    if any(p.mask_N is not None for p in parts):
        parts = [
            p if p.mask_N is not None else p._replace(mask_N=torch.ones_like(p.sequence_N, dtype=torch.bool)) for p in parts
        ]
    return parts[0]._replace(
        logp_theta_N=torch.cat([p.logp_theta_N for p in parts]),
        logp_old_N=torch.cat([p.logp_old_N for p in parts]),
        logp_infer_N=torch.cat([p.logp_infer_N for p in parts]),
        advantages_N=torch.cat([p.advantages_N for p in parts]),
        sequence_N=torch.cat([p.sequence_N for p in parts]),
        turn_N=torch.cat([p.turn_N for p in parts]),
        entropy_N=joined([p.entropy_N for p in parts]),
        mask_N=joined([p.mask_N for p in parts]),
        logp_ref_N=joined([p.logp_ref_N for p in parts]),
        observed_N=_observed(parts),
        trace_N=joined([p.trace_N for p in parts]),
        divergence_N=joined([p.divergence_N for p in parts]),
        versions=_versions(parts),
    )


def _versions(parts: Sequence[LossInputs]) -> Versions | None:
    found = [p.versions for p in parts if p.versions is not None]
    if len(found) < len(parts):
        return None
    return found[0]._replace(behaviour_N=torch.cat([v.behaviour_N for v in found]))


def _observed(parts: Sequence[LossInputs]) -> Tensor | None:
    if all(p.observed_N is None for p in parts):
        return None
    none = [torch.zeros_like(p.sequence_N, dtype=torch.bool) for p in parts]
    return torch.cat([n if p.observed_N is None else p.observed_N for p, n in zip(parts, none, strict=True)])


def masked_sum(x_N: Tensor, mask_N: Tensor | None) -> Tensor:
    """Sum over the mask, selecting instead of multiplying, so that NaN outside it does not matter."""
    return x_N.sum() if mask_N is None else torch.where(mask_N, x_N, torch.zeros((), dtype=x_N.dtype, device=x_N.device)).sum()
