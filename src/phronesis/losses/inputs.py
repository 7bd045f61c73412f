"""What a loss reads and what it returns. A loss is a pure function `LossInputs -> LossOutput` of flat tensors.

Shapes: N tokens, S sequences (episodes). Four streams of log-probabilities exist: `infer` (the sampler, when it sampled),
`old` (the learner, at the start of the update), `theta` (the learner now, with gradient) and, for some losses, a frozen
reference. The rule this module keeps: positions outside the mask are replaced before any arithmetic, so NaN and infinity
there reach neither the loss nor the gradient; and every denominator is the whole step's, so micro-batches add up.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to plus or minus this before `exp`."""


class Totals(NamedTuple):
    """Denominators of the whole step, over all its micro-batches. Sequences without a trained token are not counted."""

    tokens: int
    """Trained tokens of the step."""
    sequences: int
    """Sequences of the step with at least one trained token."""
    tokens_S: Tensor
    """`[S]` trained tokens of each sequence, indexed by `LossInputs.sequence_N`."""


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
        )


class LossOutput(NamedTuple):
    """A loss and what it measured. Micro-batches combine by adding `loss` and `sums` and taking the larger of `maxima`."""

    loss: Tensor
    """Scalar; minimise it."""
    sums: dict[str, Tensor]
    """Scalars by name, already divided by the step's trained tokens, so that micro-batches add up to the step's mean."""
    maxima: dict[str, Tensor]
    """Scalars by name; the step's value is the largest of its parts."""


def totals_of(sequence_N: Tensor, sequences: int, mask_N: Tensor | None = None) -> Totals:
    """Denominators when these tokens are the whole step.

    Args:
        sequence_N: int64 `[N]`, each in ``[0, sequences)``.
        sequences: S, how many sequence ids exist.
        mask_N: bool `[N]`; None means all True.

    >>> totals_of(torch.tensor([0, 0, 2]), 3)[:2]
    (3, 2)
    """
    kept = sequence_N if mask_N is None else sequence_N[mask_N]
    tokens_S = torch.bincount(kept, minlength=sequences)
    return Totals(tokens=int(kept.numel()), sequences=int((tokens_S > 0).sum()), tokens_S=tokens_S)


def log_ratio(to_N: Tensor, from_N: Tensor) -> Tensor:
    """``log(to / from)`` in nats, clamped to ±`MAX_LOG_RATIO`; beyond the clamp no gradient flows.

    `log_ratio(old, infer)` is the mismatch between learner and sampler, `log_ratio(theta, old)` the policy's movement,
    `log_ratio(theta, infer)` their sum.
    """
    return (to_N - from_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def masked_sum(x_N: Tensor, mask_N: Tensor | None) -> Tensor:
    """Sum over the mask, selecting instead of multiplying, so that NaN outside it does not matter."""
    return x_N.sum() if mask_N is None else torch.where(mask_N, x_N, torch.zeros((), dtype=x_N.dtype, device=x_N.device)).sum()
