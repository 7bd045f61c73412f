"""Reading and writing checkpoint directories in Hugging Face's format: ``config.json`` and safetensors.

Every tensor of the file must be used and every weight of the decoder must be found; nothing is filled in silently.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from phronesis.errors import CheckpointError
from phronesis.models.config import DecoderConfig
from phronesis.models.decoder import Block, Decoder
from phronesis.models.family import from_fields, to_fields

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"


class _Slot(NamedTuple):
    """Where one tensor of the file lies inside the decoder's fused weights."""

    name: str
    target: Tensor


class _Opened(Protocol):
    """What is used of safetensors' reader, which has no types."""

    def __enter__(self) -> _Opened: ...

    def __exit__(self, *error: object) -> None: ...

    def keys(self) -> list[str]: ...

    def get_tensor(self, name: str) -> Tensor: ...


def load(path: str | Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """Loads a Qwen2, Qwen3 or Llama checkpoint written by `save` or by ``save_pretrained``.

    Args:
        path: a directory with ``config.json`` and ``model.safetensors`` (or an index of several files).
        dtype: type of the loaded weights, float32 or bfloat16.

    Raises:
        CheckpointError: a file is missing, unreadable or truncated, the architecture is not supported, or a tensor is
            missing, unexpected or of the wrong shape. The message says which and what to do.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint directory at {str(folder)!r}; give the directory that holds {CONFIG!r}")
    config = from_fields(_read_json(folder / CONFIG), str(folder / CONFIG))
    decoder = Decoder(config, dtype)
    waiting = {slot.name: slot.target for slot in _slots(decoder)}
    unexpected: list[str] = []
    for file in _weight_files(folder):
        for name, value in _tensors(file):
            target = waiting.pop(name, None)
            if target is None:
                if not (name == "lm_head.weight" and config.tied) and not name.endswith("rotary_emb.inv_freq"):
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
    return decoder


def save(decoder: Decoder, path: str | Path) -> None:
    """Writes an ordinary Hugging Face directory that ``AutoModelForCausalLM.from_pretrained`` loads.

    Each file is written beside its place and renamed into it, so a reader never sees half a file. Other files of the
    directory (a tokenizer) stay.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {slot.name: slot.target.detach().cpu().contiguous() for slot in _slots(decoder)}
    fields = to_fields(decoder.config, str(decoder.dtype).removeprefix("torch."))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        weights, config = Path(temporary) / WEIGHTS, Path(temporary) / CONFIG
        save_file(tensors, weights, metadata={"format": "pt"})
        config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
        for file in (weights, config):
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
            file.replace(folder / file.name)
    if (folder / INDEX).exists():
        shards = set(_shards(folder))
        (folder / INDEX).unlink()
        for name in shards - {WEIGHTS}:
            (folder / name).unlink(missing_ok=True)


def read_config(path: str | Path) -> DecoderConfig:
    """The config of a checkpoint directory, without reading weights.

    Raises:
        CheckpointError: as `load`.
    """
    file = Path(path) / CONFIG
    return from_fields(_read_json(file), str(file))


def _slots(decoder: Decoder) -> Iterator[_Slot]:
    """Every tensor of the file and the part of the decoder it fills; parts are views, so writing fills the decoder."""
    c = decoder.config
    yield _Slot("model.embed_tokens.weight", decoder.embed.detach())
    yield _Slot("model.norm.weight", decoder.final_norm.detach())
    if decoder.untied_head is not None:
        yield _Slot("lm_head.weight", decoder.untied_head.detach())
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    parts = {"q": slice(q), "k": slice(q, q + kv), "v": slice(q + kv, q + 2 * kv)}
    for i, module in enumerate(decoder.blocks):
        block = cast("Block", module)
        whole = {
            "input_layernorm.weight": block.attn_norm,
            "post_attention_layernorm.weight": block.mlp_norm,
            "self_attn.q_norm.weight": block.q_norm,
            "self_attn.k_norm.weight": block.k_norm,
            "self_attn.o_proj.weight": block.o,
            "self_attn.o_proj.bias": block.o_bias,
            "mlp.down_proj.weight": block.down,
            "mlp.down_proj.bias": block.down_bias,
        }
        for name, weight in whole.items():
            if weight is not None:
                yield _Slot(f"model.layers.{i}.{name}", weight.detach())
        for end, qkv, gate_up in (("weight", block.qkv, block.gate_up), ("bias", block.qkv_bias, block.gate_up_bias)):
            if qkv is not None:
                for part, rows in parts.items():
                    yield _Slot(f"model.layers.{i}.self_attn.{part}_proj.{end}", qkv.detach()[rows])
            if gate_up is not None:
                for part, target in zip(("gate", "up"), gate_up.detach().chunk(2), strict=True):
                    yield _Slot(f"model.layers.{i}.mlp.{part}_proj.{end}", target)


def _read_json(file: Path) -> dict[str, object]:
    try:
        fields: Any = json.loads(file.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; give a directory written by save_pretrained") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); copy or save the checkpoint again") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{file} must hold a JSON object, got {type(fields).__name__}; copy or save the checkpoint again")
    return cast("dict[str, object]", fields)


def _shards(folder: Path) -> list[str]:
    shards = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{folder / INDEX} has no 'weight_map'; copy or save the checkpoint again")
    names = sorted({str(v) for v in cast("dict[str, object]", shards).values()})
    if any(Path(n).name != n for n in names):
        raise CheckpointError(f"{folder / INDEX} names files outside its directory: {names!r}")
    return names


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        return [folder / name for name in _shards(folder)]
    found = sorted(p.name for p in folder.iterdir())
    raise CheckpointError(f"{folder} has neither {WEIGHTS!r} nor {INDEX!r} (found {found[:8]!r}); save it with safetensors")


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with cast("_Opened", safe_open(file, framework="pt")) as opened:
            for name in sorted(opened.keys()):
                yield name, opened.get_tensor(name)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; the index names it: copy the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is corrupt or truncated ({error}); copy or save the checkpoint again") from error
