"""Opening and saving a model without knowing which path computes it."""

from __future__ import annotations

from pathlib import Path

import torch

from phronesis.errors import UnsupportedModel
from phronesis.models import checkpoint, generic
from phronesis.models.causal import LanguageModel
from phronesis.models.decoder import Decoder
from phronesis.models.generic import SUPPORTED, GenericModel


def open_model(path: str | Path, through: bool | None = None, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The model in a checkpoint directory, computed by the compact decoder where that is possible.

    Args:
        path: a directory with ``config.json`` and safetensors.
        through: go through transformers (the generic path): None where the compact decoder cannot, True always, False never.
        dtype: type of the loaded weights.

    Raises:
        UnsupportedModel: the architecture cannot be computed in the way asked for; names those that can.
        CheckpointError: a file is missing or damaged.
    """
    if through:
        return generic.load(path, dtype, "model.generic = true")
    try:
        return checkpoint.load(path, dtype)
    except UnsupportedModel as reason:
        if through is False:
            raise UnsupportedModel(f"{reason}. Leave model.generic out to run it through transformers, slower") from reason
        return generic.load(path, dtype, str(reason))


def save_model(
    model: LanguageModel, path: str | Path, *, dtype: torch.dtype | None = None, shard_bytes: int | None = None
) -> None:
    """Writes an ordinary Hugging Face directory. Arguments as for `checkpoint.save`."""
    if isinstance(model, Decoder):
        checkpoint.save(model, path, dtype=dtype, shard_bytes=shard_bytes)
    elif isinstance(model, GenericModel):
        generic.save(model, path, dtype=dtype, shard_bytes=shard_bytes)
    else:
        raise UnsupportedModel(f"{type(model).__name__} cannot be saved; {SUPPORTED}")
