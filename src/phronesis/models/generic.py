"""Any causal language model of transformers behind the library's own interface: correct first, slower by far.

The model's own forward pass gives the logits, so caps, scales and positions are its own. A packed forest is computed path by
path from root to leaf: shared prefixes are computed once for every path, and rows of a call are padded on the right, which
changes nothing because nothing looks ahead. That the model indeed never looks ahead is tested when it is opened.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from phronesis.errors import CheckpointError, UnsupportedModel, one_line
from phronesis.models.causal import LanguageModel
from phronesis.models.family import CLASSES
from phronesis.models.files import CONFIG, read_json, weight_files
from phronesis.models.layout import AttentionPlan

UNBOUNDED = 1 << 17
"""Positions assumed of a model whose config names no limit (ALiBi, recurrent models)."""
WASTE = 0.25
"""Share of padding a call may have before the next one is opened."""
PROBE = 12
"""Tokens a model is tested with."""

_ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-6}

SUPPORTED = (
    f"computed directly: {', '.join(CLASSES)}; any other causal language model of transformers through the generic path, "
    "unless model.generic is false"
)
"""What can be opened, for messages."""


class GenericModel(LanguageModel):
    """A causal language model of transformers, in evaluation mode: dropout never acts."""

    def __init__(self, model: nn.Module, note: str = ""):
        """Wraps a model that transformers made.

        Args:
            model: an instance of an ``...ForCausalLM`` class.
            note: why this path is taken.

        Raises:
            UnsupportedModel: it is no causal language model.
        """
        super().__init__()
        self.model = model.eval()
        self.note = note
        config = cast("Any", model).config
        text = config.get_text_config()
        self.kind = str(config.model_type)
        """Architecture, as transformers calls it."""
        limit = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
        self._positions = int(limit) if limit else UNBOUNDED
        self._trims = "logits_to_keep" in inspect.signature(model.forward).parameters
        if config.is_encoder_decoder:
            raise UnsupportedModel(f"{self.kind!r} has an encoder and is no causal language model; {SUPPORTED}")
        self._vocabulary = self._proved(int(text.vocab_size))

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._vocabulary

    @property
    def max_positions(self) -> int:
        """Longest sequence the model was made for, in tokens."""
        return self._positions

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    def run(self, ids_BL: Tensor, cache: object | None = None, last: bool = False) -> Tensor:
        """Logits `[B, L, V]`, or `[B, 1, V]` for the last token alone.

        Args:
            ids_BL: rows of one length; none of them sees another.
            cache: a cache of transformers, which the new tokens continue and are entered into; None for none.
            last: only the last token's logits are wanted.
        """
        arguments: dict[str, object] = {"input_ids": ids_BL, "use_cache": cache is not None}
        if cache is not None:
            arguments["past_key_values"] = cache
        if last and self._trims:
            arguments["logits_to_keep"] = 1
        logits = self.model(**arguments).logits
        return logits[:, -1:] if last else logits

    def hidden(self, ids_N: Tensor, plan: AttentionPlan, checkpointing: bool = False) -> Tensor:
        """Logits of packed tokens `[N, V]`, since only the model's own head knows how they are made.

        Raises:
            UnsupportedModel: a path is longer than the model's positions.
        """
        place_N, seen = np.empty(plan.tokens, np.int64), np.zeros(plan.tokens, np.bool_)
        found: list[Tensor] = []
        for group in _groups(sorted(plan.paths, key=len, reverse=True)):
            width, take, total = len(group[0]), list[NDArray[np.int64]](), int(seen.sum())
            for row, path in enumerate(group):
                new = np.flatnonzero(~seen[path])  # what several paths share is read off the first of them
                place_N[path[new]] = total + sum(map(len, take)) + np.arange(len(new))
                seen[path] = True
                take.append(row * width + new)
            index = np.stack([np.pad(path, (0, width - len(path)), mode="edge") for path in group])
            rows, kept = ids_N[torch.as_tensor(index, device=ids_N.device)], _moved(np.concatenate(take), ids_N)
            if checkpointing and torch.is_grad_enabled():
                found.append(cast("Tensor", checkpoint(self._read, rows, kept, use_reentrant=False)))
            else:
                found.append(self._read(rows, kept))
        return torch.cat(found).index_select(0, _moved(place_N, ids_N))

    def logits(self, hidden_KS: Tensor) -> Tensor:
        """The same, in fp32: `hidden` has them already."""
        return hidden_KS.float()

    def _read(self, ids_BL: Tensor, take: Tensor) -> Tensor:
        return self.run(ids_BL).flatten(0, 1).index_select(0, take)

    @torch.no_grad()
    def _proved(self, vocabulary: int) -> int:
        """The size of the output, after a look at whether tokens change what comes before them.

        Raises:
            UnsupportedModel: they do, or the model cannot be run on ids alone.
        """
        ids = torch.arange(PROBE, device=self.device)[None] % max(1, vocabulary)
        try:
            whole, part = self.run(ids).float(), self.run(ids[:, : PROBE // 2]).float()
        except Exception as error:  # what a foreign forward pass raises on inputs it does not take
            raise UnsupportedModel(
                f"{self.kind!r} cannot be run on ids alone ({type(error).__name__}: {one_line(error)}); {SUPPORTED}"
            ) from error
        if (whole[:, : PROBE // 2] - part).abs().max() > rounding(self.dtype) * whole.abs().max():
            raise UnsupportedModel(f"{self.kind!r} looks ahead: later tokens change earlier logits; {SUPPORTED}")
        return int(whole.shape[-1])


def rounding(dtype: torch.dtype) -> float:
    """Largest difference between two ways to compute logits, relative to the largest one, that rounding may explain."""
    return _ROUNDING.get(dtype, 5e-2)


def load(path: str | Path, dtype: torch.dtype = torch.float32, note: str = "") -> GenericModel:
    """Opens a folder that ``save_pretrained`` wrote, of any causal language model transformers knows.

    No code of the folder is run.

    Raises:
        UnsupportedModel: transformers does not know the architecture, or it is no causal language model.
        CheckpointError: a file is missing or damaged, or tensors are missing, unexpected or of the wrong shape.
    """
    from transformers import AutoConfig, AutoModelForCausalLM  # slow import, needed for this path only

    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint directory at {str(folder)!r}; give the directory that holds {CONFIG!r}")
    kind = read_json(folder / CONFIG).get("model_type")
    weight_files(folder)  # says what is missing
    try:
        config = cast("Any", AutoConfig).from_pretrained(str(folder), local_files_only=True)
        if type(config) not in cast("Any", AutoModelForCausalLM)._model_mapping:
            raise UnsupportedModel(f"{folder}: {kind!r} is no causal language model; {SUPPORTED}")
        with _quietly():
            found = cast("Any", AutoModelForCausalLM).from_pretrained(
                str(folder), config=config, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except CheckpointError:
        raise
    except Exception as error:  # the loaders raise anything from KeyError to an exception of the Rust core
        unknown = "does not recognize this architecture" in str(error)
        wrong = UnsupportedModel if unknown else CheckpointError
        advice = SUPPORTED if unknown else "copy or save the checkpoint again"
        raise wrong(
            f"{folder}: transformers cannot load {kind!r} ({type(error).__name__}: {one_line(error)}); {advice}"
        ) from error
    model, info = found
    wrong = {
        name: sorted(map(str, info[name])) for name in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[name]
    }
    if wrong:
        said = ", ".join(f"{name.replace('_keys', '')} tensors {names[:5]!r} ({len(names)})" for name, names in wrong.items())
        raise CheckpointError(f"{folder}: {CONFIG} and weights disagree; {said}; save the model again with save_pretrained")
    return GenericModel(model, note)


def save(model: GenericModel, path: str | Path, *, dtype: torch.dtype | None = None, shard_bytes: int | None = None) -> None:
    """Writes the folder that transformers writes for the model.

    Args:
        model: what to save.
        path: directory, made if missing.
        dtype: type of the saved weights; None keeps the model's own.
        shard_bytes: largest size of a file; None means one file.
    """
    inner = model.model if dtype in (None, model.dtype) else deepcopy(model.model).to(dtype)
    size: object = shard_bytes if shard_bytes is not None else 1 << 62
    with _quietly():
        cast("Any", inner).save_pretrained(str(path), max_shard_size=size)


def _groups(paths: Sequence[NDArray[np.int64]]) -> list[list[NDArray[np.int64]]]:
    """Paths of similar length together; they come longest first."""
    groups: list[list[NDArray[np.int64]]] = []
    used = 0
    for path in paths:
        if groups and len(path) + used >= (1 - WASTE) * (len(groups[-1]) + 1) * len(groups[-1][0]):
            groups[-1].append(path)
            used += len(path)
        else:
            groups.append([path])
            used = len(path)
    return groups


def _moved(index: NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.as_tensor(index, device=like.device)


@contextmanager
def _quietly() -> Generator[None]:
    """Without transformers' progress bars, which belong to its own command lines."""
    from transformers.utils import logging

    shown = bool(cast("Any", logging).is_progress_bar_enabled())
    cast("Any", logging).disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            cast("Any", logging).enable_progress_bar()
