"""The decoder agrees with transformers; packing, forests and checkpoints change nothing."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from phronesis.errors import CheckpointError, ConfigError
from phronesis.models.checkpoint import load, save
from phronesis.models.decoder import Decoder
from phronesis.models.layout import plan
from phronesis.models.tiny import TinyModel, tiny

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}
CASES = {
    "qwen2": ("Qwen2", {"tie_word_embeddings": False}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3-untied-bias": ("Qwen3", {"head_dim": 8, "tie_word_embeddings": False, "attention_bias": True}),
    "qwen3-yarn": ("Qwen3", {"head_dim": 16, "rope_parameters": YARN}),
    "llama": ("Llama", {}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3-rope": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-linear": ("Llama", {"rope_parameters": LINEAR, "num_key_value_heads": 4}),
}


def reference(case: str):
    family, extra = CASES[case]
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **extra})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.15)  # biases and norms away from their initial values
    return model


def run(decoder: Decoder, ids: list[list[int]]) -> list[torch.Tensor]:
    layout = plan([len(x) for x in ids], [None] * len(ids))
    hidden = decoder.hidden(torch.tensor([i for x in ids for i in x]), layout)
    return list(decoder.logits(hidden).split([len(x) for x in ids]))


@pytest.mark.parametrize("case", CASES)
def test_logits_of_a_saved_model_agree_with_transformers_and_back(case, tmp_path):
    model = reference(case)
    model.save_pretrained(tmp_path / "hf")
    decoder = load(tmp_path / "hf")
    ids = [[5, 9, 2, 44, 60, 0, 7, 7, 3, 21, 33, 12, 8, 50, 1, 1, 30, 29, 40], [3], [8, 8, 1, 60]]
    with torch.no_grad():
        ours = run(decoder, ids)
        theirs = [model(torch.tensor([x])).logits[0] for x in ids]
    for a, b in zip(ours, theirs, strict=True):
        assert (a.log_softmax(-1) - b.log_softmax(-1)).abs().max() < 1e-4
    save(decoder, tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    assert type(again) is type(model)
    with torch.no_grad():
        for x, b in zip(ids, theirs, strict=True):
            assert torch.equal(again(torch.tensor([x])).logits[0], b)
    assert {p.name for p in (tmp_path / "ours").iterdir()} == {"config.json", "model.safetensors"}
    fields = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert fields["architectures"] == [type(model).__name__]


def test_sharded_checkpoints_load_and_saving_over_them_leaves_one_file(tmp_path):
    model = reference("llama")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    decoder = load(tmp_path)
    with torch.no_grad():
        expected = model(torch.tensor([[1, 2, 3]])).logits[0]
        assert (run(decoder, [[1, 2, 3]])[0] - expected).abs().max() < 1e-4
    save(decoder, tmp_path)
    assert not list(tmp_path.glob("model-*"))
    assert torch.equal(load(tmp_path).embed, decoder.embed)


def paths(lengths, parents):
    """Token indices of every segment's path, the slow way."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    out = []
    for i in range(len(lengths)):
        chain, at = [], i
        while at is not None:
            chain.append(at)
            at = parents[at]
        out.append([starts[s] + k for s in reversed(chain) for k in range(lengths[s])])
    return out


@st.composite
def forests(draw):
    n = draw(st.integers(1, 9))
    lengths = draw(st.lists(st.integers(1, 12), min_size=n, max_size=n))
    parents = [None if i == 0 else draw(st.one_of(st.none(), st.integers(0, i - 1))) for i in range(n)]
    return lengths, parents


@pytest.fixture(scope="module")
def small() -> Decoder:
    return tiny(
        TinyModel(width=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=48, matrix_std=0.2, embed_std=1.0), 50, 3
    )


