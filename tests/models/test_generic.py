"""Models of other architectures: packed forests, gradients and files, all through transformers' own forward pass."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from foreign import SIZES, make
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from phronesis.errors import CheckpointError, UnsupportedModel
from phronesis.models import checkpoint, generic
from phronesis.models.decoder import Decoder
from phronesis.models.generic import UNBOUNDED, GenericModel
from phronesis.models.layout import plan
from phronesis.models.opening import open_model, save_model
from phronesis.models.tiny import TinyModel, tiny


def paths(lengths, parents):
    """Token indices of every segment's path."""
    starts, out = [sum(lengths[:i]) for i in range(len(lengths))], []
    for i in range(len(lengths)):
        own = list(range(starts[i], starts[i] + lengths[i]))
        out.append(own if parents[i] is None else out[parents[i]] + own)
    return out


@st.composite
def forests(draw):
    n = draw(st.integers(1, 8))
    lengths = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    return lengths, [None if i == 0 else draw(st.one_of(st.none(), st.integers(0, i - 1))) for i in range(n)]


@pytest.fixture(scope="module")
def models():
    return {kind: GenericModel(make(kind)) for kind in SIZES}


@pytest.mark.parametrize("kind", SIZES)
@settings(max_examples=8, deadline=None)
@given(forest=forests(), seed=st.integers(0, 99))
def test_every_path_of_a_packed_forest_gives_the_logits_of_its_own_sequence(models, kind, forest, seed):
    lengths, parents = forest
    model = models[kind]
    ids = torch.randint(0, 50, (sum(lengths),), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        packed = model.logits(model.hidden(ids, plan(lengths, parents)))
        for path in paths(lengths, parents):
            alone = model.model(input_ids=ids[path][None], use_cache=False).logits[0]
            torch.testing.assert_close(packed[path], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_a_forest_are_the_sum_over_its_segments(models, kind, checkpointing):
    model, lengths, parents = models[kind], [5, 3, 4, 2, 6], [None, 0, 0, 1, None]
    ids = torch.arange(sum(lengths)) * 7 % 50
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    model.zero_grad()
    model.logits(model.hidden(ids, plan(lengths, parents), checkpointing)).log_softmax(-1)[:, 3].sum().backward()
    packed = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    for start, path in zip(starts, paths(lengths, parents), strict=True):  # each segment's own tokens count once
        logp = model.model(input_ids=ids[path][None], use_cache=False).logits[0].log_softmax(-1)
        logp[path.index(start) :, 3].sum().backward()
    for n, p in model.named_parameters():
        torch.testing.assert_close(packed[n], p.grad, rtol=1e-3, atol=1e-4 * max(1.0, float(p.grad.abs().max())))


@pytest.mark.parametrize("kind", SIZES)
def test_folders_go_in_and_out(tmp_path, kind):
    theirs = make(kind)
    theirs.save_pretrained(tmp_path / "in")
    model = open_model(tmp_path / "in")
    assert isinstance(model, GenericModel) and f"'{kind}' is not supported" in model.note
    assert (model.vocab_size, model.max_positions) == (50, getattr(theirs.config, "max_position_embeddings", None) or UNBOUNDED)
    save_model(model, tmp_path / "out", dtype=torch.bfloat16, shard_bytes=5000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    expected = theirs.to(torch.bfloat16).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in again.state_dict().items()) and again.dtype == torch.bfloat16
    assert model.dtype == torch.float32  # saving in another type changes nothing here


def test_the_generic_path_can_be_asked_for_and_agrees_with_the_compact_decoder(tmp_path):
    config = transformers.Qwen3Config(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    fast, slow = open_model(tmp_path), open_model(tmp_path, True)
    assert isinstance(fast, Decoder) and fast.note == "" and isinstance(slow, GenericModel) and slow.note
    ids, layout = torch.arange(15), plan([6, 5, 4], [None, 0, 0])
    with torch.no_grad():
        one, two = (m.logits(m.hidden(ids, layout)).log_softmax(-1) for m in (fast, slow))
    assert (one - two).abs().max() < 1e-4
    with pytest.raises(UnsupportedModel, match=r"Leave model\.generic out"):
        make("gpt2").save_pretrained(tmp_path / "other")
        open_model(tmp_path / "other", False)


def test_what_is_no_causal_language_model_is_refused_with_the_list_of_what_is(tmp_path):
    bert = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, pad_token_id=None
    )
    with pytest.raises(UnsupportedModel, match=r"'bert' looks ahead.*qwen2, qwen3, llama; any other causal"):
        GenericModel(transformers.BertLMHeadModel(bert))
    t5 = transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(t5).save_pretrained(tmp_path / "t5")
    with pytest.raises(UnsupportedModel, match=r"'t5' is no causal language model; computed directly: qwen2, qwen3, llama"):
        open_model(tmp_path / "t5")
    fields = json.loads((tmp_path / "t5" / "config.json").read_text())
    (tmp_path / "t5" / "config.json").write_text(json.dumps({**fields, "model_type": "no_such_model"}))
    with pytest.raises(UnsupportedModel, match=r"'no_such_model'.*qwen2, qwen3, llama"):
        open_model(tmp_path / "t5")


def drop(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("transformer.h.1.ln_1.weight")
    save_file(tensors, file, metadata={"format": "pt"})


def tear(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (drop, r"missing tensors \['transformer.h.1.ln_1.weight'\] \(1\)"),
        (tear, "copy or save the checkpoint again"),
        (lambda f: (f / "model.safetensors").unlink(), "neither"),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    ],
)
def test_broken_folders_are_not_filled_up_silently(tmp_path, spoil, says):
    make("gpt2").save_pretrained(tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=says) as caught:
        generic.load(tmp_path)
    assert not isinstance(caught.value, UnsupportedModel) and str(tmp_path) in str(caught.value)


def test_a_decoder_is_saved_by_its_own_means(tmp_path):
    decoder = tiny(TinyModel(width=16, layers=1), 30, 0)
    save_model(decoder, tmp_path)
    assert torch.equal(checkpoint.load(tmp_path).embed, decoder.embed)
