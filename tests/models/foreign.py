"""Small random models of architectures the compact decoder does not compute."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    # learned positions, transposed matrices
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 96},
    # parallel attention and MLP, partial rotary
    "gpt_neox": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    # capped logits, a window of four tokens in every second layer
    "gemma2": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "intermediate_size": 32, "sliding_window": 4, "final_logit_softcapping": 3.0,
    },
    "phi": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    # linear biases instead of positions
    "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
    # recurrent: no cache that could be cut back
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}  # fmt: skip


def make(kind: str, vocab_size: int = 50, seed: int = 0, **changes):
    """A random model of transformers whose weights are away from their initial values."""
    torch.manual_seed(seed)
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = AutoConfig.for_model(kind, vocab_size=vocab_size, **none, **{**SIZES[kind], **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model
