"""Log-probabilities of the trained tokens of a packed batch under the current weights.

Shapes: N packed tokens, K trained tokens, D width, V vocabulary. Only positions that predict a trained token reach the
output layer, and large vocabularies go through it in slices, so memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from phronesis.losses import entropy as entropy_of
from phronesis.models.causal import LanguageModel
from phronesis.train.packed import Packed

Precision = Literal["fp32", "bf16"]
"""float32, or bfloat16 for matrix products with float32 weights and log-probabilities."""

Entropy = Literal["no", "value", "gradient"]
"""Whether to compute entropies, and whether to differentiate them."""

MAX_LOGITS = 1 << 26
"""Logits held at once; more are computed in slices and again in the backward pass."""


class Teaching(NamedTuple):
    """A teacher's states at the trained tokens of a packed batch, and how to compare its distributions with the student's.

    States are `[K, D]` and distributions `[K, V]`: only the former are kept, the latter made slice by slice.
    """

    decoder: LanguageModel
    """Reads the states out; another decoder of the same vocabulary, or the student itself."""
    hidden_KD: Tensor
    """What predicts each trained token in the teacher's eyes; no gradient."""
    divergence: Callable[[Tensor, Tensor], Tensor]
    """From the student's and the teacher's log-probabilities, both at the temperature each token was sampled with, to `[K]`."""


class Scores(NamedTuple):
    """What a forward pass says about the trained tokens."""

    logp_K: Tensor
    """Nats, at the temperature each token was sampled with; carries the gradient."""
    entropy_K: Tensor | None
    """Nats, of the same distribution. None unless asked for."""
    hits_K: Tensor | None
    """bool: the token is the most likely one. None unless asked for."""
    divergence_K: Tensor | None = None
    """Nats, from a teacher; carries the gradient. None without one."""


def score(
    decoder: LanguageModel,
    packed: Packed,
    *,
    precision: Precision = "fp32",
    checkpointing: bool = False,
    entropy: Entropy = "no",
    hits: bool = False,
    teaching: Teaching | None = None,
) -> Scores:
    """Scores the trained tokens of a packed batch.

    Args:
        decoder: the model.
        packed: what to compute.
        precision: of matrix products.
        checkpointing: keep only the layers' inputs and recompute the rest in the backward pass.
        entropy: also the exact entropy of every predicting distribution, as a value or with its gradient.
        hits: also whether each token is the most likely one.
        teaching: also the divergence from a teacher.
    """
    device = packed.ids_N.device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        hidden_ND = decoder.hidden(packed.ids_N, packed.plan, checkpointing=checkpointing)
        hidden_KD = hidden_ND.index_select(0, packed.predictors_K)
        slices: list[tuple[Tensor, ...]] = []
        rows = max(1, MAX_LOGITS // decoder.vocab_size // (1 if teaching is None else 2))
        for start in range(0, max(1, hidden_KD.shape[0]), rows):  # without trained tokens, still through the output layer
            part = slice(start, start + rows)
            temperatures = None if packed.temperatures_K is None else packed.temperatures_K[part]
            taught = None if teaching is None else teaching._replace(hidden_KD=teaching.hidden_KD[part])
            arguments = (decoder, hidden_KD[part], packed.targets_K[part], temperatures, _Wanted(entropy, hits, taught))
            if rows < hidden_KD.shape[0] and torch.is_grad_enabled():
                found = cast("tuple[Tensor, ...]", checkpoint(_read_out, *arguments, use_reentrant=False))
            else:
                found = _read_out(*arguments)
            slices.append(found)
    columns = slices[0] if len(slices) == 1 else tuple(torch.cat(column) for column in zip(*slices, strict=True))
    extra = iter(columns[1:])
    return Scores(
        columns[0],
        None if entropy == "no" else next(extra),
        next(extra) if hits else None,
        None if teaching is None else next(extra),
    )


def states(decoder: LanguageModel, packed: Packed, *, precision: Precision = "fp32") -> Tensor:
    """What predicts each trained token in the eyes of `decoder`, `[K, D]` without gradient: see `Teaching`."""
    device = packed.ids_N.device
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        return decoder.hidden(packed.ids_N, packed.plan).index_select(0, packed.predictors_K)


class _Wanted(NamedTuple):
    """What is read besides log-probabilities."""

    entropy: Entropy
    hits: bool
    teaching: Teaching | None


def _read_out(
    decoder: LanguageModel,
    hidden_KD: Tensor,
    targets_K: Tensor,
    temperatures_K: Tensor | None,
    wanted: _Wanted,
) -> tuple[Tensor, ...]:
    entropy, hits, teaching = wanted
    logits_KV = decoder.logits(hidden_KD).float()
    if temperatures_K is not None:
        logits_KV = logits_KV / temperatures_K[:, None]
    logp_KV = F.log_softmax(logits_KV, dim=-1)
    found = [-F.nll_loss(logp_KV, targets_K, reduction="none")]
    if entropy != "no":
        p_KV = logp_KV if entropy == "gradient" else logp_KV.detach()
        found.append(entropy_of(p_KV))
    if hits:
        found.append(logp_KV.detach().argmax(-1) == targets_K)
    if teaching is not None:
        with torch.no_grad():
            told_KV = teaching.decoder.logits(teaching.hidden_KD).float()
            told_KV = F.log_softmax(told_KV if temperatures_K is None else told_KV / temperatures_K[:, None], dim=-1)
        found.append(teaching.divergence(logp_KV, told_KV))
    return tuple(found)
