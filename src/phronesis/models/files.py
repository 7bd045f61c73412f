"""Files of a checkpoint directory: JSON, safetensors in one file or in shards with an index, and what else belongs to a model.

The rule this module keeps: a file that is missing, torn or not what its name says is an error that names the file and says
what to do; a reader of a directory that is being written sees whole files only.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from phronesis.errors import CheckpointError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"

COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""Files beside the weights that belong to a model: its tokenizer, its chat template and how it is meant to be sampled."""

_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of numbers a checkpoint may hold, as safetensors names them."""


class Header(NamedTuple):
    """What a file says of a tensor without its numbers."""

    name: str
    shape: tuple[int, ...]
    kind: str
    """As safetensors names it, e.g. ``BF16``."""


class _Slice(Protocol):
    def get_shape(self) -> list[int]: ...

    def get_dtype(self) -> str: ...


class _Opened(Protocol):
    """What is used of safetensors' reader, which has no types."""

    def __enter__(self) -> _Opened: ...

    def __exit__(self, *error: object) -> None: ...

    def keys(self) -> list[str]: ...

    def get_tensor(self, name: str) -> Tensor: ...

    def get_slice(self, name: str) -> _Slice: ...


def read_json(file: Path) -> dict[str, object]:
    """The object in a JSON file.

    Raises:
        CheckpointError: missing, unreadable or no object.
    """
    try:
        fields: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; give a directory written by save_pretrained") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); copy or save the checkpoint again") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{file} must hold a JSON object, got {type(fields).__name__}; copy or save the checkpoint again")
    return cast("dict[str, object]", fields)


def write_json(file: Path, fields: Mapping[str, object]) -> None:
    """Writes an object as people like to read it."""
    file.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a directory: the whole one, or those its index names.

    Raises:
        CheckpointError: there is neither.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        return [folder / name for name in _shards(folder)]
    found = sorted(p.name for p in folder.iterdir())
    pickled = any(name.endswith(".bin") for name in found)
    advice = (
        "it holds pickled weights; load it with transformers and save_pretrained" if pickled else "save it with safetensors"
    )
    raise CheckpointError(f"{folder} has neither {WEIGHTS!r} nor {INDEX!r} (found {found[:8]!r}); {advice}")


def read_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and numbers of a safetensors file, one tensor at a time.

    Raises:
        CheckpointError: missing, corrupt or truncated; or a type of number that is no float, as in quantised checkpoints.
    """
    with _opened(file) as opened:
        for name in sorted(opened.keys()):
            try:
                value = opened.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise _torn(file, error) from error
            if value.dtype not in _TYPES.values():
                raise CheckpointError(
                    f"{file}: tensor {name!r} is {value.dtype}; quantised weights are not supported, use the checkpoint in "
                    "bfloat16, float16 or float32"
                )
            yield name, value


def read_headers(file: Path) -> list[Header]:
    """Names, shapes and types of a safetensors file, without reading its numbers.

    Raises:
        CheckpointError: missing, corrupt or truncated.
    """
    with _opened(file) as opened:
        parts = [(name, opened.get_slice(name)) for name in sorted(opened.keys())]
        return [Header(name, tuple(part.get_shape()), part.get_dtype()) for name, part in parts]


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], fields: Mapping[str, object], shard_bytes: int | None) -> None:
    """Writes weights and config, each file beside its place and renamed into it, and removes weights of an earlier save.

    Args:
        folder: made if missing.
        tensors: by name, contiguous, on the CPU.
        fields: of the config.
        shard_bytes: largest size of a file, tensors larger than it excepted; None means one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = set(_shards(folder)) if (folder / INDEX).exists() else set[str]()
    before |= {name for name in (WEIGHTS, INDEX) if (folder / name).exists()}
    parts = _parts(tensors, shard_bytes)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        draft = Path(temporary)
        for name, part in parts.items():
            save_file(part, draft / name, metadata={"format": "pt"})
        if len(parts) > 1:
            places = {tensor: name for name, part in parts.items() for tensor in part}
            total = sum(t.nbytes for t in tensors.values())
            write_json(draft / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
        write_json(draft / CONFIG, fields)
        written = sorted(
            draft.iterdir(), key=lambda p: (p.name in (INDEX, CONFIG), p.name)
        )  # nothing is named before it is there
        names = {p.name for p in written}
        for file in written:
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
            file.replace(folder / file.name)
    for name in before - names:
        (folder / name).unlink(missing_ok=True)


def carry(source: Path, target: Path) -> list[str]:
    """Copies a model's `COMPANIONS` byte for byte into an existing folder; those that `source` lacks are left out.

    Returns:
        Names of the files copied.
    """
    found = [name for name in COMPANIONS if (source / name).is_file()]
    for name in found:
        shutil.copyfile(source / name, target / name)
    return found


def _parts(tensors: Mapping[str, Tensor], limit: int | None) -> dict[str, dict[str, Tensor]]:
    """Tensors by file, in their order.

    Of tensors of 4, 4 and 4 bytes with a limit of 8, two files hold two and one.
    """
    groups: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, value in tensors.items():
        if limit is not None and groups[-1] and used + value.nbytes > limit:
            groups.append({})
            used = 0
        groups[-1][name] = value
        used += value.nbytes
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def _shards(folder: Path) -> list[str]:
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{folder / INDEX} has no 'weight_map'; copy or save the checkpoint again")
    names = sorted({str(v) for v in cast("dict[str, object]", shards).values()})
    if any(Path(n).name != n for n in names):
        raise CheckpointError(f"{folder / INDEX} names files outside its directory: {names!r}")
    return names


def _opened(file: Path) -> _Opened:
    try:
        return cast("_Opened", safe_open(file, framework="pt"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; the index names it: copy the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise _torn(file, error) from error


def _torn(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file} is corrupt or truncated ({error}); copy or save the checkpoint again")
