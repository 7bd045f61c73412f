"""The engine's log-probabilities agree with transformers' forward pass, compiled and in PyTorch."""

from __future__ import annotations

import asyncio

import pytest
import torch
import transformers

from phronesis.engine.embedded import EmbeddedEngine, EngineConfig
from phronesis.models.checkpoint import load
from phronesis.policy import SamplingParams

SIZES = {
    "vocab_size": 83,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
}
CASES = {
    "Qwen2": {},
    "Qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "Llama": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4},
}


@pytest.mark.parametrize("native", [True, False], ids=["native", "pytorch"])
@pytest.mark.parametrize("family", CASES)
def test_logprobs_and_entropies_agree_with_transformers(family, native, tmp_path):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **CASES[family]})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    model.save_pretrained(tmp_path)
    engine = EmbeddedEngine(load(tmp_path), EngineConfig(native=native))
    prompts = [(1,), tuple(range(40)), tuple(range(82, 2, -1)) * 4, (7, 7)]

    async def crowd():
        return await asyncio.gather(*[engine.sample(p, SamplingParams(max_tokens=40, seed=i)) for i, p in enumerate(prompts)])

    for prompt, got in zip(prompts, asyncio.run(crowd()), strict=True):
        whole = torch.tensor([[*prompt, *got.ids]])
        with torch.no_grad():
            logp = model(whole).logits[0].log_softmax(-1)
        expected = logp[:-1].gather(1, whole[0, 1:, None])[:, 0]
        assert (torch.tensor(got.logprobs) - expected[len(prompt) - 1 :]).abs().max() < 1e-4
        entropy = -(logp.exp() * logp).sum(-1)[len(prompt) - 1 : -1]
        assert (torch.tensor(got.entropies) - entropy).abs().max() < 1e-4
        scores = asyncio.run(engine.score(whole[0].tolist()))
        assert (torch.tensor(scores) - expected).abs().max() < 1e-4
