"""A decoder's config as transformers writes it, and back: the only file that knows transformers' config classes.

transformers is imported when a checkpoint is read or written, never to run a model.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
import torch

from phronesis.errors import CheckpointError, UnsupportedModel
from phronesis.models.config import Architecture, DecoderConfig, RopeValue

CLASSES: dict[Architecture, str] = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
"""Name of the transformers model class of each family."""

STATIC_ROPE = ("default", "linear", "yarn", "llama3")
"""Rotary types whose frequencies do not depend on the length of the sequence."""


def to_fields(config: DecoderConfig, dtype: str = "float32") -> dict[str, object]:
    """The fields of ``config.json`` for this decoder."""
    fields: dict[str, object] = {
        "architectures": [CLASSES[config.architecture]],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "rope_parameters": dict(config.rope),
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.eos_ids) if len(config.eos_ids) > 1 else next(iter(config.eos_ids), None),
        "pad_token_id": config.pad_id,
        "dtype": dtype,
        "use_cache": True,
    }
    if config.architecture != "qwen2":
        fields["attention_bias"] = config.attention_bias
    if config.architecture == "llama":
        fields["mlp_bias"] = config.mlp_bias
    return fields


def from_fields(fields: dict[str, object], where: str) -> DecoderConfig:
    """Reads the fields of a ``config.json``.

    Args:
        fields: the parsed file; also older forms (``rope_theta``, ``rope_scaling``), which transformers translates.
        where: the file's name for messages.

    Raises:
        UnsupportedModel: another architecture, or a variant that this library does not compute exactly.
        CheckpointError: fields that are no config.
    """
    kind = fields.get("model_type")
    if kind not in CLASSES:
        raise UnsupportedModel(f"{where}: model_type {kind!r} is not supported; use a checkpoint of {', '.join(CLASSES)}")
    if "quantization_config" in fields:
        raise UnsupportedModel(f"{where}: quantised weights are not supported; use the checkpoint in bfloat16 or float32")
    names = cast("list[str]", fields.get("architectures") or [CLASSES[kind]])
    if names != [CLASSES[kind]]:
        raise UnsupportedModel(f"{where}: architecture {names!r} is not a language model; expected {CLASSES[kind]!r}")
    from transformers import AutoConfig  # slow import, needed for checkpoints only

    try:
        hf = cast("Any", AutoConfig).for_model(**fields)
    except Exception as error:  # transformers validates with many exception types
        raise CheckpointError(f"{where}: transformers refuses this config: {error}") from error
    sliding = any(t != "full_attention" for t in getattr(hf, "layer_types", None) or ())
    if sliding and getattr(hf, "sliding_window", None) is not None:
        raise UnsupportedModel(f"{where}: sliding-window attention is not supported; choose a checkpoint with full attention")
    if hf.hidden_act != "silu":
        raise UnsupportedModel(f"{where}: activation {hf.hidden_act!r} is not supported; expected 'silu'")
    rope = cast("dict[str, RopeValue]", dict(hf.rope_parameters or {}))
    if rope.get("rope_type", "default") not in STATIC_ROPE or "partial_rotary_factor" in rope:
        raise UnsupportedModel(
            f"{where}: rotary parameters {rope!r} are not supported; supported types: {', '.join(STATIC_ROPE)}"
        )
    eos = hf.eos_token_id
    values = {
        "architecture": kind,
        "vocab_size": hf.vocab_size,
        "width": hf.hidden_size,
        "layers": hf.num_hidden_layers,
        "heads": hf.num_attention_heads,
        "kv_heads": hf.num_key_value_heads,
        "head_dim": getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads,
        "mlp_width": hf.intermediate_size,
        "max_positions": hf.max_position_embeddings,
        "norm_eps": hf.rms_norm_eps,
        "tied": bool(hf.tie_word_embeddings),
        "attention_bias": bool(getattr(hf, "attention_bias", False)),
        "mlp_bias": bool(getattr(hf, "mlp_bias", False)),
        "rope": rope,
        "bos_id": hf.bos_token_id,
        "eos_ids": () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos),
        "pad_id": hf.pad_token_id,
    }
    try:
        return msgspec.convert(values, DecoderConfig)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{where}: {error}; repair the file or save the checkpoint again") from error


def frequencies(config: DecoderConfig) -> tuple[torch.Tensor, float]:
    """Rotary frequencies `[head_dim / 2]` in radians per position, and the factor on cosines and sines.

    The plain type is computed here (theta^(-2i/d), arXiv 2104.09864); scaled types by transformers' own functions.
    """
    kind = config.rope.get("rope_type", "default")
    if kind == "default":
        theta = float(cast("float", config.rope.get("rope_theta", 10000.0)))
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return 1.0 / (theta**exponents), 1.0
    if kind not in STATIC_ROPE:
        raise CheckpointError(f"rotary type {kind!r} is not supported; supported types: {', '.join(STATIC_ROPE)}")
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    hf = cast("Any", AutoConfig).for_model(**to_fields(config))
    inv_freq, factor = ROPE_INIT_FUNCTIONS[cast("str", kind)](hf)
    return inv_freq.float(), float(factor)
