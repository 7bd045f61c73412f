"""Checkpoints go in and out of `save_pretrained` folders without losing a bit, a file or a name."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from phronesis.errors import CheckpointError, ConfigError, UnsupportedModel
from phronesis.models.checkpoint import load, save
from phronesis.models.files import COMPANIONS, carry, read_headers, weight_files
from phronesis.models.layout import plan
from phronesis.models.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def theirs(family="Llama", dtype=torch.float32, seed=0, **sizes):
    """A random model of transformers."""
    torch.manual_seed(seed)
    base = {
        "vocab_size": 53, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0,
    }  # fmt: skip
    config = getattr(transformers, f"{family}Config")(**{**base, **sizes})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model.to(dtype)


@st.composite
def shapes(draw):
    family = draw(st.sampled_from(["Llama", "Qwen2", "Qwen3"]))
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    heads, head_dim = kv_heads * draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([4, 8, 16]))
    sizes = {
        "vocab_size": draw(st.integers(11, 90)),
        "hidden_size": heads * (head_dim if family == "Qwen2" else draw(st.sampled_from([4, 6, 10]))),
        "intermediate_size": draw(st.integers(3, 50)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "tie_word_embeddings": draw(st.booleans()),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
        "rope_parameters": {"rope_type": "default", "rope_theta": draw(st.sampled_from([1e4, 5e5]))},
    }
    if family != "Qwen2":
        sizes |= {"attention_bias": draw(st.booleans()), "head_dim": head_dim}
    if family == "Llama":
        sizes |= {"mlp_bias": draw(st.booleans())}
    return family, sizes, draw(st.sampled_from(sorted(TYPES))), draw(st.sampled_from([None, 2000]))


@settings(max_examples=12, deadline=None)
@given(shape=shapes(), seed=st.integers(0, 99))
def test_a_round_trip_keeps_logits_and_every_bit(shape, seed, tmp_path_factory):
    family, sizes, kind, shard = shape
    dtype, folder = TYPES[kind], tmp_path_factory.mktemp("model")
    model = theirs(family, dtype, seed, **sizes)
    model.save_pretrained(folder / "theirs", max_shard_size="4KB" if shard else "1GB")
    assert len(weight_files(folder / "theirs")) > 1 if shard else True
    decoder = load(folder / "theirs")
    ids = torch.randint(0, sizes["vocab_size"], (9,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        ours = decoder.logits(decoder.hidden(ids, plan([9], [None]))).log_softmax(-1)
        reloaded = transformers.AutoModelForCausalLM.from_pretrained(folder / "theirs", dtype=torch.float32)
        expected = reloaded(ids[None]).logits[0].log_softmax(-1)
    assert (ours - expected).abs().max() < 2e-4
    save(decoder, folder / "ours", dtype=dtype, shard_bytes=shard)
    assert (len(weight_files(folder / "ours")) > 1) == (shard is not None)
    again, info = transformers.AutoModelForCausalLM.from_pretrained(folder / "ours", output_loading_info=True)
    assert not any(info.values()), info
    assert again.dtype == dtype and type(again) is type(model)
    original = transformers.AutoModelForCausalLM.from_pretrained(folder / "theirs").state_dict()
    mine = again.state_dict()
    assert mine.keys() == original.keys()
    assert all(torch.equal(mine[name], original[name]) for name in mine)
    for field in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "max_position_embeddings"):
        assert getattr(again.config, field) == getattr(model.config, field), field


def test_shards_hold_whole_tensors_up_to_the_size_and_the_index_names_them(tmp_path):
    model = theirs()
    model.save_pretrained(tmp_path / "in")
    decoder = load(tmp_path / "in")
    save(decoder, tmp_path, shard_bytes=8192)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert files == [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in range(1, len(files) + 1)]
    places = {h.name: p.name for p in weight_files(tmp_path) for h in read_headers(p)}
    assert places == index["weight_map"]
    assert index["metadata"]["total_size"] == sum(t.nbytes for p in weight_files(tmp_path) for t in load_file(p).values())
    for p in weight_files(tmp_path):
        tensors = load_file(p)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 8192
    again = load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), decoder.parameters(), strict=True))
    save(decoder, tmp_path, shard_bytes=20000)  # fewer files: the old ones go
    assert len(list(tmp_path.glob("*.safetensors"))) == len(weight_files(tmp_path)) < len(files)
    save(decoder, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "in", "model.safetensors"]


def test_companions_are_copied_byte_for_byte_and_nothing_else(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    theirs().save_pretrained(source)
    save_tokenizer(train_tokenizer(["to be or not to be"], 300), source)
    (source / "tokenizer_config.json").write_text((source / "tokenizer_config.json").read_text() + "\n\n")  # not as we write it
    (source / "generation_config.json").write_text('{"eos_token_id": [2,3],   "temperature": 0.6}')
    target.mkdir()
    copied = carry(source, target)
    assert sorted(copied) == sorted(p.name for p in target.iterdir())
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"} <= set(copied)
    assert set(copied) <= set(COMPANIONS)
    for name in copied:
        assert (source / name).read_bytes() == (target / name).read_bytes()
    assert load_tokenizer(target).encode("to be") == load_tokenizer(source).encode("to be")
    save(load(source), target)
    generation = transformers.GenerationConfig.from_pretrained(target)
    assert generation.eos_token_id == [2, 3] and generation.temperature == 0.6


def spoil(folder, change):
    """Changes the tensors of a single-file checkpoint."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.__setitem__(name, value)


NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop(NORM), ["missing tensors", NORM, "save the model again"]),
        (put("model.layers.1.surprise", torch.zeros(3)), ["unexpected tensors", "model.layers.1.surprise"]),
        (put(NORM, torch.zeros(5)), [NORM, "(5,)", "(32,)", "different models"]),
        (put(NORM, torch.zeros(32, dtype=torch.int8)), [NORM, "int8", "quantised", "bfloat16"]),
    ],
)
def test_wrong_tensors_are_named(tmp_path, change, says):
    theirs().save_pretrained(tmp_path)
    spoil(tmp_path, change)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert all(part in str(caught.value) for part in [*says, str(tmp_path)])


def test_a_tied_model_whose_weights_hold_another_head_is_refused(tmp_path):
    theirs(tie_word_embeddings=True).save_pretrained(tmp_path)
    embed = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    spoil(tmp_path, put("lm_head.weight", embed.clone()))
    assert torch.equal(load(tmp_path).head, embed)  # the same numbers twice are no contradiction
    spoil(tmp_path, put("lm_head.weight", embed + 1))
    with pytest.raises(CheckpointError, match="tie_word_embeddings to false"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "has no 'weight_map'"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "outside its directory"),
        ("{", "cannot be read"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, content, says):
    theirs().save_pretrained(tmp_path, max_shard_size="8KB")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        load(tmp_path)
    assert "model.safetensors.index.json" in str(caught.value)


def test_a_torn_shard_and_pickled_weights_say_what_to_do(tmp_path):
    theirs().save_pretrained(tmp_path, max_shard_size="8KB")
    torn = sorted(tmp_path.glob("model-*.safetensors"))[1]
    torn.write_bytes(torn.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=f"{torn.name} is corrupt or truncated"):
        load(tmp_path)
    for file in tmp_path.glob("model*"):
        file.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pickled weights; load it with transformers"):
        load(tmp_path)


def test_unsupported_architectures_are_told_apart_from_broken_files(tmp_path):
    transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9)).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="'gpt2' is not supported; use a checkpoint of qwen2, qwen3, llama"):
        load(tmp_path)
    theirs().save_pretrained(tmp_path / "quantised")
    fields = json.loads((tmp_path / "quantised" / "config.json").read_text())
    (tmp_path / "quantised" / "config.json").write_text(json.dumps({**fields, "quantization_config": {"bits": 4}}))
    with pytest.raises(UnsupportedModel, match="quantised"):
        load(tmp_path / "quantised")


def test_saving_refuses_types_that_are_no_weights(tmp_path):
    theirs().save_pretrained(tmp_path)
    decoder = load(tmp_path)
    with pytest.raises(ConfigError, match="int8"):
        save(decoder, tmp_path / "out", dtype=torch.int8)
    with pytest.raises(ConfigError, match="0"):
        save(decoder, tmp_path / "out", shard_bytes=0)
    assert not (tmp_path / "out").exists()
