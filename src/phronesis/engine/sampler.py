"""From logits to ids: one draw per row by inverting the cumulative distribution, and what the draw was worth.

Temperature first, then top-k, then top-p on what is left, then min-p; the logprobs and entropies are those of the
distribution that is left. Sorting happens only when top-k or top-p is asked for.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FLOOR = -1e4
"""Log-probability reported for a forced id that the filters had removed."""


class Settings(NamedTuple):
    """Sampling parameters as tensors; None where no row asks for it."""

    temperature_R1: Tensor | None = None
    """float32, above 0; None: all are 1."""
    greedy_R: Tensor | None = None
    """bool: take the most likely id (ties: lowest id)."""
    top_k_R1: Tensor | None = None
    """int64, at least 1."""
    top_p_R1: Tensor | None = None
    """float32 in (0, 1]."""
    min_p_R1: Tensor | None = None
    """float32 in [0, 1)."""


class Draw(NamedTuple):
    """The outcome for each row."""

    ids_R: Tensor
    """int64."""
    logprobs_R: Tensor
    """float32 nats."""
    entropies_R: Tensor
    """float32 nats."""


def draw(logits_RV: Tensor, uniform_R: Tensor, settings: Settings, forced_R: Tensor | None = None) -> Draw:
    """Chooses one id per row.

    Args:
        logits_RV: float32.
        uniform_R: float32 in (0, 1); see `draws.uniforms`.
        settings: how.
        forced_R: int64 ids to take instead, −1 where there is none.

    Source: inverse transform sampling; the same uniform number and logits give the same id whatever the other rows are.
    """
    scaled = logits_RV if settings.temperature_R1 is None else logits_RV / settings.temperature_R1
    logp = torch.log_softmax(scaled, -1)
    kept = survivors(logp, settings)
    if kept is not None:
        left = torch.log_softmax(logp.masked_fill(~kept, -torch.inf), -1).clamp_(min=FLOOR)
        logp = torch.where(kept.all(-1, keepdim=True), logp, left)  # a row without filters must not notice its neighbours'
    probabilities = logp.exp()
    wide = logits_RV.shape[1] > 4096
    mass = probabilities.cumsum(-1, dtype=torch.float64 if wide else torch.float32)
    at = uniform_R[:, None].to(mass.dtype) * mass[:, -1:]
    ids = torch.searchsorted(mass, at, right=True).clamp_(max=logits_RV.shape[1] - 1)[:, 0]
    if settings.greedy_R is not None:
        ids = torch.where(settings.greedy_R, logits_RV.argmax(-1), ids)
    if forced_R is not None:
        ids = torch.where(forced_R >= 0, forced_R, ids)
    chosen = logp.gather(1, ids[:, None])[:, 0]
    return Draw(ids, chosen, probabilities.mul_(logp).sum(-1).neg_())


def survivors(logp: Tensor, settings: Settings) -> Tensor | None:
    """Which ids survive the filters `[R, V]`, at least one a row; None when no row has a filter."""
    kept: Tensor | None = None
    if settings.min_p_R1 is not None:
        kept = logp >= logp.amax(-1, keepdim=True) + settings.min_p_R1.log()
    if settings.top_k_R1 is None and settings.top_p_R1 is None:
        return kept
    ordered, order = torch.sort(logp, dim=-1, descending=True, stable=True)
    stays = torch.ones_like(logp, dtype=torch.bool)
    p = ordered.exp()
    mass = p.cumsum(-1)
    total = torch.ones_like(mass[:, :1])
    if settings.top_k_R1 is not None:
        stays = torch.arange(logp.shape[1], device=logp.device) < settings.top_k_R1
        total = torch.where(
            settings.top_k_R1 < logp.shape[1], mass.gather(1, settings.top_k_R1.clamp(max=logp.shape[1]) - 1), total
        )
    if settings.top_p_R1 is not None:
        stays = stays & ((mass - p < settings.top_p_R1 * total) | (settings.top_p_R1 >= 1))
        stays[:, 0] = True
    chosen = torch.zeros_like(stays).scatter_(1, order, stays)
    return chosen if kept is None else kept & chosen
