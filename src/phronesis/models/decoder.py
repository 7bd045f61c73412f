"""The decoder: one compact module for Qwen2, Qwen3 and Llama, run on packed tokens without padding.

Shapes: N packed tokens, K selected tokens, D width, V vocabulary, H query heads, J key/value heads, E head size.
The linear layers and norms see `[N, D]`; only attention is gathered into rows, as `AttentionPlan` says.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from phronesis.errors import ConfigError
from phronesis.models.causal import LanguageModel
from phronesis.models.config import DecoderConfig
from phronesis.models.family import frequencies
from phronesis.models.kernels import gated, heads, rms_norm
from phronesis.models.layout import AttentionPlan


def _parameter(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape, dtype=dtype))


class Block(nn.Module):
    """One layer: attention and gated MLP, both with a norm before and a residual around.

    q, k and v are one matrix, gate and up another: fewer and larger products.
    """

    def __init__(self, config: DecoderConfig, dtype: torch.dtype):
        super().__init__()
        c = config
        self.config = c
        qkv, inner = (c.heads + 2 * c.kv_heads) * c.head_dim, c.heads * c.head_dim
        self.attn_norm = _parameter(c.width, dtype=dtype)
        self.qkv = _parameter(qkv, c.width, dtype=dtype)
        self.qkv_bias = _parameter(qkv, dtype=dtype) if c.qkv_bias else None
        self.q_norm = _parameter(c.head_dim, dtype=dtype) if c.qk_norm else None
        self.k_norm = _parameter(c.head_dim, dtype=dtype) if c.qk_norm else None
        self.o = _parameter(c.width, inner, dtype=dtype)
        self.o_bias = _parameter(c.width, dtype=dtype) if c.o_bias else None
        self.mlp_norm = _parameter(c.width, dtype=dtype)
        self.gate_up = _parameter(2 * c.mlp_width, c.width, dtype=dtype)
        self.gate_up_bias = _parameter(2 * c.mlp_width, dtype=dtype) if c.mlp_bias else None
        self.down = _parameter(c.width, c.mlp_width, dtype=dtype)
        self.down_bias = _parameter(c.width, dtype=dtype) if c.mlp_bias else None

    def forward(self, x_ND: Tensor, cos_N1E: Tensor, sin_N1E: Tensor, plan: AttentionPlan) -> Tensor:
        """The residual stream after this layer `[N, D]`."""
        c = self.config
        h_ND = rms_norm(x_ND, self.attn_norm, c.norm_eps)
        qkv = F.linear(h_ND, self.qkv, self.qkv_bias).view(-1, c.heads + 2 * c.kv_heads, c.head_dim)
        q_NHE, kv_NPE = heads(qkv, self.qk_scale(), cos_N1E, sin_N1E, c.heads, c.norm_eps)
        x_ND = add_linear(x_ND, plan.attend(q_NHE, kv_NPE), self.o, self.o_bias)
        h_ND = rms_norm(x_ND, self.mlp_norm, c.norm_eps)
        inner = gated(F.linear(h_ND, self.gate_up, self.gate_up_bias))
        return add_linear(x_ND, inner, self.down, self.down_bias)

    def qk_scale(self) -> Tensor | None:
        """Weights of the per-head norms `[H + J, E]`; None when there are none."""
        if self.q_norm is None or self.k_norm is None:
            return None
        return torch.cat([self.q_norm.expand(self.config.heads, -1), self.k_norm.expand(self.config.kv_heads, -1)])


def add_linear(x_ND: Tensor, h_NM: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x + h @ weightᵀ (+ bias) in as few passes as possible."""
    x_ND = torch.addmm(x_ND, h_NM, weight.t())
    return x_ND if bias is None else x_ND + bias


class Decoder(LanguageModel):
    """A decoder-only transformer. `hidden` runs packed sequences, `logits` reads the vocabulary where it is needed.

    A fresh instance has zero weights: `tiny` and `load` fill them.
    """

    def __init__(self, config: DecoderConfig, dtype: torch.dtype = torch.float32):
        super().__init__()
        if config.heads % config.kv_heads or config.head_dim % 2:
            raise ConfigError(f"kv_heads must divide heads and head_dim must be even, got {config!r}")
        self.config = config
        self.embed = _parameter(config.vocab_size, config.width, dtype=dtype)
        self.blocks = nn.ModuleList(Block(config, dtype) for _ in range(config.layers))
        self.final_norm = _parameter(config.width, dtype=dtype)
        self.untied_head = None if config.tied else _parameter(config.vocab_size, config.width, dtype=dtype)
        inv_freq, self.rope_factor = frequencies(config)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)

    @property
    def head(self) -> Tensor:
        """Output matrix `[V, D]`; the embedding itself when tied."""
        return self.embed if self.untied_head is None else self.untied_head

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> int:
        """Longest sequence the model was made for, in tokens."""
        return self.config.max_positions

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.embed.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.embed.device

    def rotary(self, positions_N: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines `[N, E]` of integer positions, in the weights' type (computed in fp32)."""
        angles = positions_N.float()[:, None] * self.inv_freq.float()
        cos, sin = angles.cos() * self.rope_factor, angles.sin() * self.rope_factor
        return torch.cat([cos, cos], -1).to(self.dtype), torch.cat([-sin, sin], -1).to(self.dtype)

    def hidden(self, ids_N: Tensor, plan: AttentionPlan, checkpointing: bool = False) -> Tensor:
        """Final normalised states of packed tokens.

        Args:
            ids_N: token ids `[N]`, in the order of the segments given to `plan`.
            plan: who attends to whom, on the decoder's device.
            checkpointing: True keeps only each layer's input and computes the rest again in the backward pass.

        Returns:
            `[N, D]` in the weights' type; row n predicts the token after token n on its path.
        """
        if ids_N.shape != (plan.tokens,):
            raise ConfigError(f"the plan is for {plan.tokens} tokens, got ids of shape {tuple(ids_N.shape)!r}")
        x_ND = F.embedding(ids_N, self.embed)
        cos, sin = self.rotary(plan.positions_N)
        cos, sin = cos[:, None], sin[:, None]
        for block in self.blocks:
            if checkpointing and torch.is_grad_enabled():
                x_ND = cast("Tensor", checkpoint(block, x_ND, cos, sin, plan, use_reentrant=False, preserve_rng_state=False))
            else:
                x_ND = cast("Tensor", block(x_ND, cos, sin, plan))
        return rms_norm(x_ND, self.final_norm, self.config.norm_eps)

    def logits(self, hidden_KS: Tensor) -> Tensor:
        """Logits `[K, V]` in fp32 for selected rows of `hidden`."""
        return F.linear(hidden_KS, self.head).float()
