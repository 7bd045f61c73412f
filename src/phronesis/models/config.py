"""What a decoder is made of: sizes and variants of one architecture, independent of any library."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Architecture = Literal["qwen2", "qwen3", "llama"]
RopeValue = str | float | int | bool | list[float] | None


class DecoderConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of a decoder-only transformer of the Qwen2, Qwen3 or Llama family."""

    architecture: Architecture
    """Family; decides the names of saved tensors and the variant: qwen2 has biases on q/k/v, qwen3 normalises q and k."""
    vocab_size: int
    """Rows of the embedding."""
    width: int
    """Size of the residual stream."""
    layers: int
    """Number of blocks."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads; divides `heads`."""
    head_dim: int
    """Size of one head, even."""
    mlp_width: int
    """Inner size of the gated MLP."""
    max_positions: int
    """Longest sequence the model was made for, in tokens."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMSNorm."""
    tied: bool = False
    """True when the output head is the embedding."""
    attention_bias: bool = False
    """True when q, k, v and the attention's output have biases (qwen2 always has those of q, k, v alone)."""
    mlp_bias: bool = False
    """True when the MLP's matrices have biases (llama only)."""
    rope: dict[str, RopeValue] = {}
    """Rotary parameters as transformers names them: ``rope_type``, ``rope_theta``, and what the type needs."""
    bos_id: int | None = None
    """Id that begins a text; None when there is none."""
    eos_ids: tuple[int, ...] = ()
    """Ids that end a text."""
    pad_id: int | None = None
    """Id for padding; None when there is none."""

    @property
    def qk_norm(self) -> bool:
        """True when queries and keys are normalised per head."""
        return self.architecture == "qwen3"

    @property
    def qkv_bias(self) -> bool:
        """True when q, k and v have biases."""
        return self.architecture == "qwen2" or self.attention_bias

    @property
    def o_bias(self) -> bool:
        """True when the attention's output has a bias."""
        return self.architecture != "qwen2" and self.attention_bias
