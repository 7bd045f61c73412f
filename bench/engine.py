"""Sampling: the embedded engine against `transformers.generate` and against the machine's own bound, same weights.

python -m bench.engine ours|peer|bound WIDTH LAYERS
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from importlib.metadata import version

import torch
from transformers import Qwen3ForCausalLM

from bench.measure import Row, compare, pinned, repeat
from phronesis.engine.embedded import EmbeddedEngine
from phronesis.models.checkpoint import save
from phronesis.models.tiny import TinyModel, tiny
from phronesis.policy import SamplingParams

VOCABULARY, SEQUENCES, PROMPT, NEW, REPEATS = 1024, 64, 64, 64, 4
SIZES = {"64x4": (2, 32, 192, 5.0), "128x4": (4, 32, 384, 5.0), "192x6": (6, 32, 576, 5.0), "384x6": (6, 64, 1152, 3.5)}
"""Width x layers -> heads, head size, inner width of the MLP, times faster than `generate` to reach."""


def engine() -> list[Row]:
    """Tokens per CPU-second of 64 sequences, prompt 64, 64 new tokens; and the share of what matrix products alone allow."""
    rows: list[Row] = []
    for name, (*_, target) in SIZES.items():
        seen: dict[str, list[float]] = {side: json.loads(run(side, name)) for side in ("peer", "ours", "bound")}
        what = f"{SEQUENCES} sequences, prompt {PROMPT}, {NEW} new tokens, {name}, {parameters(name) / 1e6:.1f}M parameters"
        common = {"unit": "tokens per CPU-s", "better": "higher"}
        peer = f"transformers {version('transformers')} generate"
        rows.append(compare("engine", what, seen["ours"], seen["peer"], peer_name=peer, target=target, **common))
        bound = "fp32 products of the same sizes, nothing else"
        rows.append(
            compare("engine", f"share of the bound, {name}", seen["ours"], seen["bound"], peer_name=bound, target=0.5, **common)
        )
    return rows


def run(side: str, name: str) -> str:
    """One side in its own process, on the common core."""
    return pinned([sys.executable, "-m", "bench.engine", side, name]).strip().splitlines()[-1]


def sizes_of(name: str) -> TinyModel:
    """The model of a size."""
    heads, head_dim, inner, _ = SIZES[name]
    width, layers = map(int, name.split("x"))
    return TinyModel(width=width, layers=layers, heads=heads, kv_heads=heads, head_dim=head_dim, mlp_width=inner)


def parameters(name: str) -> int:
    """How many numbers the model has."""
    return sum(p.numel() for p in tiny(sizes_of(name), VOCABULARY, 0).parameters())


def ours(name: str) -> list[float]:
    """The embedded engine with everything a request costs: futures, admission, prefill, sampling, logprobs, entropies."""
    sampler = EmbeddedEngine(tiny(sizes_of(name), VOCABULARY, 0))

    async def everyone() -> None:
        prompts = [[(7 * i + t) % VOCABULARY for t in range(PROMPT)] for i in range(SEQUENCES)]
        await asyncio.gather(*[sampler.sample(p, SamplingParams(max_tokens=NEW, seed=i)) for i, p in enumerate(prompts)])
        sampler.advance()  # nothing stays cached for the next repeat

    return repeat(lambda: asyncio.run(everyone()), SEQUENCES * NEW, REPEATS)


def peer(name: str) -> list[float]:
    """`generate` on the same weights, sampling at temperature 1 from the whole vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        save(tiny(sizes_of(name), VOCABULARY, 0), folder)
        model = Qwen3ForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([[(7 * i + t) % VOCABULARY for t in range(PROMPT)] for i in range(SEQUENCES)])

    def everyone() -> None:
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            pad_token_id=0,
        )

    return repeat(everyone, SEQUENCES * NEW, REPEATS)


def bound(name: str) -> list[float]:
    """New tokens per CPU-second if every token, of the prompt too, cost its matrix products only, at the rate torch reaches."""
    model = tiny(sizes_of(name), VOCABULARY, 0)
    shapes = [tuple(p.shape) for n, p in model.named_parameters() if p.dim() == 2 and n != "embed"]
    weights = [torch.randn(*s) for s in [*shapes, (VOCABULARY, model.config.width)]]
    rows = {w.shape[1]: torch.randn(SEQUENCES, w.shape[1]) for w in weights}
    outs = [torch.empty(SEQUENCES, w.shape[0]) for w in weights]

    def products() -> None:
        for w, out in zip(weights, outs, strict=True):
            torch.mm(rows[w.shape[1]], w.t(), out=out)

    return repeat(lambda: [products() for _ in range(PROMPT + NEW)], SEQUENCES * NEW, REPEATS)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"ours": ours, "peer": peer, "bound": bound}[sys.argv[1]](sys.argv[2])))
