"""Where the tensors of a checkpoint lie inside the decoder's fused weights, by the names transformers gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

from torch import Tensor
from torch.nn import Parameter

from phronesis.models.decoder import Block, Decoder


class Slot(NamedTuple):
    """One tensor of a checkpoint."""

    name: str
    """As transformers calls it, e.g. ``model.layers.0.self_attn.q_proj.weight``."""
    parameter: Parameter
    """The decoder's parameter that holds it, alone or beside others."""
    rows: slice
    """Its part of the parameter's first axis."""

    @property
    def view(self) -> Tensor:
        """The tensor, sharing storage with the decoder: writing fills the decoder."""
        return self.parameter.detach()[self.rows]


_ALL = slice(None)


def slots(decoder: Decoder) -> Iterator[Slot]:
    """Every tensor of the decoder's checkpoint, in the order of its layers; q, k, v and gate, up come apart."""
    yield Slot("model.embed_tokens.weight", decoder.embed, _ALL)
    yield Slot("model.norm.weight", decoder.final_norm, _ALL)
    if decoder.untied_head is not None:
        yield Slot("lm_head.weight", decoder.untied_head, _ALL)
    for i, module in enumerate(decoder.blocks):
        for slot in _of_block(cast("Block", module)):
            yield slot._replace(name=f"model.layers.{i}.{slot.name}")


def _of_block(block: Block) -> Iterator[Slot]:
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
    for name, parameter in whole.items():
        if parameter is not None:
            yield Slot(name, parameter, _ALL)
    c = block.config
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    fused = {
        "self_attn.q_proj": (block.qkv, block.qkv_bias, slice(q)),
        "self_attn.k_proj": (block.qkv, block.qkv_bias, slice(q, q + kv)),
        "self_attn.v_proj": (block.qkv, block.qkv_bias, slice(q + kv, q + 2 * kv)),
        "mlp.gate_proj": (block.gate_up, block.gate_up_bias, slice(c.mlp_width)),
        "mlp.up_proj": (block.gate_up, block.gate_up_bias, slice(c.mlp_width, 2 * c.mlp_width)),
    }
    for name, (weight, bias, rows) in fused.items():
        yield Slot(f"{name}.weight", weight, rows)
        if bias is not None:
            yield Slot(f"{name}.bias", bias, rows)