@settings(max_examples=40, deadline=None)
@given(forest=forests(), seed=st.integers(0, 999))
def test_every_path_of_a_packed_forest_equals_its_own_sequence(small, forest, seed):
    lengths, parents = forest
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 50, (sum(lengths),), generator=g)
    layout = plan(lengths, parents)
    with torch.no_grad():
        packed = small.hidden(ids, layout)
        for path in paths(lengths, parents):
            assert layout.positions_N[path].tolist() == list(range(len(path)))
            alone = small.hidden(ids[path], plan([len(path)], [None]))
            torch.testing.assert_close(packed[path], alone, rtol=1e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(forest=forests())
def test_gradients_of_a_forest_are_the_sum_over_its_paths(small, forest):
    lengths, parents = forest
    ids = torch.arange(sum(lengths)) % 50
    every = paths(lengths, parents)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    small.zero_grad()
    weights = torch.linspace(-1, 1, small.config.width)
    (small.hidden(ids, plan(lengths, parents)) @ weights).sum().backward()
    packed = {n: p.grad.clone() for n, p in small.named_parameters()}
    small.zero_grad()
    for i, path in enumerate(every):  # each segment's own tokens count once
        own = slice(path.index(starts[i]), len(path))
        (small.hidden(ids[path], plan([len(path)], [None]))[own] @ weights).sum().backward()
    for n, p in small.named_parameters():
        torch.testing.assert_close(packed[n], p.grad, rtol=2e-3, atol=2e-4 * max(1.0, float(p.grad.abs().max())))


def test_checkpointing_gives_the_same_gradient_bit_for_bit(small):
    ids, layout = torch.arange(20), plan([8, 7, 5], [None, 0, 0])
    grads = []
    for flag in (False, True):
        small.zero_grad()
        small.logits(small.hidden(ids, layout, checkpointing=flag)).log_softmax(-1)[:, 3].sum().backward()
        grads.append([p.grad.clone() for p in small.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_hand_computed_attention():
    # One head of size 2, keys are zero, so every token averages the values it may see.
    layout = plan([2, 1, 1], [None, 0, 0])
    v = torch.tensor([[1.0, 0.0], [3.0, 0.0], [8.0, 0.0], [0.0, 6.0]])[:, None]
    out = layout.attend(torch.randn(4, 1, 2), torch.cat([torch.zeros(4, 1, 2), v], 1))
    assert torch.allclose(out, torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [4 / 3, 2.0]]))


def test_plans_refuse_impossible_forests():
    for lengths, parents in (([], []), ([0], [None]), ([2, 2], [None]), ([2, 2], [1, None]), ([1], [0])):
        with pytest.raises(ConfigError):
            plan(lengths, parents)


def test_chains_are_merged_into_one_unit():
    layout = plan([3, 2, 4], [None, 0, 1])
    assert len(layout.buckets) == 1
    assert layout.buckets[0].mask is None and layout.queries is None and layout.keys is None


def test_tiny_is_a_function_of_its_arguments():
    a, b, c = (tiny(TinyModel(width=16, layers=1, embed_std=0.2), 30, s) for s in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.embed, c.embed)
    assert abs(float(a.embed.detach().std()) - 0.2) < 0.03
    assert abs(float(a.blocks[0].gate_up.detach().std()) - 0.02) < 0.002
    with pytest.raises(ConfigError, match=r"model\.width"):
        tiny(TinyModel(width=0), 30, 0)
    with pytest.raises(ConfigError, match="kv_heads"):
        tiny(TinyModel(kv_heads=3), 30, 0)


def test_bfloat16_is_close_to_float32(tmp_path):
    model = reference("qwen3")
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        full, half = run(load(tmp_path), [[1, 2, 3, 4]])[0], run(load(tmp_path, torch.bfloat16), [[1, 2, 3, 4]])[0]
    assert half.dtype == torch.float32
    assert (full - half).abs().max() < 0.15 * full.abs().max()


def broken(tmp_path, change):
    reference("qwen3").save_pretrained(tmp_path)
    change(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    return str(caught.value)


def edit(**changes):
    def change(folder):
        fields = json.loads((folder / "config.json").read_text())
        fields.update(changes)
        (folder / "config.json").write_text(json.dumps(fields))

    return change


def truncate(folder):
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[: len(raw) // 2])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "is missing"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "JSON object"),
        (lambda f: (f / "model.safetensors").unlink(), "neither"),
        (lambda f: (f / "model.safetensors").write_bytes(b"nonsense"), "corrupt or truncated"),
        (truncate, "corrupt or truncated"),
        (edit(model_type="gpt2"), "'gpt2' is not supported"),
        (edit(architectures=["Qwen3ForSequenceClassification"]), "not a language model"),
        (edit(hidden_size=64), "different models"),
        (edit(num_hidden_layers=3, layer_types=None), "missing tensors"),
        (edit(num_hidden_layers=1, layer_types=None), "unexpected tensors"),
        (edit(hidden_act="relu"), "activation 'relu'"),
        (edit(use_sliding_window=True, sliding_window=8, max_window_layers=0, layer_types=None), "sliding-window"),
        (edit(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), "rotary"),
        (edit(vocab_size="many"), "config"),
    ],
)
def test_broken_checkpoints_say_what_is_wrong(tmp_path, change, says):
    assert says in broken(tmp_path, change)


def test_a_missing_directory_and_a_missing_shard(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        load(tmp_path / "nowhere")
    reference("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    sorted(tmp_path.glob("model-*.safetensors"))[0].unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load(tmp_path)
