"""Reading and writing decoders as checkpoint directories in Hugging Face's format: ``config.json`` and safetensors.

Every tensor of the files must be used and every weight of the decoder must be found; nothing is filled in silently.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from phronesis.errors import CheckpointError, ConfigError
from phronesis.models.config import DecoderConfig
from phronesis.models.decoder import Decoder
from phronesis.models.family import from_fields, to_fields
from phronesis.models.files import CONFIG, read_json, read_tensors, weight_files, write_tensors
from phronesis.models.slots import slots

_HEAD = "lm_head.weight"
_SAVED = (torch.float32, torch.bfloat16, torch.float16)


def load(path: str | Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """Loads a Qwen2, Qwen3 or Llama checkpoint written by `save` or by ``save_pretrained``.

    Args:
        path: a directory with ``config.json`` and ``model.safetensors`` (or an index of several files).
        dtype: type of the loaded weights, whatever the files hold: float32, bfloat16 or float16.

    Raises:
        UnsupportedModel: another architecture, or a variant of these that is not computed exactly.
        CheckpointError: a file is missing, unreadable or truncated, or a tensor is missing, unexpected or of the wrong
            shape or type. The message says which and what to do.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint directory at {str(folder)!r}; give the directory that holds {CONFIG!r}")
    config = from_fields(read_json(folder / CONFIG), str(folder / CONFIG))
    decoder = Decoder(config, dtype)
    waiting = {slot.name: slot.view for slot in slots(decoder)}
    unexpected: list[str] = []
    head: Tensor | None = None
    for file in weight_files(folder):
        for name, value in read_tensors(file):
            target = waiting.pop(name, None)
            if target is None:
                if name == _HEAD and config.tied:
                    head = value.to(dtype)
                elif not name.endswith("rotary_emb.inv_freq"):
                    unexpected.append(name)
                continue
            if target.shape != value.shape:
                raise CheckpointError(
                    f"{file}: tensor {name!r} has shape {tuple(value.shape)!r}, {CONFIG} implies {tuple(target.shape)!r}; "
                    "config and weights belong to different models"
                )
            target.copy_(value)
    if waiting or unexpected:
        raise CheckpointError(
            f"{folder}: {CONFIG} and weights disagree; missing tensors {sorted(waiting)[:5]!r} ({len(waiting)}), "
            f"unexpected tensors {sorted(unexpected)[:5]!r} ({len(unexpected)}); save the model again with save_pretrained"
        )
    if head is not None and not torch.equal(head, decoder.embed):
        raise CheckpointError(
            f"{folder}: {CONFIG} says that the output head is the embedding, the weights hold another {_HEAD!r}; set "
            "tie_word_embeddings to false there, or remove the tensor"
        )
    return decoder


def save(decoder: Decoder, path: str | Path, *, dtype: torch.dtype | None = None, shard_bytes: int | None = None) -> None:
    """Writes an ordinary Hugging Face directory that ``AutoModelForCausalLM.from_pretrained`` and vLLM load.

    Each file is written beside its place and renamed into it, so a reader never sees half a file. Other files of the
    directory (a tokenizer, see `phronesis.models.files.carry`) stay; weights of an earlier save go.

    Args:
        decoder: what to save.
        path: directory, made if missing.
        dtype: type of the saved weights: float32, bfloat16 or float16; None keeps the decoder's own. Weights that were loaded
            from a narrower type and not changed are saved in it bit for bit.
        shard_bytes: largest size of a file, single tensors larger than it excepted; None means one file.

    Raises:
        ConfigError: another type, or a size below 1.
    """
    kind = dtype or decoder.dtype
    if kind not in _SAVED or (shard_bytes is not None and shard_bytes < 1):
        raise ConfigError(f"weights are saved as one of {_SAVED!r} in files of at least 1 byte, got {kind!r}, {shard_bytes!r}")
    tensors = {slot.name: slot.view.cpu().to(kind).contiguous() for slot in slots(decoder)}
    fields = to_fields(decoder.config, str(kind).removeprefix("torch."))
    write_tensors(Path(path), tensors, fields, shard_bytes)


def read_config(path: str | Path) -> DecoderConfig:
    """The config of a checkpoint directory, without reading weights.

    Raises:
        CheckpointError: as `load`.
    """
    file = Path(path) / CONFIG
    return from_fields(read_json(file), str(file))
