"""A factory of small Qwen3-architecture decoders with seeded random weights."""

from __future__ import annotations

import torch
from msgspec import Struct
from torch import nn

from phronesis.errors import ConfigError
from phronesis.models.config import DecoderConfig
from phronesis.models.decoder import Decoder
from phronesis.seeding import stream


class TinyModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes and initialisation of a small decoder."""

    width: int = 128
    """Size of the residual stream."""
    layers: int = 4
    """Number of blocks."""
    heads: int = 4
    """Query heads."""
    kv_heads: int = 2
    """Key and value heads; divides `heads`."""
    head_dim: int = 32
    """Size of one head, even."""
    mlp_width: int = 384
    """Inner size of the gated MLP."""
    max_positions: int = 1024
    """Longest sequence, in tokens."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    tied: bool = True
    """True when the output head is the embedding."""
    embed_std: float = 0.02
    """Standard deviation of the embedding; larger values make copying easier to learn."""
    matrix_std: float = 0.02
    """Standard deviation of all other matrices."""


def tiny(config: TinyModel, vocab_size: int, seed: int) -> Decoder:
    """A fp32 decoder of the Qwen3 architecture; equal arguments give equal weights.

    Raises:
        ConfigError: a size below 1, kv_heads that do not divide heads, or an odd head size.
    """
    sizes = {f: getattr(config, f) for f in ("width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "max_positions")}
    for name, value in {**sizes, "vocab_size": vocab_size}.items():
        if value < 1:
            raise ConfigError(f"model.{name} must be at least 1, got {value!r}")
    decoder = Decoder(
        DecoderConfig(
            architecture="qwen3",
            vocab_size=vocab_size,
            tied=config.tied,
            rope={"rope_type": "default", "rope_theta": config.rope_theta},
            **sizes,
        )
    )
    generator = torch.Generator()
    for name, parameter in decoder.named_parameters():
        if parameter.dim() == 1:
            nn.init.ones_(parameter)
            continue
        generator.manual_seed(stream(seed, "weights", name))
        std = config.embed_std if parameter is decoder.embed or parameter is decoder.untied_head else config.matrix_std
        nn.init.normal_(parameter, std=std, generator=generator)
    return decoder
