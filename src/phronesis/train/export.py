"""Weights out of a run: a model folder for transformers and vLLM, or an adapter folder for peft beside its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from phronesis.errors import CheckpointError, ConfigError
from phronesis.models import lora, peft_files
from phronesis.models.causal import LanguageModel
from phronesis.models.decoder import Decoder
from phronesis.models.files import carry
from phronesis.models.opening import open_model, save_model
from phronesis.store.disk import make_folder
from phronesis.train.checkpoint import LEARNER

ADAPTER, BASE = "adapter", "base"
"""Sub-folders of what is exported unmerged."""


class Form(NamedTuple):
    """How weights are written."""

    dtype: torch.dtype | None = None
    """Type of the saved weights; None keeps float32, in which they are loaded."""
    shard_bytes: int | None = None
    """Largest size of a file; None means one file."""


AS_LOADED = Form()


class Exported(NamedTuple):
    """What an export wrote."""

    model: Path | None
    """Folder of the whole model: merged, or the base of the adapter. None where the base is somebody else's folder."""
    adapter: Path | None
    """Folder for peft; None where the model is whole."""
    base: str | None
    """Where the adapter's base model is; None where there is no adapter."""


def export(weights: Path, out: Path, *, merge: bool, base: str | None = None, form: Form = AS_LOADED) -> Exported:
    """Writes the model of a checkpoint, or of any model folder, to a new folder.

    Args:
        weights: a run's checkpoint, or a folder that ``save_pretrained`` wrote.
        out: new or empty.
        merge: one model with its adapters in it; without it, adapters go to ``out/adapter`` and what they are for to
            ``out/base``. A model without adapters is one in any case.
        base: the adapters' base where it is a folder of its own, which then is not written again.
        form: type and size of the files.

    Raises:
        ConfigError: `out` holds something.
        CheckpointError: the weights cannot be read.
    """
    _new(out)
    model = open_model(weights)
    state = _adapters(weights)
    if state is None or merge:
        return Exported(_write(model, weights, out, form), None, None)
    if not isinstance(model, Decoder):
        raise CheckpointError(f"{weights} has adapters on a model they do not fit; export it with --merge")
    target, name = out / ADAPTER, base
    if base is None:
        lora.unmerge(model, state)
        name = str(_write(model, weights, out / BASE, form).resolve())
    peft_files.save(lora.adapter_of(state), target, name)
    return Exported(out / BASE if base is None else None, target, name)


def merge_into(model: Path, adapter: Path, out: Path, form: Form = AS_LOADED) -> Exported:
    """Writes a model folder with a peft adapter merged into it. `Form` and errors as for `export`."""
    _new(out)
    opened = open_model(model, False)
    assert isinstance(opened, Decoder)
    lora.merge(opened, peft_files.load(adapter))
    return Exported(_write(opened, model, out, form), None, None)


def _new(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} is not empty; name a new folder, or remove it")


def _write(model: LanguageModel, source: Path, out: Path, form: Form) -> Path:
    make_folder(out)
    save_model(model, out, dtype=form.dtype, shard_bytes=form.shard_bytes)
    carry(source, out)
    return out


def _adapters(weights: Path) -> dict[str, Any] | None:
    """The adapters' state in a checkpoint; None where there is none."""
    file = weights / LEARNER
    if not file.is_file():
        return None
    try:
        learner = cast("dict[str, Any]", torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # how torch reports a damaged file differs from version to version
        raise CheckpointError(f"{file} cannot be read ({type(error).__name__}); choose another step with --step") from error
    return learner.get("adapters")
